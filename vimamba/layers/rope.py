"""Rotary positions of a map, applied to the residual stream."""

import torch
from torch import Tensor, nn

from .pos_embed import resize_table

__all__ = ['RotaryPositions']

_TRAINED = 14  # side of the grid of tokens in training


class RotaryPositions(nn.Module):
    """Rotates pairs of channels by the row (first half of the channels) and the column (second half) of a token.

        (x_2m, x_2m+1) -> rotation by p theta_m,    theta_m = 10000^(-2m / (dim / 2))       (EVA-02, arXiv:2303.11331)

    For another grid than that of training, the tables are resized (LocalVim), or positions are interpolated (Vim for
    detection).

    Shape: (b, height * width, dim), kept; so is the dtype.

    Args:
        dim: channels, a multiple of 4.
        grid: (height, width) of the tokens.
        between: interpolate positions, p * 14 / side, instead of resizing tables.
    """

    def __init__(self, dim: int, grid: tuple[int, int], between: bool = False, device=None):
        super().__init__()
        self.dim, self.between = dim, between
        self.register_buffer('cos', None, persistent=False)
        self.register_buffer('sin', None, persistent=False)
        self.set_grid(grid, device or 'cpu')

    def set_grid(self, grid: tuple[int, int], device: torch.device | str = 'cpu') -> None:
        """Recomputes the tables for another grid."""
        theta = 10000.0 ** (-torch.arange(0, self.dim // 2, 2, device='cpu').float() / (self.dim // 2))
        height, width = grid if self.between else (_TRAINED, _TRAINED)
        rows, columns = (
            torch.arange(side, device='cpu').float()[:, None] * (_TRAINED / side) * theta for side in (height, width)
        )
        angles = torch.cat((rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)), -1)
        angles = angles.repeat_interleave(2, -1)  # (height, width, dim)
        tables = (resize_table(table[None], grid).flatten(1, 2) for table in (angles.cos(), angles.sin()))
        self.cos, self.sin = (table.to(device) for table in tables)

    def forward(self, x: Tensor) -> Tensor:
        pairs = x.unflatten(-1, (-1, 2))
        rotated = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
        return (x * self.cos + rotated * self.sin).to(x.dtype)
