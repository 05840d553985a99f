"""Labels images: python tools/predict.py photo.jpg folder --checkpoint runs/NAME/best.pth --picture labels.png"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout works without installing it
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # spinning threads collapse on a busy machine; before torch

from vimamba.errors import UsageError, bad_argument, prepare_output, run, unknown_name
from vimamba.process import keep_memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', nargs='+', metavar='IMAGE_OR_FOLDER', help='image files, or folders of them')
    parser.add_argument(
        '--model', metavar='NAME', help='a model of timm or vimamba; a checkpoint of ours knows its own'
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='weights; without it, those published for the model')
    parser.add_argument('--topk', type=int, default=5, help='classes per image (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write the result there; - for the terminal, instead of a table')
    parser.add_argument('--picture', metavar='FILE.png', help='draw the images with their labels (the first 48)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps (default: a GPU where there is one)')
    parser.add_argument('--batch-size', type=int, default=32, help='images at a time (default: %(default)s)')
    args = parser.parse_args()

    from PIL import Image

    from vimamba.data import BrokenImage, find_images
    from vimamba.insight.contact_sheet import contact_sheet
    from vimamba.tasks.predict import Prediction, as_json, load_classifier, predict, table

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
    classifier = load_classifier(args.model, args.checkpoint)
    options = {'topk': args.topk, 'batch_size': args.batch_size, 'device': device}
    results = list(predict(classifier, paths, **options))
    predictions = [result for result in results if isinstance(result, Prediction)]
    broken = [result for result in results if isinstance(result, BrokenImage)]

    if args.json != '-' and predictions:
        print(table(predictions))
    if args.json:
        write_json(args.json, as_json(classifier.name, args.checkpoint, predictions, broken))
    if args.picture and predictions:
        contact_sheet(predictions, args.picture)
    for error in broken:
        print(f'error: {error}', file=sys.stderr)
    return 1 if broken else 0


def find_device(name: str):
    import torch

    if name.split(':')[0] not in (known := ('auto', 'cpu', 'cuda', 'mps')):
        raise unknown_name('--device', name, known)
    if name == 'auto':
        return torch.accelerator.current_accelerator(check_available=True) or torch.device('cpu')
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f'--device {name}: {str(error).splitlines()[0]}; --device cpu always works') from error
    return torch.device(name)


def write_json(out: str, result: dict) -> None:
    text = json.dumps(result, indent=1, ensure_ascii=False) + '\n'
    if out == '-':
        sys.stdout.write(text)
        return
    Path(out).write_text(text, encoding='utf-8')


if __name__ == '__main__':
    keep_memory()
    run(main)
