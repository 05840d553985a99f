"""Converts an official file: python tools/convert_checkpoint.py official.pth vmamba_tiny_s1l8 converted.safetensors"""

import argparse
import ast
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout works without installing it
if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # while torch is imported
    signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b'interrupted\n') and 130))

from vimamba.errors import UsageError, run
from vimamba.outputs import check_output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='FILE', help='as it was published; nothing in it is executed')
    parser.add_argument('model', metavar='NAME', help='the model of vimamba that the weights belong to')
    parser.add_argument('target', metavar='OUT.safetensors', help='to be written')
    parser.add_argument(
        '--option', action='append', default=[], metavar='KEY=VALUE', help='of the model: num_classes=10'
    )
    parser.add_argument('--quiet', action='store_true', help='only the counts, not every key')
    args = parser.parse_args()
    if not args.target.endswith('.safetensors'):
        raise UsageError(f'{args.target}: expected a file name that ends in .safetensors')
    options = {}
    for option in args.option:
        key, equals, value = option.partition('=')
        if not equals:
            raise UsageError(f'--option {option}: expected KEY=VALUE, such as num_classes=10')
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    check_output('OUT', args.target)

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


if __name__ == '__main__':
    run(main)
