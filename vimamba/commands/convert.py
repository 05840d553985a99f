"""Convert an official checkpoint to safetensors.

vimamba convert official.pth vmamba_tiny_s1l8 converted.safetensors
"""

import ast
from collections.abc import Sequence
from pathlib import Path

from vimamba.cli import create_parser, load_models
from vimamba.errors import UsageError
from vimamba.outputs import check_output

__all__ = ['main']


def main(argv: Sequence[str] | None = None) -> int:
    parser = create_parser('convert', __doc__)
    parser.add_argument('source', metavar='FILE', help='as it was published; nothing in it is executed')
    parser.add_argument('model', metavar='NAME', help='the model of vimamba that the weights belong to')
    parser.add_argument('target', metavar='OUT.safetensors', help='the file to write')
    model_option = 'of the model: num_classes=10'
    parser.add_argument('--option', action='append', default=[], metavar='KEY=VALUE', help=model_option)
    parser.add_argument('--quiet', action='store_true', help='print the counts, not every key')
    args = parser.parse_args(argv)
    if not args.target.endswith('.safetensors'):
        raise UsageError(f'{args.target}: expected a file name that ends in .safetensors')
    options = dict(map(_key_and_value, args.option))
    check_output('OUT', args.target)
    load_models()

    from vimamba.models.convert import convert_checkpoint

    try:
        report = convert_checkpoint(args.source, args.model, args.target, **options)
    except TypeError as error:
        if not options:
            raise
        raise UsageError(f'--option {" ".join(args.option)}: {args.model} does not take it ({error})') from error
    for what, keys in report.items():
        print(f'{what}: {len(keys)}')
        if not args.quiet:
            for key in keys:
                print(f'  {key}')
    print(f'{args.target}: {args.model}, {Path(args.target).stat().st_size / 2**20:.1f} MiB')
    return 0


def _key_and_value(option: str) -> tuple[str, object]:
    key, equals, value = option.partition('=')
    if not equals:
        raise UsageError(f'--option {option}: expected KEY=VALUE, such as num_classes=10')
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
