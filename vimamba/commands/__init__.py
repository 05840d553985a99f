"""The command ``vimamba``: one module per command, imported by name.

A command imports torch only after it has read its arguments, so that help and mistakes are answered at once.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from vimamba.errors import exit_on_errors, unknown_name
from vimamba.memory import keep_memory

__all__ = ['COMMANDS', 'main']

COMMANDS = ('train', 'test', 'predict', 'export', 'benchmark', 'browse', 'convert', 'draw', 'models')


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command with its arguments and exits with its code."""
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # spinning threads collapse on a busy machine; before torch
    keep_memory()
    arguments = sys.argv[1:] if argv is None else argv
    with exit_on_errors():
        if not arguments or arguments[0] in ('-h', '--help'):
            print('usage: vimamba COMMAND ...\n\ncommands (each has --help):')
            for name in COMMANDS:
                print(f'  {name:<11}{_module(name).__doc__.partition(chr(10))[0]}')
            code = 0
        elif arguments[0] not in COMMANDS:
            raise unknown_name('command', arguments[0], COMMANDS)
        else:
            code = _module(arguments[0]).main(arguments[1:])
    sys.exit(code)


def _module(command: str) -> Any:
    return import_module(f'{__name__}.{command}')
