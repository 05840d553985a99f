"""Hierarchical orders: parts of the grid one after another, coarse before fine. Each number is the step of a cell.

    windows2         windows2 on odd sides     pyramid
     0  1  4  5       0  1  4                   0  4  1  5
     2  3  6  7       2  3  6                   6  7  8  9
     8  9 12 13       8  9 12                   2 10  3 11
    10 11 14 15                                12 13 14 15

Windows that do not divide the grid are filled up with pads: rows of zeros behind the tokens, which the routes read too.
"""

from __future__ import annotations

import torch

from vimamba.errors import check_integers
from vimamba.scans.order import Grid, ScanOrder, register_order

__all__ = ['pyramid', 'windows', 'windows2', 'windows7']


@register_order(2)
def windows(grid: Grid, size: int = 7) -> ScanOrder:
    """Window after window of size x size tokens, each row by row (LocalMamba, arXiv:2403.09338, Fig. 2).

    Raises:
        UsageError: ``size`` is less than 1.

    >>> windows((2, 4), size=2).index
    tensor([[0, 1, 4, 5, 2, 3, 6, 7]])
    >>> windows((2, 3), size=2)
    ScanOrder(routes=1, length=8, grid=(2, 3), pads=2)
    """
    check_integers(1, size=size)
    height, width = grid
    high, wide = -(-height // size), -(-width // size)  # in windows
    rows = torch.full((high * size, wide * size), -1)
    rows[:height, :width] = torch.arange(height * width).view(grid)
    rows = rows.view(high, size, wide, size).transpose(1, 2).flatten()
    pads = int((rows < 0).sum())
    rows[rows < 0] = torch.arange(height * width, len(rows))
    return ScanOrder(rows.view(1, -1), grid, pads=pads)


@register_order(2)
def windows2(grid: Grid) -> ScanOrder:
    """`windows` of 2 x 2 tokens.

    >>> windows2((2, 4)).index
    tensor([[0, 1, 4, 5, 2, 3, 6, 7]])
    """
    return windows(grid, 2)


@register_order(2)
def windows7(grid: Grid) -> ScanOrder:
    """`windows` of 7 x 7 tokens.

    >>> windows7((3, 7)).pads
    28
    """
    return windows(grid, 7)


@register_order(2)
def pyramid(grid: Grid) -> ScanOrder:
    """Every 2^n-th token of both sides first, then those of each finer level: what is read early spans the image.

         0  4  1  5
         6  7  8  9
         2 10  3 11
        12 13 14 15

    The levels are those of an image pyramid, the coarsest with more than one token first; each is read row by row
    without the tokens that were read before.

    >>> pyramid((2, 4)).index
    tensor([[0, 2, 1, 3, 4, 5, 6, 7]])
    """
    row, column = (torch.arange(side) for side in grid)
    finest = max(grid).bit_length()

    def level(position: torch.Tensor) -> torch.Tensor:  # how often it can be halved
        return sum((position % 2**power == 0).long() for power in range(1, finest + 1))

    levels = torch.minimum(level(row)[:, None], level(column)[None, :]).flatten()
    return ScanOrder(levels.sort(descending=True, stable=True).indices.view(1, -1), grid)
