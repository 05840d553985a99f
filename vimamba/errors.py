"""One wording for every mistake that the caller can mend.

A message is one line: what was wrong, what was expected, what to do.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable

__all__ = ['UsageError', 'bad_argument', 'run', 'unknown_name']


class UsageError(ValueError):
    """A mistake in an argument, a configuration or a file; the message says how to mend it."""


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = '') -> UsageError:
    """The error for a name that is not one of ``known``, with the nearest one.

    >>> unknown_name('scan order', 'hilbrt', ['raster', 'hilbert'])
    UsageError("unknown scan order 'hilbrt': did you mean 'hilbert'? known: hilbert, raster")
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f'did you mean {near[0]!r}? ' if near else ''
    listed = difflib.get_close_matches(name, names, n=12, cutoff=0.0) if len(names) > 20 else names
    more = f', ... ({len(names)} in all)' if len(names) > len(listed) else ''
    return UsageError(f'{where}unknown {kind} {name!r}: {hint}known: {", ".join(sorted(listed))}{more}')


def bad_argument(name: str, expected: str, got: object, hint: str = '') -> UsageError:
    """The error for an argument of the wrong type, rank, size, dtype, device or value.

    >>> bad_argument('delta', 'shape (2, 8, 16)', 'shape (2, 8, 15)')
    UsageError('delta: expected shape (2, 8, 16), got shape (2, 8, 15)')
    """
    return UsageError(f'{name}: expected {expected}, got {got}' + (f'; {hint}' if hint else ''))


def run(main: Callable[[], int | None]) -> None:
    """Runs a command-line tool: a `UsageError` becomes one line on stderr and exit code 2."""
    try:
        sys.exit(main())
    except UsageError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
