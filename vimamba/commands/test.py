"""Evaluate a checkpoint.

vimamba test CONFIG runs/NAME/best.pth --split test --out-dir out
"""

from collections.abc import Sequence
from importlib.util import find_spec

from vimamba.cli import add_import, add_options, create_parser, load_models
from vimamba.errors import UsageError

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    parser = create_parser('test', __doc__)
    parser.add_argument('config', help='the configuration that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='best.pth of a run, or a file of weights')
    parser.add_argument('--split', default='val', help='part of the data set: train, val or test (default: val)')
    parser.add_argument('--json', metavar='FILE', help='write all numbers to this file')
    parser.add_argument('--out-dir', help='write confusion.png and predictions.png to this folder')
    add_options(parser, 'data.workers=0')
    add_import(parser)
    args = parser.parse_args(argv)
    if not find_spec('mmengine'):
        raise UsageError('evaluation needs mmengine, which is not installed: pip install vimamba[train]')
    load_models(args.imports)

    from vimamba.engine.evaluation import evaluate_checkpoint

    keywords = {'split': args.split, 'json_file': args.json, 'out_dir': args.out_dir}
    return evaluate_checkpoint(args.config, args.checkpoint, options=args.cfg_options, **keywords)
