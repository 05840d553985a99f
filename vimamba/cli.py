"""What a tool does to its own process before it computes; a library does not."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vimamba.errors import UsageError, unknown_name

__all__ = ['add_import', 'find_device', 'import_code', 'interruptible']


def find_device(name: str) -> Any:
    """The torch device of a name; 'auto' is a GPU where there is one.

    Raises:
        UsageError: there is no such device.
    """
    import torch  # here, because a tool sets what torch reads at its import before

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
    """SIGINT is an end that the work comes to by itself: it asks, and the interrupt is raised when it is done.

    A second one does not wait.

    Yields:
        Whether there has been one.

    Raises:
        KeyboardInterrupt: at the end, where there has been one.
    """
    received: list[int] = []

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    if not callable(before := signal.getsignal(signal.SIGINT)):  # ignored, as of a shell's background
        yield lambda: False
        return
    signal.signal(signal.SIGINT, receive)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def add_import(parser: argparse.ArgumentParser) -> None:
    """The option of the tools whose values `import_code` takes, as ``imports``."""
    text = 'code of your own to be run first, which registers scan orders or models; may be given again'
    parser.add_argument('--import', dest='imports', action='append', default=[], metavar='MODULE_OR_FILE.py', help=text)


def import_code(names: Iterable[str]) -> None:
    """Imports modules, or files that end in ``.py`` as modules of their names.

    Raises:
        UsageError: there is none, or another module has the name of the file; what the code raises is left as it is.
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
            sys.modules[module] = importlib.util.module_from_spec(spec)  # where timm looks for the module of a model
            spec.loader.exec_module(sys.modules[module])
