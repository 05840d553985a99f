"""Orders over clips (T, H, W). Frames stand side by side, and each number is the step at which a cell is read.

    spatial_first           temporal_first          tube2
     0  1 |  4  5 |  8  9    0  3 |  1  4 |  2  5    0  2 |  1  3 |  8  9
     2  3 |  6  7 | 10 11    6  9 |  7 10 |  8 11    4  6 |  5  7 | 10 11

`spatial_first` reads frame after frame, as `raster` does, `temporal_first` every place through time, and a tube a few
frames at a time, in them every place through time. A clip of one frame is read as an image in all of them.
"""

from __future__ import annotations

import torch

from vimamba.errors import check_integers
from vimamba.scans.order import Grid, ScanOrder, register_order

__all__ = [
    'spatial_first',
    'spatial_first_bidirectional',
    'temporal_columns',
    'temporal_first',
    'temporal_first_bidirectional',
    'tube',
    'tube2',
    'tube2_bidirectional',
    'tube4',
]


@register_order(3)
def spatial_first(grid: Grid) -> ScanOrder:
    """Frame after frame, each row by row: VideoMamba's choice (arXiv:2403.06977, Fig. 4 a).

    >>> spatial_first((2, 1, 3)).index
    tensor([[0, 1, 2, 3, 4, 5]])
    """
    return _order(grid, (0, 1, 2))


@register_order(3)
def spatial_first_bidirectional(grid: Grid) -> ScanOrder:
    """`spatial_first`, there and back.

    >>> spatial_first_bidirectional((2, 1, 2)).index
    tensor([[0, 1, 2, 3],
            [3, 2, 1, 0]])
    """
    return _there_and_back(spatial_first(grid))


@register_order(3)
def temporal_first(grid: Grid) -> ScanOrder:
    """Every place through time, places row by row (arXiv:2403.06977, Fig. 4 b).

    >>> temporal_first((2, 1, 3)).index
    tensor([[0, 3, 1, 4, 2, 5]])
    """
    return _order(grid, (1, 2, 0))


@register_order(3)
def temporal_first_bidirectional(grid: Grid) -> ScanOrder:
    """`temporal_first`, there and back.

    >>> temporal_first_bidirectional((2, 1, 2)).index
    tensor([[0, 2, 1, 3],
            [3, 1, 2, 0]])
    """
    return _there_and_back(temporal_first(grid))


@register_order(3)
def temporal_columns(grid: Grid) -> ScanOrder:
    """Every place through time, places column by column: the third axis of Mamba-ND (arXiv:2402.05892, Sec. 3.2).

    >>> temporal_columns((2, 2, 2)).index
    tensor([[0, 4, 2, 6, 1, 5, 3, 7]])
    """
    return _order(grid, (2, 1, 0))


@register_order(3)
def tube(grid: Grid, frames: int = 4) -> ScanOrder:
    """So many frames at a time; in them, every place through time, row by row. The last block may be shorter.

    Raises:
        UsageError: ``frames`` is less than 1.

    >>> tube((3, 1, 2), frames=2).index
    tensor([[0, 2, 1, 3, 4, 5]])
    """
    check_integers(1, frames=frames)
    blocks = torch.arange(grid[0] * grid[1] * grid[2]).view(grid).split(frames)
    return ScanOrder(torch.cat([block.permute(1, 2, 0).flatten() for block in blocks])[None], grid)


@register_order(3)
def tube2(grid: Grid) -> ScanOrder:
    """`tube` of two frames.

    >>> tube2((2, 1, 2)).index
    tensor([[0, 2, 1, 3]])
    """
    return tube(grid, 2)


@register_order(3)
def tube2_bidirectional(grid: Grid) -> ScanOrder:
    """`tube2`, there and back.

    >>> tube2_bidirectional((2, 1, 2)).index
    tensor([[0, 2, 1, 3],
            [3, 1, 2, 0]])
    """
    return _there_and_back(tube2(grid))


@register_order(3)
def tube4(grid: Grid) -> ScanOrder:
    """`tube` of four frames.

    >>> tube4((4, 1, 2)).index
    tensor([[0, 2, 4, 6, 1, 3, 5, 7]])
    """
    return tube(grid, 4)


def _order(grid: Grid, axes: tuple[int, int, int]) -> ScanOrder:
    """The last of ``axes`` fastest."""
    return ScanOrder(torch.arange(grid[0] * grid[1] * grid[2]).view(grid).permute(axes).reshape(1, -1), grid)


def _there_and_back(order: ScanOrder) -> ScanOrder:
    return order | order.reversed()
