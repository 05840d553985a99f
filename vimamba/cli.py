"""What the commands share: their arguments, their process, and the user's code."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vimamba.errors import UsageError, unknown_name

__all__ = ['add_import', 'add_options', 'create_parser', 'find_device', 'import_code', 'interruptible', 'load_models']


def find_device(name: str) -> Any:
    """Returns the torch device of a name; 'auto' is a GPU if there is one.

    Raises:
        UsageError: there is no such device.
    """
    import torch  # after the arguments

    if name.split(':')[0] not in (known := ('auto', 'cpu', 'cuda', 'mps')):
        raise unknown_name('--device', name, known)
    if name == 'auto':
        return torch.accelerator.current_accelerator(check_available=True) or torch.device('cpu')
    if name.startswith('mps') and not torch.backends.mps.is_available():
        raise UsageError(f'--device {name}: this machine has none; --device cpu always works')
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f'--device {name}: {str(error).splitlines()[0]}; --device cpu always works') from error
    return torch.device(name)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Defers SIGINT: the body polls the yielded function. A second SIGINT interrupts at once.

    Yields:
        A function that returns whether SIGINT has been received.

    Raises:
        KeyboardInterrupt: on exit, if SIGINT has been received.
    """
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    if not callable(before := signal.getsignal(signal.SIGINT)):  # ignored, as in the background of a shell
        yield lambda: False
        return
    signal.signal(signal.SIGINT, receive)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def create_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Creates the parser of a command, described by the docstring of its module."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f'vimamba {command}', description=description, formatter_class=raw)


def add_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Adds ``--cfg-options``, which replace keys of a configuration."""
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help=f'such as {example}')


def add_import(parser: argparse.ArgumentParser) -> None:
    """Adds ``--import``, whose values ``args.imports`` are those of `import_code`."""
    text = 'run this code first, which registers scan orders or models; may be repeated'
    parser.add_argument('--import', dest='imports', action='append', default=[], metavar='MODULE_OR_FILE.py', help=text)


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


def import_code(names: Iterable[str]) -> None:
    """Imports modules by name, and files that end in ``.py`` as modules named after them.

    Raises:
        UsageError: there is no such module or file, or another module has the file's name. Errors of the code itself
            are raised unchanged.
    """
    for name in names:
        path = Path(name).resolve()
        module = path.stem if name.endswith('.py') else name
        if module == name:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is None or not f'{module}.'.startswith(f'{error.name}.'):  # what the code itself imports
                    raise
                raise UsageError(f'--import {name}: no such module; a file ends in .py') from None
        elif not path.is_file():
            raise UsageError(f'--import {name}: no such file')
        elif not module.isidentifier() or ((there := importlib.util.find_spec(module)) and there.origin != str(path)):
            raise UsageError(f'--import {name}: no name for a module, or that of another: choose another')
        else:
            spec: Any = importlib.util.spec_from_file_location(module, path)
            sys.modules[module] = importlib.util.module_from_spec(spec)  # timm looks up the module of a model here
            spec.loader.exec_module(sys.modules[module])
