"""The command ``vimamba``: one module per command, imported by name.

A command imports torch only after it has read its arguments, so that help and mistakes are answered at once.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from vimamba.errors import run, unknown_name
from vimamba.memory import keep_memory

__all__ = ['COMMANDS', 'main']

COMMANDS = ('train', 'test', 'predict', 'export', 'benchmark', 'browse', 'convert', 'draw', 'models')


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command with its arguments and exits with its code."""
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # spinning threads collapse on a busy machine; before torch
    keep_memory()
    run(partial(_main, sys.argv[1:] if argv is None else argv))


def _main(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ('-h', '--help'):
        print('usage: vimamba COMMAND ...\n\ncommands (each has --help):')
        for name in COMMANDS:
            print(f'  {name:<11}{_module(name).__doc__.partition(chr(10))[0]}')
        return 0
    if argv[0] not in COMMANDS:
        raise unknown_name('command', argv[0], COMMANDS)
    return _module(argv[0]).main(argv[1:])


def _module(command: str) -> Any:
    return import_module(f'{__name__}.{command}')
