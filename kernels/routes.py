"""Routes over the tokens as arguments of the kernels: a table of rows, or one step for each route."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from vimamba.errors import bad_argument

from .operator import define

__all__ = ['Order', 'find_steps', 'read', 'route_rows', 'swap', 'unread', 'walk_along', 'walk_of']


class Order(Protocol):
    """K routes over l tokens, such as a `vimamba.scans.ScanOrder`. Attributes: index (K, l) int64."""

    @property
    def index(self) -> Tensor: ...


def route_rows(step: int, length: int, device: torch.device | str = 'cpu') -> Tensor:
    """The tokens (length,) int64 of a route that adds ``step`` to the token, modulo length - 1, at each position.

    Step 1 reads in memory order. The width of a grid as the step reads it column by column. A negative step reverses.

    >>> route_rows(3, 6).tolist(), route_rows(-1, 4).tolist()
    ([0, 3, 1, 4, 2, 5], [3, 2, 1, 0])
    """
    position = torch.arange(length, device=device)
    if step < 0:
        position = position.flip(0)
    if abs(step) == 1:
        return position
    return torch.where(position == length - 1, position, position * abs(step) % max(length - 1, 1))


def find_steps(index: Tensor) -> list[int] | None:
    """The step of every route of an index (K, L), or None if a route needs a table.

    >>> find_steps(torch.tensor([[0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0]]))
    [3, -1]
    """
    steps = []
    for route in index.cpu():
        length = len(route)
        first, second = (int(route[0]), int(route[1])) if length > 1 else (0, 1)
        step = second if first == 0 else -int(route[-2])
        if step == 0 or not torch.equal(route, route_rows(step, length)):
            return None
        steps.append(step)
    return steps


def walk_along(order: Order, name: str, x: Tensor) -> tuple[Tensor | None, list[int]]:
    """`walk_of` for an order over the tokens of ``x`` (..., l), the argument ``name``. The table is on its device.

    Raises:
        UsageError: ``order`` is not an order over l tokens.
    """
    index = getattr(order, 'index', None)
    if not isinstance(index, Tensor):
        raise bad_argument('order', 'a scan order, with an index (k, l)', type(order).__name__)
    if index.ndim == 2 and index.shape[1] != x.shape[-1]:
        raise bad_argument('order', f'one over the {x.shape[-1]} tokens of {name}', f'{index.shape[1]} tokens')
    if torch.compiler.is_compiling():
        return _table(index).to(x.device), [1] * len(index)
    rows, steps = walk_of(index)
    return None if rows is None else rows.to(x.device), steps


def walk_of(index: Tensor) -> tuple[Tensor | None, list[int]]:
    """The arguments (rows, steps) of the operators: rows is the index as int32, or None if the steps suffice.

    Raises:
        UsageError: the index is not (k, l), integers, a permutation of 0 ... l - 1 in every route.
    """
    if index.is_inference():  # has no version counter
        steps = _steps.__wrapped__(index, 0)
    else:
        steps = _steps(index, index._version)
    return (index.to(torch.int32), [1] * len(index)) if steps is None else (None, list(steps))


@lru_cache(maxsize=128)
def _steps(index: Tensor, version: int) -> tuple[int, ...] | None:
    """Checks an index and finds its steps, cached by its version: this takes as long as a small scan.

    The kernels index memory with the rows without further checks.
    """
    _check(index)
    steps = find_steps(index)
    return None if steps is None else tuple(steps)


def _check(index: Tensor) -> None:
    if index.ndim != 2 or not len(index) or index.dtype not in (torch.int32, torch.int64) or index.is_meta:
        found = f'{tuple(index.shape)} {index.dtype} on {index.device.type}'
        raise bad_argument('order', 'an index (k, l) of integers, k >= 1', found)
    if not (index.sort(1).values == torch.arange(index.shape[1], device=index.device)).all():
        raise bad_argument('order', f'each of the rows 0 ... {index.shape[1] - 1} once in every route', 'other rows')


def _look_up(index: Tensor) -> Tensor:
    """The table as a node of a traced graph. The values are unknown to tracing, so each run checks them."""
    _check(index)
    return index.to(torch.int32, copy=True)


_table = define(
    'route_table', '(Tensor index) -> Tensor', _look_up, lambda index: index.new_empty(index.shape, dtype=torch.int32)
)


def _walk(x: Tensor, rows: Tensor | None, steps: list[int], back: bool) -> Tensor:
    if rows is None and all(step == 1 for step in steps):
        return x.expand(-1, len(steps), *x.shape[2:])
    parts = []
    for k, step in enumerate(steps):
        part = x[:, k if x.shape[1] > 1 else 0]
        if rows is None and step == -1:
            part = part.flip(-1)
        elif rows is not None or step != 1:
            index = rows[k].long() if rows is not None else route_rows(step, x.shape[-1], x.device)
            part = part.index_select(-1, index.argsort() if back else index)
        parts.append(part)
    return torch.stack(parts, 1)


def read(x: Tensor, rows: Tensor | None, steps: list[int]) -> Tensor:
    """Reads the tokens along every route: (b, k or 1, ..., l) in token order -> (b, k, ..., l) in route order."""
    return _walk(x, rows, steps, back=False)


def unread(x: Tensor, rows: Tensor | None, steps: list[int]) -> Tensor:
    """Inverse of `read`: (b, k, ..., l) in route order -> in token order."""
    return _walk(x, rows, steps, back=True)


def swap(t: Tensor) -> Tensor:
    """The view (b, k, d, l) of (k, b, l, d), or (b, d, l) of (b, l, d), and vice versa: outputs are channels-last."""
    return t.permute(1, 0, 3, 2) if t.ndim == 4 else t.transpose(1, 2)
