"""Labels images, finds the objects in them or maps them, as the checkpoint was trained to do:

python tools/predict.py photo.jpg folder --checkpoint runs/NAME/best.pth --picture out.png
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout works without installing it
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # spinning threads collapse on a busy machine; before torch

from vimamba.errors import UsageError, bad_argument, prepare_output, run
from vimamba.process import find_device, keep_memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', nargs='+', metavar='IMAGE_OR_FOLDER', help='image files, or folders of them')
    parser.add_argument(
        '--model', metavar='NAME', help='a model of timm or vimamba; a checkpoint of ours knows its own'
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='weights; without it, those published for the model')
    parser.add_argument('--topk', type=int, default=5, help='classes per image (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write the result there; - for the terminal, instead of a table')
    parser.add_argument('--picture', metavar='FILE.png', help='draw the images with what was found (the first 48)')
    parser.add_argument('--threshold', type=float, default=0.5, help='least score of a box (default: %(default)s)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps (default: a GPU where there is one)')
    parser.add_argument('--batch-size', type=int, default=32, help='images at a time (default: %(default)s)')
    args = parser.parse_args()

    from PIL import Image

    from vimamba.checkpoint import load_checkpoint, written_by
    from vimamba.data import BrokenImage, find_images
    from vimamba.insight.contact_sheet import contact_sheet
    from vimamba.insight.samples import picture
    from vimamba.tasks import predict, predict_dense

    warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # such a file is refused, in one line
    device = find_device(args.device)
    if args.picture is not None and Path(args.picture).suffix.lower() not in ('.png', '.jpg', '.jpeg', '.webp'):
        raise UsageError(f'--picture {args.picture}: expected a file name that ends in .png, .jpg or .webp')
    if args.topk < 1 or args.batch_size < 1:
        raise bad_argument('--topk, --batch-size', 'positive integers', f'{args.topk}, {args.batch_size}')
    for option in ('json', 'picture'):
        out = getattr(args, option)
        if out is not None and out != '-':
            prepare_output(f'--{option}', out)
    paths = find_images(args.images)
    state = load_checkpoint(args.checkpoint) if args.checkpoint else {}
    kind = predict_dense.task_of(state)
    if kind == 'classification':
        classifier = predict.load_classifier(args.model, args.checkpoint)
        options = {'topk': args.topk, 'batch_size': args.batch_size, 'device': device}
        name, results = classifier.name, list[Any](predict.predict(classifier, paths, **options))
    else:
        task = predict_dense.load_dense(state, args.checkpoint)
        name, results = written_by(state), list(predict_dense.predict_dense(task, paths, device, args.threshold))
    found = [result for result in results if not isinstance(result, BrokenImage)]
    broken = [result for result in results if isinstance(result, BrokenImage)]
    rows = [result.as_json() for result in found]

    if args.json != '-' and found:
        print(predict.table(found) if kind == 'classification' else predict_dense.table(rows))
    if args.json:
        left_out = [{'path': error.path, 'reason': error.reason} for error in broken]
        write_json(args.json, {'model': name, 'checkpoint': args.checkpoint, 'images': rows, 'broken': left_out})
    if args.picture and found and kind == 'classification':
        contact_sheet(found, args.picture)
    elif args.picture and found:
        images, outputs = [result.image for result in found[:48]], [result.output for result in found[:48]]
        picture(kind, images, None, outputs, task.classes).save(args.picture)
    for error in broken:
        print(f'error: {error}', file=sys.stderr)
    return 1 if broken else 0


def write_json(out: str, result: dict) -> None:
    text = json.dumps(result, indent=1, ensure_ascii=False) + '\n'
    if out == '-':
        sys.stdout.write(text)
        return
    Path(out).write_text(text, encoding='utf-8')


if __name__ == '__main__':
    keep_memory()
    run(main)
