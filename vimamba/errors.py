"""Errors that the caller can fix, in one wording, and the rules that values are checked against.

A message is one line: what was wrong, what was expected, what to do.
"""

import difflib
import errno
import math
import operator
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ['Rule', 'UsageError', 'bad_argument', 'check_flags', 'check_integers', 'check_numbers',
           'check_options', 'exit_on_errors', 'first_line', 'flag', 'integer', 'number', 'one_of',
           'one_or_several', 'or_none', 'run', 'several', 'text', 'unknown_name', 'within']  # fmt: skip

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # errors of a write, which do not name the file
_NOT_TEXT = 'a number has no quotes, and in YAML a point: 1.0e-3'


class UsageError(ValueError):
    """A mistake in an argument, a configuration or a file; the message says how to fix it.

    Attributes:
        key: the name of the argument, or the dotted key of the configuration; '' if there is none.
        where: ``file:line`` of that key; '' if it is unknown.

    >>> print(UsageError('expected 1 or 3, got 2', key='data.num_crops'))
    data.num_crops: expected 1 or 3, got 2
    """

    def __init__(self, *args: Any, key: str = '') -> None:
        super().__init__(*args)
        self.key, self.where = key, ''

    def __str__(self) -> str:
        key = '' if self.key and self.where.endswith(self.key) else self.key  # --cfg-options model.name
        return ': '.join(filter(None, (self.where, key, super().__str__())))


@contextmanager
def within(prefix: str, *others: str) -> Iterator[None]:
    """Prefixes the key of a UsageError raised inside, unless the key begins with one of ``others``.

    >>> with within('data'):
    ...     check_integers(1, clips=0)
    Traceback (most recent call last):
    vimamba.errors.UsageError: data.clips: expected an integer >= 1, got 0
    """
    try:
        yield
    except UsageError as error:
        if error.key and error.key.partition('.')[0] not in others:
            error.key = f'{prefix}.{error.key}'
        raise


def unknown_name(kind: str, name: str, known: Iterable[str], key: str = '') -> UsageError:
    """The error for a name that is not one of ``known``, with the nearest one.

    >>> print(unknown_name('scan order', 'hilbrt', ['raster', 'hilbert']))
    unknown scan order 'hilbrt': did you mean 'hilbert'? known: hilbert, raster
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
    return UsageError(f'unknown {kind} {name!r}: {hint}known: {", ".join(sorted(quoted))}{more}', key=key)


def bad_argument(name: str, expected: str, got: object, hint: str = '') -> UsageError:
    """The error for an argument of the wrong type, rank, size, dtype, device or value.

    >>> print(bad_argument('delta', 'shape (2, 8, 16)', 'shape (2, 8, 15)'))
    delta: expected shape (2, 8, 16), got shape (2, 8, 15)
    """
    return UsageError(f'expected {expected}, got {got}' + (f'; {hint}' if hint else ''), key=name)


def first_line(error: BaseException) -> str:
    """The first line of the message of an error, shortened if it is not ours; the name of its class if it is empty."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if isinstance(error, UsageError) else line[:200]


@dataclass(frozen=True)
class Rule:
    """The values that an option takes. Calling the rule with a value returns it converted, or raises a UsageError.

    Attributes:
        expected: the values in words.
        fits: whether a value is one of them.
        convert: the value as the program uses it: numbers as float, lists as tuples.
        names: the names, if they are the only values; an unknown one is answered with the nearest.

    >>> number(0, 1)(-0.5, key='task.dropout')
    Traceback (most recent call last):
    vimamba.errors.UsageError: task.dropout: expected a number >= 0 and <= 1, got -0.5
    """

    expected: str
    fits: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    names: tuple[str, ...] = ()

    def __call__(self, value: Any, key: str = '') -> Any:
        if self.fits(value):
            return self.convert(value)
        if self.names and isinstance(value, str):
            raise unknown_name(key.rpartition('.')[2], value, self.names, key)
        numeric = self.expected.startswith(('an integer', 'a number'))
        raise bad_argument(key, self.expected, repr(value), _NOT_TEXT if numeric and isinstance(value, str) else '')


def _numeric(kind: str, types: Any, convert: Callable[[Any], Any], **limits: float | None) -> Rule:
    signs = {'low': '>=', 'above': '>', 'high': '<=', 'below': '<'}
    tests = {'low': operator.ge, 'above': operator.gt, 'high': operator.le, 'below': operator.lt}
    bounds = [(name, limit) for name, limit in limits.items() if limit is not None]

    def fits(value: Any) -> bool:
        finite = isinstance(value, types) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return finite and all(tests[name](value, limit) for name, limit in bounds)

    words = ' and '.join(f'{signs[name]} {limit}' for name, limit in bounds)
    return Rule(f'{kind} {words}'.strip(), fits, convert)


