"""The command ``vimamba``: one module per command, imported by name.

A command imports torch only after it has read its arguments, so that help and mistakes are answered at once.
"""

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from vimamba.cli import import_code, keep_memory
from vimamba.errors import run, unknown_name

__all__ = ['COMMANDS', 'load_models', 'main']

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


def load_models(imports: Iterable[str] = ()) -> None:
    """Imports torch, registers the models of vimamba with timm, and runs the user's code.

    While torch is imported, SIGINT ends the process at once: a library whose import was interrupted may go on without
    what it lacks.
    """
    before = signal.getsignal(signal.SIGINT)
    if callable(before):  # not where it is ignored, as in the background of a shell
        signal.signal(signal.SIGINT, lambda *_: os._exit(os.write(2, b'interrupted\n') and 130))
    import vimamba.models  # noqa: F401

    if callable(before):
        signal.signal(signal.SIGINT, before)
    import_code(imports)
