"""Layers over maps of tokens (b, height, width, channels)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import BatchNorm2d


class ToMap(nn.Module):
    """Images as convolutions take them, to a map: (b, c, h, w) -> (b, h, w, c), contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).contiguous()


class ChannelsLast(nn.Module):
    """Images with the channels of a pixel adjacent in memory, as maps have them: (b, c, h, w), kept."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` over a map: (b, h, w, in_channels) -> (b, h', w', out_channels)."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)


class BatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d` over a map: (b, h, w, c) -> (b, h, w, c)."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.bn = BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def pad_map(x: Tensor, multiple: int) -> Tensor:
    """Zeros at the bottom and on the right until both sides are multiples: (b, h, w, c) -> (b, h', w', c)."""
    down, right = [(multiple - side % multiple) % multiple for side in (x.shape[1], x.shape[2])]
    return F.pad(x, (0, 0, 0, right, 0, down))
