"""Orders over clips (T, H, W). Frames are side by side; each number is the step at which the cell is read.

    spatial_first           temporal_first          tube2
     0  1 |  4  5 |  8  9    0  3 |  1  4 |  2  5    0  2 |  1  3 |  8  9
     2  3 |  6  7 | 10 11    6  9 |  7 10 |  8 11    4  6 |  5  7 | 10 11

`spatial_first` reads frame by frame, as `raster` does. `temporal_first` reads each place through time. A tube does the
same within blocks of a few frames. A clip of one frame is read as an image by all of them.
"""

from __future__ import annotations

import torch

from vimamba.errors import check_integers

from .order import Grid, ScanOrder, cells, one_route, register_order

__all__ = ['spatial_first', 'temporal_columns', 'temporal_first', 'tube']


@register_order(3)
def spatial_first(grid: Grid) -> ScanOrder:
    """Frame by frame, each row by row: VideoMamba's order (arXiv:2403.06977, Fig. 4 a).

    >>> spatial_first((2, 1, 3)).index
    tensor([[0, 1, 2, 3, 4, 5]])
    """
    return one_route(grid, cells(grid))


@register_order(3)
def temporal_first(grid: Grid) -> ScanOrder:
    """Reads each place through all times, place by place in raster order (arXiv:2403.06977, Fig. 4 b).

    >>> temporal_first((2, 1, 3)).index
    tensor([[0, 3, 1, 4, 2, 5]])
    """
    return one_route(grid, cells(grid).permute(1, 2, 0))


@register_order(3)
def temporal_columns(grid: Grid) -> ScanOrder:
    """Each place through time, places column by column: the third axis of Mamba-ND (arXiv:2402.05892, Sec. 3.2).

    >>> temporal_columns((2, 2, 2)).index
    tensor([[0, 4, 2, 6, 1, 5, 3, 7]])
    """
    return one_route(grid, cells(grid).permute(2, 1, 0))


@register_order(3)
def tube(grid: Grid, frames: int = 4) -> ScanOrder:
    """Blocks of ``frames`` frames, each read place by place through time; the last block may be shorter.

    Raises:
        UsageError: ``frames`` is less than 1.

    >>> tube((3, 1, 2), frames=2).index
    tensor([[0, 2, 1, 3, 4, 5]])
    """
    check_integers(1, frames=frames)
    return one_route(grid, torch.cat([block.permute(1, 2, 0).flatten() for block in cells(grid).split(frames)]))
