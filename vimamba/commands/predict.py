"""Label images or videos, find objects, or segment, as the checkpoint was trained to do.

vimamba predict photo.jpg folder --checkpoint runs/NAME/best.pth --picture out.png
vimamba predict --stream video.mp4 --checkpoint runs/NAME/best.pth
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from vimamba.cli import add_import, create_parser, find_device, interruptible, load_models
from vimamba.errors import UsageError, check_integers
from vimamba.outputs import check_output, write_json

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    parser = create_parser('predict', __doc__)
    add = parser.add_argument
    add('files', nargs='*', metavar='FILE_OR_FOLDER', help='images or videos, or folders of them')
    add('--stream', metavar='FILE', help='a video, frame by frame, with a causal model')
    add('--every', type=int, help='frames between the lines of --stream (default: 16)')
    add('--model', metavar='NAME', help='a model of timm or vimamba; a checkpoint of ours knows its own')
    add('--checkpoint', metavar='FILE', help='weights; without it, those published for the model')
    add('--topk', type=int, help='classes per file, of a classifier (default: 5)')
    add('--views', type=int, nargs=2, metavar=('CLIPS', 'CROPS'), help='of a video, to average (default: as trained)')
    add('--json', metavar='FILE', help='write the result to this file; - for the terminal, instead of a table')
    add('--maps', metavar='FOLDER', help="write each image's map of classes to this folder, as NAME.png (segmentation)")
    add('--picture', metavar='FILE.png', help='draw the files with what was found (the first 48)')
    add('--threshold', type=float, help='minimum score of a box (default: 0.5)')
    add('--device', default='auto', help='auto, cpu, cuda, mps (default: a GPU if there is one)')
    add('--batch-size', type=int, help='images, or frames of clips, at a time (default: 32)')
    add_import(parser)
    args = parser.parse_args(argv)
    if args.stream and args.files:
        raise UsageError(f'--stream: takes one video: leave {args.files[0]} out')
    for option in ('picture', 'maps', 'views', 'threshold', 'topk', 'batch_size') if args.stream else ('every',):
        if getattr(args, option) is not None:
            reason = 'a stream has none' if args.stream else 'of --stream alone'
            raise UsageError(f'--{option.replace("_", "-")}: {reason}: leave it out')
    counts = {'--topk': args.topk, '--every': args.every, '--batch-size': args.batch_size}
    check_integers(1, **{option: count for option, count in counts.items() if count is not None})
    for option in ('json', 'picture', 'maps'):
        if getattr(args, option) not in (None, '-'):
            check_output(f'--{option}', getattr(args, option), option == 'maps', option == 'picture')
    load_models(args.imports)
    broken = (_stream_file if args.stream else _label_files)(args, find_device(args.device))
    for error in broken:
        print(f'error: {error}', file=sys.stderr)
    return 1 if broken else 0


def _label_files(args: argparse.Namespace, device: Any) -> list[Any]:
    from vimamba.tasks.predict.files import predict_files
    from vimamba.visualize.samples import draw_answers

    options = {key: getattr(args, key) for key in ('topk', 'batch_size', 'threshold', 'views', 'maps')}
    said = predict_files(args.files, args.model, args.checkpoint, device=device, **options)
    if args.json != '-' and said.found:
        print(said.table())
    if args.json:
        write_json(args.json, {'model': said.name, 'checkpoint': args.checkpoint, **said.as_json()})
    if args.picture:
        draw_answers(said, args.picture)
    return said.broken


def _stream_file(args: argparse.Namespace, device: Any) -> list[Any]:
    from vimamba.data import BrokenImage
    from vimamba.memory import peak_memory
    from vimamba.tasks.predict.classify import load_classifier
    from vimamba.tasks.predict.stream import HEADER, stream

    classifier, rows, broken = load_classifier(args.model, args.checkpoint), list[Any](), list[Any]()
    with interruptible() as stopped:  # the natural end of a stream
        for row in stream(classifier, args.stream, args.every or 16, device, stopped):
            if args.json != '-' and not isinstance(row, BrokenImage):
                print(row if rows else f'{HEADER}\n{row}', flush=True)
            (broken if isinstance(row, BrokenImage) else rows).append(row)
        about = {'model': classifier.name, 'checkpoint': args.checkpoint, 'path': args.stream}
        said = {'predictions': [row.as_json() for row in rows], 'broken': [error.reason for error in broken]}
        if rows and args.json != '-':
            end, memory = rows[-1], peak_memory()
            print(f'{args.stream}: {end.frames} frames, {end.rate:.1f} a second, {memory:.0f} MiB at most')
        if args.json:
            write_json(args.json, {**about, **said})
    return broken
