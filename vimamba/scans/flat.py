"""Flat orders: one line through the grid. Each number is the step at which the cell is read.

    raster        column        snake         zigzag
     0  1  2  3    0  3  6  9    0  1  2  3    0  1  5  6
     4  5  6  7    1  4  7 10    7  6  5  4    2  4  7 10
     8  9 10 11    2  5  8 11    8  9 10 11    3  8  9 11

`raster` and `bidirectional` also read sequences (L,), they and `column` clips (T, H, W); all read a plane of any size.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from vimamba.errors import bad_argument
from vimamba.scans.order import Grid, ScanOrder, register_order

__all__ = [
    'bidirectional',
    'column',
    'column_bidirectional',
    'cross',
    'hilbert',
    'hilbert_bidirectional',
    'raster',
    'snake',
    'snake_bidirectional',
    'snake_column',
    'strided',
    'zigzag',
    'zigzag_bidirectional',
]


@register_order(1, 2, 3)
def raster(grid: Grid) -> ScanOrder:
    """Row after row, as the tokens lie in memory; frame after frame in a clip.

         0  1  2  3
         4  5  6  7
         8  9 10 11

    >>> raster((2, 3)).index
    tensor([[0, 1, 2, 3, 4, 5]])
    """
    return _order(grid, _cells(grid))


@register_order(1, 2, 3)
def bidirectional(grid: Grid) -> ScanOrder:
    """Raster, there and back: Vim's two routes (arXiv:2401.09417, Sec. 3.2).

        route 0        route 1 back
         0  1  2  3    11 10  9  8
         4  5  6  7     7  6  5  4
         8  9 10 11     3  2  1  0

    >>> bidirectional((3,)).index
    tensor([[0, 1, 2],
            [2, 1, 0]])
    """
    return _there_and_back(raster(grid))


@register_order(2, 3)
def column(grid: Grid) -> ScanOrder:
    """Column after column; frame after frame in a clip.

         0  3  6  9
         1  4  7 10
         2  5  8 11

    >>> column((2, 3)).index
    tensor([[0, 3, 1, 4, 2, 5]])
    """
    return _order(grid, _cells(grid).mT)


@register_order(2, 3)
def column_bidirectional(grid: Grid) -> ScanOrder:
    """Column, there and back.

        route 0        route 1 back
         0  3  6  9    11  8  5  2
         1  4  7 10    10  7  4  1
         2  5  8 11     9  6  3  0

    >>> column_bidirectional((2, 2)).index
    tensor([[0, 2, 1, 3],
            [3, 1, 2, 0]])
    """
    return _there_and_back(column(grid))


@register_order(2)
def cross(grid: Grid) -> ScanOrder:
    """Raster and column, there and back: VMamba's SS2D (arXiv:2401.10166, Fig. 3).

        route 0        route 1        route 2 back   route 3 back
         0  1  2  3     0  3  6  9    11 10  9  8    11  8  5  2
         4  5  6  7     1  4  7 10     7  6  5  4    10  7  4  1
         8  9 10 11     2  5  8 11     3  2  1  0     9  6  3  0

    >>> cross((2, 2)).index
    tensor([[0, 1, 2, 3],
            [0, 2, 1, 3],
            [3, 2, 1, 0],
            [3, 1, 2, 0]])
    """
    return _there_and_back(raster(grid) | column(grid))


@register_order(2)
def snake(grid: Grid) -> ScanOrder:
    """Row after row, every second one from right to left: a continuous line (arXiv:2403.17695).

         0  1  2  3
         7  6  5  4
         8  9 10 11

    >>> snake((2, 3)).index
    tensor([[0, 1, 2, 5, 4, 3]])
    """
    cells = _cells(grid)
    cells[1::2] = cells[1::2].flip(1)
    return _order(grid, cells)


@register_order(2)
def snake_column(grid: Grid) -> ScanOrder:
    """Column after column without a jump: the odd ones upwards.

         0  5  6 11
         1  4  7 10
         2  3  8  9

    >>> snake_column((2, 3)).index
    tensor([[0, 3, 4, 1, 2, 5]])
    """
    cells = _cells(grid).T.clone()
    cells[1::2] = cells[1::2].flip(1)
    return _order(grid, cells)


@register_order(2)
def snake_bidirectional(grid: Grid) -> ScanOrder:
    """Snake, there and back.

        route 0        route 1 back
         0  1  2  3    11 10  9  8
         7  6  5  4     4  5  6  7
         8  9 10 11     3  2  1  0

    >>> snake_bidirectional((2, 2)).index
    tensor([[0, 1, 3, 2],
            [2, 3, 1, 0]])
    """
    return _there_and_back(snake(grid))


@register_order(2)
def zigzag(grid: Grid) -> ScanOrder:
    """Diagonal after diagonal in turns, as JPEG reads its coefficients (ITU-T T.81).

         0  1  5  6
         2  4  7 10
         3  8  9 11

    >>> zigzag((2, 3)).index
    tensor([[0, 1, 3, 4, 2, 5]])
    """
    height, width = grid
    row, col = torch.arange(height)[:, None], torch.arange(width)
    diagonal = row + col
    along = torch.where(diagonal % 2 == 1, row, col)  # odd diagonals go down, even ones go up
    return _order(grid, (diagonal * (height + width) + along).flatten().argsort())


@register_order(2)
def zigzag_bidirectional(grid: Grid) -> ScanOrder:
    """Zigzag, there and back.

        route 0        route 1 back
         0  1  5  6    11 10  6  5
         2  4  7 10     9  7  4  1
         3  8  9 11     8  3  2  0

    >>> zigzag_bidirectional((2, 2)).index
    tensor([[0, 1, 2, 3],
            [3, 2, 1, 0]])
    """
    return _there_and_back(zigzag(grid))


@register_order(2)
def hilbert(grid: Grid) -> ScanOrder:
    """A Hilbert curve for any size: near in the sequence is near in space.

         0  1 14 15
         3  2 13 12
         4  7  8 11
         5  6  9 10

    Each step goes to a neighbour. The longer side is cut in two, or a square in three (there, across, back), as in
    J. Červený's generalised Hilbert curve: the enclosing power of two, clipped, would jump wherever it leaves the
    grid. Powers of two give Hilbert's own curve.

    >>> hilbert((2, 3)).index
    tensor([[0, 3, 4, 1, 2, 5]])
    """
    height, width = grid
    if width >= height:
        col, row = _hilbert(width, height)
    else:
        row, col = _hilbert(height, width)
    return _order(grid, row * width + col)


@register_order(2)
def hilbert_bidirectional(grid: Grid) -> ScanOrder:
    """Hilbert, there and back.

        route 0        route 1 back
         0  1 14 15    15 14  1  0
         3  2 13 12    12 13  2  3
         4  7  8 11    11  8  7  4
         5  6  9 10    10  9  6  5

    >>> hilbert_bidirectional((2, 2)).index
    tensor([[0, 2, 3, 1],
            [1, 3, 2, 0]])
    """
    return _there_and_back(hilbert(grid))


@register_order(2)
def strided(grid: Grid, step: int = 2) -> ScanOrder:
    """The sub-grids of pixels that lie ``step`` apart, one after another (arXiv:2403.09977).

         0  8  1  9
         4 12  6 14
         2 10  3 11
         5 13  7 15

    Sub-grid k, of step * step, starts at row k % step and column k // step. It is read by rows where k % step is
    even, else by columns. EfficientVMamba's four scans are the segments of this route with step 2: the rows of
    ``strided(grid).index.view(4, -1)``, on even sides; it pads odd ones first, while here sub-grids then differ.

    Raises:
        UsageError: ``step`` is less than 1.

    >>> strided((2, 4)).index
    tensor([[0, 2, 4, 6, 1, 3, 5, 7]])
    """
    if step < 1:
        raise bad_argument('step', 'at least 1', step)
    cells = _cells(grid)
    parts = [(row, cells[row::step, col::step]) for col in range(step) for row in range(step)]
    return _order(grid, torch.cat([(part.T if row % 2 else part).flatten() for row, part in parts]))


def _cells(grid: Grid) -> Tensor:
    """The memory row of every cell, in the shape of the grid."""
    return torch.arange(torch.Size(grid).numel()).view(grid)


def _order(grid: Grid, rows: Tensor) -> ScanOrder:
    return ScanOrder(rows.reshape(1, -1), grid)


def _there_and_back(forth: ScanOrder) -> ScanOrder:
    return forth | forth.reversed()


@lru_cache(maxsize=256)
def _hilbert(n: int, m: int) -> tuple[Tensor, Tensor]:
    """A continuous path over n x m cells (n > 1 or m = 1) from (0, 0) along n: its coordinates, each (n * m,).

    It ends at (n - 1, 0), but for n odd and m even, where parity forbids that, at (n - 1, m - 1). Pieces are cut at
    even sizes, so that none of them is of that kind.
    """
    if m == 1:
        return torch.arange(n), torch.zeros(n, dtype=torch.int64)
    if n % 2 == 1 and m % 2 == 0:  # the last line is walked across
        i, j = _hilbert(n - 1, m)
        return torch.cat((i, torch.full((m,), n - 1))), torch.cat((j, torch.arange(m)))
    if 2 * n > 3 * m:  # two halves
        half = n // 2 + n // 2 % 2
        (i0, j0), (i1, j1) = _hilbert(half, m), _hilbert(n - half, m)
        return torch.cat((i0, half + i1)), torch.cat((j0, j1))
    half, low = n // 2, 1 if m == 2 else m // 2 + m // 2 % 2
    (j0, i0), (i1, j1), (j2, i2) = _hilbert(low, half), _hilbert(n, m - low), _hilbert(low, n - half)
    return torch.cat((i0, i1, n - 1 - i2)), torch.cat((j0, low + j1, low - 1 - j2))
