"""Routes as the kernels take them: of a layer that is made for one size, or of a map of any, laid once for each."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from vimamba.kernels.routes import walk_of
from vimamba.scans import ScanOrder, create_order
from vimamba.scans.base import plainly
from vimamba.scans.hybrid import Scan

__all__ = ['Scan', 'Walker', 'as_scan', 'concrete', 'count_routes', 'walk']


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


def as_scan(scan: str | Sequence[str]) -> Scan:
    """The name of a scan order, or the names of several, checked."""
    scan = scan if isinstance(scan, str) else tuple(scan)
    create_order(scan, (2, 2))
    return scan


def count_routes(scan: Scan) -> int:
    return create_order(scan, (2, 2)).routes


def concrete(size: int) -> int:
    """A size that the compiler takes for any as the one that it is: routes are constants of a graph for one size."""
    return len(range(size))


def walk(scan: Scan, height: int, width: int, device: torch.device) -> tuple[Tensor | None, list[int], int]:
    """The routes over a (height, width) map: (rows, steps) as the operators take them, and how many pads they read."""
    height, width = concrete(height), concrete(width)
    return _rows(scan, height, width, device), list(_steps(scan, height, width)), _pads(scan, height, width)


@lru_cache(maxsize=128)
def _walk(scan: Scan, height: int, width: int, device: torch.device) -> tuple[Tensor | None, tuple[int, ...]]:
    with plainly():
        rows, steps = walk_of(create_order(scan, (height, width)).index)
        return None if rows is None else rows.to(device), tuple(steps)


# constants of a compiled graph, each of a kind that the compiler takes for one
@torch.compiler.assume_constant_result
def _rows(scan: Scan, height: int, width: int, device: torch.device) -> Tensor | None:
    return _walk(scan, height, width, device)[0]


@torch.compiler.assume_constant_result
def _steps(scan: Scan, height: int, width: int) -> tuple[int, ...]:
    return _walk(scan, height, width, torch.device('cpu'))[1]


@torch.compiler.assume_constant_result
def _pads(scan: Scan, height: int, width: int) -> int:
    return create_order(scan, (height, width)).pads
