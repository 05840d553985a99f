"""The routes over a map of any size, as the kernels take them: laid once for each size and remembered."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from vimamba.kernels.routes import walk_of
from vimamba.scans import create_order

__all__ = ['count_routes', 'route_pads', 'route_rows', 'route_steps']

Scan = str | tuple[str, ...]


def as_scan(scan: str | Sequence[str]) -> Scan:
    """The name of a scan order, or the names of several, checked."""
    scan = scan if isinstance(scan, str) else tuple(scan)
    create_order(scan, (2, 2))
    return scan


def count_routes(scan: Scan) -> int:
    return create_order(scan, (2, 2)).routes


@lru_cache(maxsize=128)
def _walk(scan: Scan, height: int, width: int, device: torch.device) -> tuple[Tensor | None, tuple[int, ...]]:
    rows, steps = walk_of(create_order(scan, (height, width)).index)
    with torch.inference_mode(False):
        return None if rows is None else rows.to(device), tuple(steps)


@torch.compiler.assume_constant_result
def route_steps(scan: Scan, height: int, width: int) -> tuple[int, ...]:
    """The step of every route over a (height, width) map; 1 where a table says more."""
    return _walk(scan, int(height), int(width), torch.device('cpu'))[1]


@torch.compiler.assume_constant_result
def route_pads(scan: Scan, height: int, width: int) -> int:
    """Rows of zeros that the routes read behind the tokens."""
    return create_order(scan, (int(height), int(width))).pads


@torch.compiler.assume_constant_result
def route_rows(scan: Scan, height: int, width: int, device: torch.device) -> Tensor | None:
    """The table of rows (k, l) int32, or None where the steps say it all."""
    return _walk(scan, int(height), int(width), device)[0]
