"""Learned position tables and their interpolation."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from .patch_embed import resize_time_embed

__all__ = ['PosEmbed', 'resize_pos_embed', 'resize_table', 'unfold_image']


def resize_pos_embed(
    pos_embed: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    old_rows: Sequence[int] = (),
    new_rows: Sequence[int] = (),
) -> Tensor:
    """Resizes the grid of a position table and keeps the rows of its class tokens.

    Bicubic without antialiasing, as in official code. Official Vim code takes row 0 for the class token's wherever that
    token is; here ``old_rows`` says where.

    Args:
        pos_embed: (1, old height * old width + class tokens, dim), rows in sequence order.
        old_grid: (height, width) of the table.
        new_grid: (height, width) of the result.
        old_rows: rows of the class tokens in ``pos_embed``, ascending.
        new_rows: rows of the class tokens in the result, ascending.

    Returns:
        (1, new height * new width + class tokens, dim), in the dtype of ``pos_embed``.

    >>> table = torch.arange(5.0).view(1, 5, 1)
    >>> resize_pos_embed(table, (2, 2), (1, 1), [2], [0]).flatten().tolist()
    [2.0, 2.0]
    """
    cells = pos_embed[:, [row for row in range(pos_embed.shape[1]) if row not in old_rows]]
    cells = resize_table(cells.unflatten(1, old_grid), new_grid).flatten(1, 2)
    for old, new in zip(old_rows, new_rows):
        cells = torch.cat((cells[:, :new], pos_embed[:, old : old + 1], cells[:, new:]), 1)
    return cells


def resize_table(table: Tensor, grid: Sequence[int]) -> Tensor:
    """Resizes a table, bicubic in a frame and linear in time: (1, [t,] h, w, dim) -> (1, *grid, dim)."""
    times, frame = table.shape[1], list(grid[-2:])
    if list(table.shape[-3:-1]) != frame:
        image = table.flatten(0, -4).permute(0, 3, 1, 2)
        table = F.interpolate(image.float(), frame, mode='bicubic').permute(0, 2, 3, 1).to(table.dtype)
    if len(grid) == 3:
        table = resize_time_embed(table.reshape(1, times, -1), grid[0]).view(1, *grid, -1)
    return table


def unfold_image(table: Tensor, default_grid: tuple[int, ...]) -> Tensor:
    """Restores the grid of an official table of images: (1, h w, dim) -> (1, h, w, dim).

    The grid is square if it can be, else ``default_grid``. A table that fits neither is returned unchanged.
    """
    if table.ndim != 3:
        return table
    side = math.isqrt(table.shape[1])
    grid = (side, side) if side * side == table.shape[1] else default_grid
    return table.unflatten(1, grid) if math.prod(grid) == table.shape[1] else table


@register_notrace_module
class PosEmbed(nn.Module):
    """Adds a learned table to a map, resized by `resize_table` if the map has another size.

    Shape: (b, *grid, dim), kept; the grid is (h, w) or (t, h, w).

    Args:
        grid: sides of the table, (h, w) or (t, h, w); the parameter is (1, *grid, dim).
        dim: channels.
    """

    no_weight_decay = ('table',)

    def __init__(self, grid: tuple[int, ...], dim: int, device=None, dtype=None):
        super().__init__()
        self.table = nn.Parameter(torch.empty(1, *grid, dim, device=device, dtype=dtype))

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(self.table.shape[1:-1])

    def reset_parameters(self) -> None:
        """Truncated normal, std 0.02."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + resize_table(self.table, x.shape[1:-1])

    def set_grid(self, grid: Sequence[int]) -> None:
        """Resizes the table."""
        resized = resize_table(self.table.detach(), grid)
        self.table = nn.Parameter(resized, requires_grad=self.table.requires_grad)

    def fit(self, table: Tensor) -> Tensor:
        """Resizes a table (1, *other grid, dim), or an official one of images (1, h w, dim), to this grid."""
        if self.table.ndim == 4:
            table = unfold_image(table, self.grid)
        if table.shape == self.table.shape or table.ndim != self.table.ndim:
            return table
        return resize_table(table, self.grid)