@cache
def integer(low: int | None = None, high: int | None = None) -> Rule:
    """An integer from ``low`` to ``high``."""
    return _numeric('an integer', int, int, low=low, high=high)


@cache
def number(
    low: float | None = None, high: float | None = None, *, above: float | None = None, below: float | None = None
) -> Rule:
    """A finite number, >= ``low``, <= ``high``, > ``above`` and < ``below``."""
    return _numeric('a number', (int, float), float, low=low, above=above, high=high, below=below)


@cache
def flag() -> Rule:
    """True or False."""
    return Rule('True or False', lambda value: isinstance(value, bool))


@cache
def text() -> Rule:
    """Any text."""
    return Rule('text', lambda value: isinstance(value, str))


def one_of(*values: str | int) -> Rule:
    """One of some names, or of some integers."""
    names = tuple(value for value in values if isinstance(value, str))
    known = [(type(value), value) for value in values]
    return Rule(' or '.join(map(repr, values)), lambda value: (type(value), value) in known, names=names)


def several(rule: Rule, count: int | None = None) -> Rule:
    """A list of ``count`` values, or of one or more, each of which fits a rule."""

    def fits(value: Any) -> bool:
        sized = isinstance(value, (list, tuple)) and (len(value) > 0 if count is None else len(value) == count)
        return sized and all(map(rule.fits, value))

    expected = f'a list of {"values" if count is None else count}, each {rule.expected}'
    return Rule(expected, fits, lambda value: tuple(map(rule.convert, value)))


def one_or_several(rule: Rule, *counts: int) -> Rule:
    """A value that fits a rule, or a list of such values, of one of ``counts`` if any are given."""
    lists = [several(rule, count) for count in counts or (None,)]

    def fits(value: Any) -> bool:
        return rule.fits(value) or any(many.fits(value) for many in lists)

    def convert(value: Any) -> Any:
        return (rule if rule.fits(value) else lists[0]).convert(value)

    words = ' or '.join(map(str, counts)) or 'several'
    return Rule(f'{rule.expected}, or {words} of them', fits, convert)


def or_none(rule: Rule) -> Rule:
    """None, or a value that fits a rule."""

    def fits(value: Any) -> bool:
        return value is None or rule.fits(value)

    return Rule(f'{rule.expected}, or None', fits, lambda v: v if v is None else rule.convert(v), rule.names)


def check_options(given: Mapping[str, Any], rules: Mapping[str, Rule], kind: str, prefix: str = '') -> dict[str, Any]:
    """The given options, each checked and converted by its rule; ``rules`` has one for every option that there is.

    ``kind`` says in the error of an unknown option what it is, ``prefix`` precedes the option in keys.

    >>> check_options({'dropout': 1, 'flp': True}, {'dropout': number(0, 1), 'flip': flag()}, 'option', 'task.')
    Traceback (most recent call last):
    vimamba.errors.UsageError: task.flp: unknown option 'flp': did you mean 'flip'? known: dropout, flip
    """
    for name in given:
        if name not in rules:
            raise unknown_name(kind, name, rules, f'{prefix}{name}')
    return {name: rules[name](value, f'{prefix}{name}') for name, value in given.items()}


def check_integers(low: int, **arguments: object) -> None:
    """Raises a UsageError for the first argument that is not an integer of at least ``low``.

    >>> check_integers(1, depth=24, embed_dim=0)
    Traceback (most recent call last):
    vimamba.errors.UsageError: embed_dim: expected an integer >= 1, got 0
    """
    for name, value in arguments.items():
        if type(value) is not int or value < low:  # torch 2.10 does not compile the rule
            integer(low)(value, name)


def check_flags(**arguments: object) -> None:
    """Raises a UsageError for the first argument that is neither True nor False."""
    for name, value in arguments.items():
        if value is not True and value is not False:
            flag()(value, name)


def check_numbers(low: float, below: float, **arguments: object) -> None:
    """Raises a UsageError for the first argument that is not a number >= ``low`` and < ``below``."""
    for name, value in arguments.items():
        number(low, below=None if below == math.inf else below)(value, name)


@contextmanager
def exit_on_errors() -> Iterator[None]:
    """Exits with 2 and a line on stderr for a `UsageError` or a failed file, with 130 for SIGINT."""
    if callable(signal.getsignal(signal.SIGINT)):  # a shell ignores it for its background processes
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        sys.stdout.flush()
        return
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        code = 128 + signal.SIGINT
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
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
    except OSError:  # already reported; Python would report it again when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(main: Callable[[], int | None]) -> None:
    """Runs a program and exits with its code, or as `exit_on_errors` says."""
    with exit_on_errors():
        code = main()
    sys.exit(code)
