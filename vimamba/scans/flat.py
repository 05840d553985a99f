"""Flat orders: one line through the grid. Each number in a drawing is the step at which the cell is read.

All read a plane (H, W) of any size; `raster`, `bidirectional` and `column` also read clips (T, H, W), and the first two
sequences (L,).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from vimamba.errors import check_integers

from .order import Grid, ScanOrder, cells, one_route, register_order

__all__ = ['bidirectional', 'column', 'cross', 'hilbert', 'raster', 'snake', 'snake_column', 'strided', 'zigzag']


@register_order(1, 2, 3)
def raster(grid: Grid) -> ScanOrder:
    """Row by row, as the tokens lie in memory; frame by frame in a clip.

    0  1  2  3
    4  5  6  7
    8  9 10 11
    """
    return one_route(grid, cells(grid))


@register_order(1, 2, 3)
def bidirectional(grid: Grid) -> ScanOrder:
    """Raster, forward and backward: Vim's two routes (arXiv:2401.09417, Sec. 3.2).

    route 0        route 1 back
     0  1  2  3    11 10  9  8
     4  5  6  7     7  6  5  4
     8  9 10 11     3  2  1  0
    """
    return raster(grid) | raster(grid).reversed()


@register_order(2, 3)
def column(grid: Grid) -> ScanOrder:
    """Column by column; frame by frame in a clip.

         0  3  6  9
         1  4  7 10
         2  5  8 11

    >>> column((2, 3)).index
    tensor([[0, 3, 1, 4, 2, 5]])
    """
    return one_route(grid, cells(grid).mT)


@register_order(2)
def cross(grid: Grid) -> ScanOrder:
    """Raster and column, forward and backward: VMamba's SS2D (arXiv:2401.10166, Fig. 3).

    route 0        route 1        route 2 back   route 3 back
     0  1  2  3     0  3  6  9    11 10  9  8    11  8  5  2
     4  5  6  7     1  4  7 10     7  6  5  4    10  7  4  1
     8  9 10 11     2  5  8 11     3  2  1  0     9  6  3  0
    """
    forward = raster(grid) | column(grid)
    return forward | forward.reversed()


@register_order(2)
def snake(grid: Grid) -> ScanOrder:
    """Row by row, odd rows from right to left: a continuous path (arXiv:2403.17695).

    0  1  2  3
    7  6  5  4
    8  9 10 11
    """
    return one_route(grid, _turning(cells(grid)))


@register_order(2)
def snake_column(grid: Grid) -> ScanOrder:
    """Column by column, odd columns upwards: a continuous path.

    0  5  6 11
    1  4  7 10
    2  3  8  9
    """
    return one_route(grid, _turning(cells(grid).T))


@register_order(2)
def zigzag(grid: Grid) -> ScanOrder:
    """Diagonals in alternating directions, as JPEG reads its coefficients (ITU-T T.81).

    0  1  5  6
    2  4  7 10
    3  8  9 11
    """
    height, width = grid
    row, col = torch.arange(height)[:, None], torch.arange(width)
    diagonal = row + col
    along = torch.where(diagonal % 2 == 1, row, col)  # odd diagonals go down, even ones go up
    return one_route(grid, (diagonal * (height + width) + along).flatten().argsort())


@register_order(2)
def hilbert(grid: Grid) -> ScanOrder:
    """A Hilbert curve for any size: tokens near each other in the sequence are near each other in space.

         0  1 14 15
         3  2 13 12
         4  7  8 11
         5  6  9 10

    Each step goes to a neighbour. The longer side is cut in two, or a square in three (out, across, back), as in
    J. Červený's generalised Hilbert curve; clipping the curve of the enclosing power of two would jump wherever it
    leaves the grid. On powers of two it is Hilbert's curve.
    """
    height, width = grid
    long, short = _hilbert(max(grid), min(grid))
    return one_route(grid, short * width + long if width >= height else long * width + short)


@register_order(2)
def strided(grid: Grid, step: int = 2) -> ScanOrder:
    """The sub-grids of pixels ``step`` apart, one after another (arXiv:2403.09977).

         0  8  1  9
         4 12  6 14
         2 10  3 11
         5 13  7 15

    Sub-grid k, of step * step, starts at row k % step and column k // step. It is read by rows if k % step is even,
    else by columns. On even sides, the rows of ``strided(grid).index.view(4, -1)`` are EfficientVMamba's four scans;
    it pads odd sides, whereas here the sub-grids differ in size.

    Raises:
        UsageError: ``step`` is less than 1.
    """
    check_integers(1, step=step)
    parts = [(row, cells(grid)[row::step, col::step]) for col in range(step) for row in range(step)]
    return one_route(grid, torch.cat([(part.T if row % 2 else part).flatten() for row, part in parts]))


def _turning(lines: Tensor) -> Tensor:
    """The lines with every second one backward."""
    lines = lines.clone()
    lines[1::2] = lines[1::2].flip(1)
    return lines


@lru_cache(maxsize=256)
def _hilbert(n: int, m: int) -> tuple[Tensor, Tensor]:
    """The coordinates, each (n * m,), of a continuous path over n x m cells (n > 1 or m = 1) from (0, 0) along n.

    It ends at (n - 1, 0), or, where parity forbids that (n odd, m even), at (n - 1, m - 1). Pieces are cut at even
    sizes, so that none of them is of that kind.
    """
    if m == 1:
        return torch.arange(n), torch.zeros(n, dtype=torch.int64)
    if n % 2 == 1 and m % 2 == 0:  # read the last line across
        i, j = _hilbert(n - 1, m)
        return torch.cat((i, torch.full((m,), n - 1))), torch.cat((j, torch.arange(m)))
    if 2 * n > 3 * m:  # two halves
        half = n // 2 + n // 2 % 2
        (i0, j0), (i1, j1) = _hilbert(half, m), _hilbert(n - half, m)
        return torch.cat((i0, half + i1)), torch.cat((j0, j1))
    half, low = n // 2, 1 if m == 2 else m // 2 + m // 2 % 2
    (j0, i0), (i1, j1), (j2, i2) = _hilbert(low, half), _hilbert(n, m - low), _hilbert(low, n - half)
    return torch.cat((i0, i1, n - 1 - i2)), torch.cat((j0, low + j1, low - 1 - j2))
