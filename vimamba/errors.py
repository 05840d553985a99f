"""One wording for every mistake that the caller can mend.

A message is one line: what was wrong, what was expected, what to do.
"""

from __future__ import annotations

import difflib
import errno
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable

__all__ = [
    'UsageError',
    'bad_argument',
    'check_flags',
    'check_integers',
    'check_numbers',
    'run',
    'unknown_name',
]


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a write, which does not name its file


class UsageError(ValueError):
    """A mistake in an argument, a configuration or a file; the message says how to mend it."""


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = '') -> UsageError:
    """The error for a name that is not one of ``known``, with the nearest one.

    >>> unknown_name('scan order', 'hilbrt', ['raster', 'hilbert'])
    UsageError("unknown scan order 'hilbrt': did you mean 'hilbert'? known: hilbert, raster")
    >>> print(unknown_name('case', 'batch', ['one', 'two, batch 8']))
    unknown case 'batch': did you mean 'two, batch 8'? known: 'one', 'two, batch 8'
    """
    names = sorted(known)
    longer = sorted((known for known in names if name and known.startswith(name)), key=len)
    near = longer[:1] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]!r}? ' if near else ''
    listed = difflib.get_close_matches(name, names, n=12, cutoff=0.0) if len(names) > 20 else names
    quoted = [repr(name) for name in listed] if any(',' in name for name in listed) else listed
    more = f', ... ({len(names)} in all)' if len(names) > len(listed) else ''
    return UsageError(f'{where}unknown {kind} {name!r}: {hint}known: {", ".join(sorted(quoted))}{more}')


def bad_argument(name: str, expected: str, got: object, hint: str = '') -> UsageError:
    """The error for an argument of the wrong type, rank, size, dtype, device or value.

    >>> bad_argument('delta', 'shape (2, 8, 16)', 'shape (2, 8, 15)')
    UsageError('delta: expected shape (2, 8, 16), got shape (2, 8, 15)')
    """
    return UsageError(f'{name}: expected {expected}, got {got}' + (f'; {hint}' if hint else ''))


def check_integers(low: int, **arguments: object) -> None:
    """Raises the error of the first argument that is no integer of at least ``low``.

    >>> check_integers(1, depth=24, embed_dim=0)
    Traceback (most recent call last):
    vimamba.errors.UsageError: embed_dim: expected an integer >= 1, got 0
    """
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise bad_argument(name, f'an integer >= {low}', repr(value))


def check_flags(**arguments: object) -> None:
    """Raises the error of the first argument that is neither True nor False.

    >>> check_flags(reverse='no')
    Traceback (most recent call last):
    vimamba.errors.UsageError: reverse: expected True or False, got 'no'
    """
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise bad_argument(name, 'True or False', repr(value))


def check_numbers(low: float, below: float, **arguments: object) -> None:
    """Raises the error of the first argument that is no number of at least ``low`` and smaller than ``below``.

    >>> check_numbers(0, 1, drop_rate=0.1, drop_path_rate=2)
    Traceback (most recent call last):
    vimamba.errors.UsageError: drop_path_rate: expected a number >= 0 and < 1, got 2
    """
    for name, value in arguments.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value < below:
            raise bad_argument(name, f'a number >= {low}' + f' and < {below}' * (below < math.inf), repr(value))


def run(main: Callable[[], int | None]) -> None:
    """Runs a command-line tool: a `UsageError` or a file that fails becomes one line on stderr, exit code 2.

    So does SIGINT, with exit code 130.
    """
    if callable(signal.getsignal(signal.SIGINT)):  # not where it is ignored, as of a shell's background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        code = 128 + signal.SIGINT
    except BrokenPipeError:  # the reader, such as head, has seen enough
        code = 0
    except UsageError as error:
        print(f'error: {error}', file=sys.stderr)
        code = 2
    except OSError as error:
        if error.filename is None and error.errno not in _FULL:
            raise
        print(f'error: {error.filename or "the output cannot be written"}: {error.strerror}', file=sys.stderr)
        code = 2
    try:
        sys.stdout.flush()
    except OSError:  # that is known already: the end of Python would tell of it, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
