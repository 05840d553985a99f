"""List the models, with their numbers of parameters if asked for.

vimamba models 'vim_*' --parameters
"""

from collections.abc import Sequence

from vimamba.cli import create_parser, load_models
from vimamba.errors import UsageError

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    parser = create_parser('models', __doc__)
    parser.add_argument('pattern', nargs='?', default='*', help='such as "vim_*" or "*tiny*" (default: all)')
    parser.add_argument('--parameters', action='store_true', help='count the parameters of each')
    args = parser.parse_args(argv)
    load_models()

    import timm
    import torch

    names = timm.list_models(args.pattern)
    names = [name for name in names if timm.model_entrypoint(name).__module__.startswith('vimamba.')]
    if not names:
        raise UsageError(f'{args.pattern}: no such model; `vimamba models` lists them')
    indent = max(map(len, names)) + 2
    for name in names:
        if args.parameters:
            with torch.device('meta'):
                count = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
            print(f'{name:{indent}}{count / 1e6:7.2f} M', flush=True)
        else:
            print(name)
    return 0
