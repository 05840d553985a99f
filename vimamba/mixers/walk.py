"""The routes over a map of any size, as the kernels take them: laid once for each size and remembered."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from vimamba.kernels.routes import walk_of
from vimamba.scans import create_order

__all__ = ['Scan', 'as_scan', 'count_routes', 'walk']

Scan = str | tuple[str, ...]


def as_scan(scan: str | Sequence[str]) -> Scan:
    """The name of a scan order, or the names of several, checked."""
    scan = scan if isinstance(scan, str) else tuple(scan)
    create_order(scan, (2, 2))
    return scan


def count_routes(scan: Scan) -> int:
    return create_order(scan, (2, 2)).routes


def walk(scan: Scan, height: int, width: int, device: torch.device) -> tuple[Tensor | None, list[int], int]:
    """The routes over a (height, width) map: (rows, steps) as the operators take them, and how many pads they read."""
    return _rows(scan, height, width, device), list(_steps(scan, height, width)), _pads(scan, height, width)


@lru_cache(maxsize=128)
def _walk(scan: Scan, height: int, width: int, device: torch.device) -> tuple[Tensor | None, tuple[int, ...]]:
    rows, steps = walk_of(create_order(scan, (height, width)).index)
    with torch.inference_mode(False):
        return None if rows is None else rows.to(device), tuple(steps)


# constants of a compiled graph, each of a kind that the compiler takes for one
@torch.compiler.assume_constant_result
def _rows(scan: Scan, height: int, width: int, device: torch.device) -> Tensor | None:
    return _walk(scan, int(height), int(width), device)[0]


@torch.compiler.assume_constant_result
def _steps(scan: Scan, height: int, width: int) -> tuple[int, ...]:
    return _walk(scan, int(height), int(width), torch.device('cpu'))[1]


@torch.compiler.assume_constant_result
def _pads(scan: Scan, height: int, width: int) -> int:
    return create_order(scan, (int(height), int(width))).pads
