"""Learned position tables and how they change size."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_pos_embed(
    pos_embed: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    old_rows: Sequence[int] = (),
    new_rows: Sequence[int] = (),
) -> Tensor:
    """Resizes a position table around its class-token rows: cut them out, resize the grid, put them back.

    Official Vim code treats row 0 as the class token's, wherever that token is; here its true row is kept apart.

    Args:
        pos_embed: (1, old height * old width + class tokens, dim), rows in sequence order.
        old_grid: (height, width) of the table.
        new_grid: (height, width) wanted.
        old_rows: rows of the class tokens in ``pos_embed``, ascending.
        new_rows: rows of the class tokens in the result, ascending.

    Returns:
        (1, new height * new width + class tokens, dim), same dtype; bicubic as official code does it, not antialiased.

    >>> table = torch.arange(5.0).view(1, 5, 1)
    >>> resize_pos_embed(table, (2, 2), (1, 1), [2], [0]).flatten().tolist()
    [2.0, 2.0]
    """
    edges = [-1, *old_rows, pos_embed.shape[1]]
    cells = torch.cat([pos_embed[:, before + 1 : row] for before, row in pairwise(edges)], 1)
    extra = [pos_embed[:, row : row + 1] for row in old_rows]
    if old_grid != new_grid:
        grid = cells.float().transpose(1, 2).unflatten(2, old_grid)
        grid = F.interpolate(grid, new_grid, mode='bicubic')
        cells = grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)
    for row, token in zip(new_rows, extra):
        cells = torch.cat((cells[:, :row], token, cells[:, row:]), 1)
    return cells
