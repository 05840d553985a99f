"""Layers over maps (b, height, width, channels), of clips (b, time, height, width, channels)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import BatchNorm2d

__all__ = ['BatchNorm', 'ChannelsLast', 'Conv2d', 'Conv3d', 'ToMap', 'pad_map']


class ToMap(nn.Module):
    """(b, c, *grid) -> (b, *grid, c), contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).contiguous()


class ChannelsLast(nn.Module):
    """Converts images (b, c, h, w) to the memory format ``torch.channels_last``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` over a map: (b, h, w, in_channels) -> (b, h', w', out_channels)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` over the map of a clip: (b, t, h, w, in_channels) -> (b, t', h', w', out_channels)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class BatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d` over a map: (b, h, w, c) -> (b, h, w, c)."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.bn = BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def pad_map(x: Tensor, multiple: int) -> Tensor:
    """Pads height and width with zeros to multiples of ``multiple``: (..., h, w, c) -> (..., h', w', c)."""
    down, right = [(multiple - side % multiple) % multiple for side in (x.shape[-3], x.shape[-2])]
    return F.pad(x, (0, 0, 0, right, 0, down))
