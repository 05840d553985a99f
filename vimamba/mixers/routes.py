"""Where a mixer reads: routes over the tokens, laid out for one grid or for maps of any size.

Two adapters serve every mixer. `FixedScan` holds the routes of one scan order. `MapScan` lays out the routes of named
orders for each map it is given, and caches them per size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimamba.kernels.routes import read, unread, walk_of
from vimamba.scans import Grid, ScanOrder, create_order
from vimamba.scans.order import plainly
from vimamba.scans.schedules import Scan

__all__ = ['IN_ORDER', 'FixedScan', 'MapScan', 'Routes', 'lay', 'specialize']


@dataclass(eq=False)
class Routes:
    """K routes over the L tokens of a sequence or map, as the operators take them.

    Attributes:
        rows: (K, L) int32, the token that each route reads at each step, on the device of the tokens; None where
            ``steps`` determines it.
        steps: distance between successive tokens of each route, see `vimamba.kernels.routes.route_rows`.
        pads: number of zeros behind the real tokens, part of L.
        grid: sides of the map, (h, w) or (t, h, w), in tokens.
        names: the scan orders, where they were given by name.
    """

    rows: Tensor | None
    steps: list[int]
    pads: int = 0
    grid: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def only(self, k: int) -> Routes:
        """Route k alone."""
        rows = None if self.rows is None else self.rows[k : k + 1]
        return replace(self, rows=rows, steps=self.steps[k : k + 1])

    def pad(self, x: Tensor) -> Tensor:
        """Tokens (b, l, c) with the zeros behind them that the routes read."""
        return F.pad(x, (0, 0, 0, self.pads)) if self.pads else x

    def read(self, x: Tensor) -> Tensor:
        """(b, K or 1, ..., L) in token order -> (b, K, ..., L) in the order of each route."""
        return read(x, self.rows, self.steps)

    def unread(self, x: Tensor) -> Tensor:
        """The inverse of `read`: (b, K, ..., L), kept."""
        return unread(x, self.rows, self.steps)


IN_ORDER = Routes(None, [1])  # one route, in memory order


class FixedScan(nn.Module):
    """The routes of one scan order.

    The table of rows follows the module to its device. It is not a buffer: it is determined by the order, so there is
    nothing to average, to save or to restore after the meta device.

    Args:
        order: the routes over the tokens.
        device: where the tokens will be.
    """

    def __init__(self, order: ScanOrder, device: torch.device | str | None = None):
        super().__init__()
        self.device = torch.device(device or torch.get_default_device())
        self.set_order(order)

    def set_order(self, order: ScanOrder) -> None:
        rows, steps = walk_of(order.index)
        self.count = order.routes
        self.routes = Routes(rows, steps, order.pads, order.grid)
        self._apply(lambda t: t)

    @property
    def any_length(self) -> bool:
        """Whether the routes hold for any number of tokens: in memory order, forward or backward."""
        return self.routes.rows is None and all(abs(step) == 1 for step in self.routes.steps)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedScan:
        self.device = fn(torch.empty(0, device=self.device)).device
        rows = self.routes.rows
        if rows is not None and self.device.type != 'meta':
            self.routes = replace(self.routes, rows=rows.to(self.device))
        return self

    def routes_of(self, x: Tensor) -> Routes:
        """The routes over tokens (b, l, c) or a map (b, *grid, c)."""
        rows = self.routes.rows
        if rows is not None and rows.device != x.device and x.device.type != 'meta':  # moved without `_apply`
            self.routes = replace(self.routes, rows=rows.to(x.device))
        return self.routes


class MapScan(nn.Module):
    """The routes of named scan orders over maps of any size, (b, *grid, c).

    Args:
        scan: name of a scan order, or names of several whose routes are taken together.
        sides: 2 for maps (h, w), 3 for maps of clips (t, h, w).

    Raises:
        UsageError: an unknown name, or an order that is not defined on such a grid.
    """

    any_length = False

    def __init__(self, scan: str | Sequence[str], sides: int = 2):
        super().__init__()
        self.names = (scan,) if isinstance(scan, str) else tuple(scan)
        self.count = create_order(self.names, (2,) * sides).routes

    def routes_of(self, x: Tensor) -> Routes:
        """The routes over a map (b, *grid, c)."""
        return lay(self.names, x)

    def extra_repr(self) -> str:
        return ', '.join(self.names)


def specialize(size: int) -> int:
    """Specialises a symbolic size to its current value: routes are constants of a graph for one size."""
    return len(range(size))


def lay(scan: tuple[str, ...], x: Tensor) -> Routes:
    """The routes of ``scan`` over a map (b, *grid, c), on its device."""
    grid = tuple([specialize(side) for side in x.shape[1:-1]])
    if not torch.compiler.is_dynamo_compiling():
        return _lay(scan, grid, x.device)
    rows = _rows(scan, grid, x.device) if _has_rows(scan, grid) else None
    return Routes(rows, list(_steps(scan, grid)), _pads(scan, grid), grid, scan)


@lru_cache(maxsize=128)
def _lay(scan: Scan, grid: Grid, device: torch.device) -> Routes:
    with plainly():
        order = create_order(scan, grid)
        rows, steps = walk_of(order.index)
        return Routes(None if rows is None else rows.to(device), steps, order.pads, grid, scan)


# Constants of a compiled graph, each of a kind that the compiler accepts as one. Of tensors, `assume_constant_result`
# accepts a single one in a graph (torch 2.14).
@torch.compiler.allow_in_graph
def _rows(scan: Scan, grid: Grid, device: torch.device) -> Tensor:
    return torch.ops.aten.lift_fresh_copy(_lay(scan, grid, device).rows)


@torch.compiler.assume_constant_result
def _has_rows(scan: Scan, grid: Grid) -> bool:
    return _lay(scan, grid, torch.device('cpu')).rows is not None


@torch.compiler.assume_constant_result
def _steps(scan: Scan, grid: Grid) -> tuple[int, ...]:
    return tuple(_lay(scan, grid, torch.device('cpu')).steps)


@torch.compiler.assume_constant_result
def _pads(scan: Scan, grid: Grid) -> int:
    return _lay(scan, grid, torch.device('cpu')).pads
