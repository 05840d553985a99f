"""What the options of a dense task may be, so that a wrong one is refused before anything is built or read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vimamba.errors import UsageError, bad_argument, unknown_name

__all__ = ['Rule', 'flag', 'integer', 'number', 'one_of', 'one_or_several', 'or_none', 'several']


@dataclass(frozen=True)
class Rule:
    """What a value has to be.

    Attributes:
        expected: in words.
        fits: whether a value is that.
        names: where only these words are, for the nearest one.

    >>> number(0, 1).error('a.py:3: task.dropout', -0.5)
    UsageError('a.py:3: task.dropout: expected a number in 0..1, got -0.5')
    """

    expected: str
    fits: Callable[[Any], bool]
    names: tuple[str, ...] = ()

    def error(self, where: str, value: Any) -> UsageError:
        """The error for a value that does not fit; ``where`` ends in the name of the option."""
        if self.names and isinstance(value, str):
            place, _, name = where.rpartition(': ')
            return unknown_name(name, value, self.names, f'{place}: ' if place else '')
        return bad_argument(where, self.expected, repr(value))


def integer(low: int, high: int | None = None) -> Rule:
    """An integer of at least ``low``, and at most ``high``."""
    expected = f'an integer >= {low}' if high is None else f'an integer in {low}..{high}'
    return Rule(expected, lambda v: type(v) is int and low <= v <= (v if high is None else high))


def number(low: float, high: float = math.inf, *, open_: bool = False) -> Rule:
    """A finite number from ``low`` to ``high``; an ``open_`` interval has not these two."""

    def fits(value: Any) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        return low < value < high if open_ else low <= value <= high

    between = f'between {low} and {high}' if open_ else f'in {low}..{high}'
    over = f'> {low}' if open_ else f'>= {low}'
    return Rule(f'a number {over if high == math.inf else between}', fits)


def flag() -> Rule:
    """True or False."""
    return Rule('True or False', lambda v: isinstance(v, bool))


def one_of(*names: str) -> Rule:
    """One of some words."""
    return Rule(' or '.join(map(repr, names)), lambda v: isinstance(v, str) and v in names, names)


def several(rule: Rule, count: int | None = None) -> Rule:
    """A list of ``count``, or any number but none, of what a rule says."""
    expected = f'a list of {"values" if count is None else count}, each {rule.expected}'
    sized = (lambda v: len(v) > 0) if count is None else (lambda v: len(v) == count)
    return Rule(expected, lambda v: isinstance(v, list | tuple) and sized(v) and all(map(rule.fits, v)))


def one_or_several(rule: Rule) -> Rule:
    """What a rule says, or a list of such values."""
    many = several(rule)
    return Rule(f'{rule.expected}, or several', lambda v: rule.fits(v) or many.fits(v))


def or_none(rule: Rule) -> Rule:
    """None, or what a rule says."""
    return Rule(f'{rule.expected}, or None', lambda v: v is None or rule.fits(v), rule.names)
