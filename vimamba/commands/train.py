"""Train a model from a configuration.

vimamba train configs/classification/digits_vim_nano.py
torchrun --nproc-per-node 8 -m vimamba train CONFIG      on several GPUs or processes
"""

from collections.abc import Sequence
from importlib.util import find_spec

from vimamba.cli import add_import, add_options, create_parser, load_models
from vimamba.errors import UsageError

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    parser = create_parser('train', __doc__)
    parser.add_argument('config', nargs='?', help='a .py, .json or .yaml file, read as data')
    parser.add_argument('--work-dir', help='folder for checkpoints, logs and plots (default: runs/<config>)')
    resume = 'continue from the latest checkpoint in the work dir, or from FILE'
    again = parser.add_mutually_exclusive_group()
    again.add_argument('--resume', nargs='?', const=True, default=False, metavar='FILE', help=resume)
    again.add_argument('--overwrite', action='store_true', help='replace the run that the work dir holds')
    parser.add_argument('--help-config', action='store_true', help='list every key of a configuration')
    add_options(parser, 'optim.lr=1e-3')
    add_import(parser)
    args = parser.parse_args(argv)
    if args.help_config:
        return _describe()
    if not args.config:
        parser.error('a configuration file is needed')
    if not find_spec('mmengine'):
        raise UsageError('training needs mmengine, which is not installed: pip install vimamba[train]')
    load_models(args.imports)

    from vimamba.engine.train import train

    keywords = {'work_dir': args.work_dir, 'resume': args.resume, 'overwrite': args.overwrite}
    return train(args.config, options=args.cfg_options, **keywords)


def _describe() -> int:
    load_models()

    from vimamba.tasks import describe

    print(describe())
    return 0
