"""Routes as the kernels take them: of a layer that is made for one size, or of a map of any, laid once for each.

A map has the sides (h, w), of an image, or (t, h, w), of a clip.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from vimamba.kernels.routes import walk_of
from vimamba.scans import Grid, ScanOrder, create_order
from vimamba.scans.order import plainly
from vimamba.scans.schedules import Scan

__all__ = ['Scan', 'Walker', 'as_scan', 'concrete', 'count_routes', 'for_scripts', 'walk']


class Walker(nn.Module):
    """A module over tokens in memory order that reads them along the routes of one scan order.

    The table of rows goes where the parameters go, but is no buffer: it follows from the order, so there is nothing
    to average, to save or to fill in again after the meta device.
    """

    rows: Tensor | None
    steps: list[int]
    pads: int

    def set_order(self, order: ScanOrder) -> None:
        """Changes the tokens or the routes that are read."""
        self.rows, self.steps = walk_of(order.index)
        self.pads = order.pads
        self._apply(lambda t: t)  # takes the table to the device of the parameters

    @property
    def any_length(self) -> bool:
        """Whether the routes are laid out for any number of tokens: in memory order, forth or back."""
        return self.rows is None and all(abs(step) == 1 for step in self.steps)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> 'Walker':
        super()._apply(fn, recurse)
        device = next(self.parameters()).device
        if self.rows is not None and device.type != 'meta':
            self.rows = self.rows.to(device)
        return self


def as_scan(scan: str | Sequence[str], sides: int = 2) -> list[str]:
    """The names of a scan order or of several, checked for maps of so many sides."""
    create_order(scan, (2,) * sides)
    return [scan] if isinstance(scan, str) else list(scan)


def count_routes(scan: Sequence[str]) -> int:
    return create_order(scan, (2, 2)).routes


def concrete(size: int) -> int:
    """A size that the compiler takes for any as the one that it is: routes are constants of a graph for one size."""
    return len(range(size))


def walk(x: Tensor, scan: list[str], grid: list[int]) -> tuple[Tensor | None, list[int], int]:
    """The routes over a map of these sides: (rows, steps) as the operators take them, where x is, and the pads read."""
    if torch.jit.is_scripting():
        return torch.ops.vimamba.walk(x, scan, grid)
    else:
        own, sides = tuple(scan), tuple([concrete(side) for side in grid])
        if not torch.compiler.is_dynamo_compiling():
            return *_walk(own, sides, x.device), _pads(own, sides)
        rows = _rows(own, sides, x.device) if _has_rows(own, sides) else None
        return rows, list(_steps(own, sides)), _pads(own, sides)


def for_scripts(schema: str, function: Callable[..., Any]) -> None:
    """``function`` as an operator of torch, which is how a file of TorchScript can call it."""
    _library.define(schema)
    _library.impl(schema.split('(')[0], function, 'CompositeImplicitAutograd')


_library = torch.library.Library('vimamba', 'FRAGMENT')
for_scripts('walk(Tensor x, str[] scan, int[] grid) -> (Tensor?, int[], int)', walk)


@lru_cache(maxsize=128)
def _walk(scan: Scan, grid: Grid, device: torch.device) -> tuple[Tensor | None, list[int]]:
    with plainly():
        rows, steps = walk_of(create_order(scan, grid).index)
        return None if rows is None else rows.to(device), steps


# constants of a compiled graph, each of a kind that the compiler takes for one; of tensors, `assume_constant_result`
# takes a single one in a graph (torch 2.14)
@torch.compiler.allow_in_graph
def _rows(scan: Scan, grid: Grid, device: torch.device) -> Tensor:
    return torch.ops.aten.lift_fresh_copy(_walk(scan, grid, device)[0])


@torch.compiler.assume_constant_result
def _has_rows(scan: Scan, grid: Grid) -> bool:
    return _walk(scan, grid, torch.device('cpu'))[0] is not None


@torch.compiler.assume_constant_result
def _steps(scan: Scan, grid: Grid) -> tuple[int, ...]:
    return tuple(_walk(scan, grid, torch.device('cpu'))[1])


@torch.compiler.assume_constant_result
def _pads(scan: Scan, grid: Grid) -> int:
    return create_order(scan, grid).pads
