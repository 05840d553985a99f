"""Learned position tables and how they change size."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from .patch_embed import resize_time_embed


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


def resize_table(table: Tensor, grid: list[int]) -> Tensor:
    """(1, h, w, dim) or (1, t, h, w, dim) -> (1, *grid, dim): bicubic in a frame, linear in time, not antialiased."""
    own, sides = table.shape[1:-1], len(grid)
    if own[sides - 2] != grid[sides - 2] or own[sides - 1] != grid[sides - 1]:
        image = table.flatten(0, -4).permute(0, 3, 1, 2)
        image = F.interpolate(image.float(), [grid[sides - 2], grid[sides - 1]], mode='bicubic')
        table = image.permute(0, 2, 3, 1).to(table.dtype)
    if sides == 3:
        table = resize_time_embed(table.reshape(1, own[0], -1), grid[0]).view(1, grid[0], grid[1], grid[2], -1)
    return table


def unfold_image(table: Tensor, own: tuple[int, ...]) -> Tensor:
    """An official table of images (1, h w, dim), which does not say its sides -> (1, h, w, dim).

    It is taken for a square one where it can be, else for one of the grid ``own``, else returned as it is.
    """
    if table.ndim != 3:
        return table
    side = math.isqrt(table.shape[1])
    grid = (side, side) if side * side == table.shape[1] else own
    return table.unflatten(1, grid) if math.prod(grid) == table.shape[1] else table


@register_notrace_module
class PosEmbed(nn.Module):
    """Adds a learned table to a map; to one of another size the table resized, see `resize_table`.

    Shape: (b, *grid, dim), kept; the grid is (h, w) or (t, h, w).

    Args:
        grid: sides of the table, (h, w) or (t, h, w); it is kept as (1, *grid, dim).
        dim: channels.
    """

    __jit_unused_properties__ = ['grid']  # noqa: RUF012

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

    @torch.jit.ignore
    def set_grid(self, grid: Sequence[int]) -> None:
        """Resizes the table."""
        resized = resize_table(self.table.detach(), list(grid))
        self.table = nn.Parameter(resized, requires_grad=self.table.requires_grad)

    @torch.jit.ignore
    def fit(self, table: Tensor) -> Tensor:
        """A table of another grid for this one: (1, *other grid, dim), or an official one of images (1, h w, dim)."""
        if self.table.ndim == 4:
            table = unfold_image(table, self.grid)
        if table.shape == self.table.shape or table.ndim != self.table.ndim:
            return table
        return resize_table(table, list(self.grid))
