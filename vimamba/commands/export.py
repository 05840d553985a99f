"""Export a classifier to ONNX, or to a program for torch.export.load.

vimamba export model.onnx --checkpoint runs/NAME/best.pth
vimamba export model.pt2 --model vim_tiny_patch16_224
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vimamba.cli import add_import, create_parser, load_models
from vimamba.errors import UsageError, check_integers
from vimamba.outputs import check_output

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    parser = create_parser('export', __doc__)
    parser.add_argument('out', metavar='FILE', help='ends in .onnx, or in .pt2 for torch.export.load')
    text = 'a model of timm or vimamba; a checkpoint of ours knows its own'
    parser.add_argument('--model', metavar='NAME', help=text)
    parser.add_argument('--checkpoint', metavar='FILE', help='weights; without it, those published for the model')
    parser.add_argument('--img-size', nargs=2, type=int, metavar=('H', 'W'), help='instead of the size of training')
    parser.add_argument('--batch', type=int, metavar='N', help='fix the batch size, instead of any number')
    parser.add_argument('--stream', action='store_true', help='a causal model of clips, fed frame by frame')
    add_import(parser)
    args = parser.parse_args(argv)
    suffix = Path(args.out).suffix
    if suffix not in ('.onnx', '.pt2'):
        raise UsageError(f'{args.out}: expected a file name that ends in .onnx or .pt2')
    if args.batch is not None:
        check_integers(1, **{'--batch': args.batch})
    check_output('FILE', args.out)
    load_models(args.imports)

    import torch

    from vimamba.export import export_onnx, export_program, save_program
    from vimamba.models import Stream
    from vimamba.tasks.predict.classify import load_classifier
    from vimamba.tasks.predict.stream import check_causal, frame_interval

    model: Any
    classifier = load_classifier(args.model, args.checkpoint)
    name, model, classes, _, data, _ = classifier
    *channels, height, width = data['input_size']  # of clips, channels and frames
    if args.img_size:
        height, width = args.img_size
        check_integers(1, **{'--img-size': min(args.img_size)})
        if resize := getattr(model, 'set_input_size', None):
            resize((height, width))
    if args.stream:
        check_causal(classifier)
        channels[1:] = [model.tubelet_size]
    images = torch.zeros(args.batch or 2, *channels, height, width)
    inputs, outputs, axes = {'images': images}, ['logits'], {'images': 0}
    if args.stream:
        model, axes = Stream(model), Stream.batch
        inputs = dict(zip(Stream.names, (images, *model.start(len(images)))))
        outputs += [f'next_{state}' for state in Stream.names[1:]]
    dim = torch.export.Dim('batch')
    dynamic = None if args.batch else tuple({axes[key]: dim} if key in axes else None for key in inputs)
    print(f'{args.out}: exporting {name}; large models take minutes', flush=True)
    program = export_program(model, tuple(inputs.values()), dynamic)
    if suffix == '.pt2':
        save_program(program, args.out)
    else:
        notes = {'model': name, 'classes': json.dumps(classes)}
        notes |= {key: json.dumps(data[key]) for key in ('mean', 'std', 'interpolation', 'crop_pct')}
        notes |= {'frame_interval': json.dumps(frame_interval(classifier))} if args.stream else {}
        names = {'input_names': list(inputs), 'output_names': outputs}
        export_onnx(program, args.out, metadata=notes, dynamic_shapes=dynamic, **names)
    batch = f'{args.batch or "any number of"} {"streams" if args.stream else "clips" if channels[1:] else "images"}'
    shape, size = ' x '.join(map(str, images.shape[1:])), Path(args.out).stat().st_size / 2**20
    print(f'{args.out}: {name}, {batch} of {shape} to {len(classes)} logits, {size:.1f} MiB')
    return 0
