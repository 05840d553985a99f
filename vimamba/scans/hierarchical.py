"""Hierarchical orders: the grid part by part, or coarse before fine. Each number is the step at which the cell is read.

    windows2         windows2 on odd sides     pyramid
     0  1  4  5       0  1  4                   0  4  1  5
     2  3  6  7       2  3  6                   6  7  8  9
     8  9 12 13       8  9 12                   2 10  3 11
    10 11 14 15                                12 13 14 15

Windows that do not divide the grid are filled with pads: rows of zeros after the tokens, which the routes read too.
"""

from __future__ import annotations

import torch

from vimamba.errors import check_integers

from .order import Grid, ScanOrder, cells, one_route, register_order

__all__ = ['pyramid', 'windows']


@register_order(2)
def windows(grid: Grid, size: int = 7) -> ScanOrder:
    """Windows of size x size tokens, each row by row (LocalMamba, arXiv:2403.09338, Fig. 2).

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
    rows[:height, :width] = cells(grid)
    rows = rows.view(high, size, wide, size).transpose(1, 2).flatten()
    pads = int((rows < 0).sum())
    rows[rows < 0] = torch.arange(height * width, len(rows))
    return ScanOrder(rows.view(1, -1), grid, pads=pads)


@register_order(2)
def pyramid(grid: Grid) -> ScanOrder:
    """Every 2^n-th token of both sides first, then those of each finer level: the first tokens span the image.

    The levels are those of an image pyramid, starting with the coarsest of more than one token; each is read row by
    row, without the tokens already read.

    >>> pyramid((2, 4)).index
    tensor([[0, 2, 1, 3, 4, 5, 6, 7]])
    """
    row, column = (torch.arange(side) for side in grid)
    finest = max(grid).bit_length()

    def level(position: torch.Tensor) -> torch.Tensor:  # how often it can be halved
        return sum((position % 2**power == 0).long() for power in range(1, finest + 1))

    levels = torch.minimum(level(row)[:, None], level(column)[None, :]).flatten()
    return one_route(grid, levels.sort(descending=True, stable=True).indices)
