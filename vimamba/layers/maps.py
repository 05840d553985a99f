"""Layers over maps of tokens (b, height, width, channels)."""

import torch.nn.functional as F
from torch import Tensor, nn


class ToMap(nn.Module):
    """Images as convolutions take them, to a map: (b, c, h, w) -> (b, h, w, c), contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).contiguous()


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` over a map: (b, h, w, in_channels) -> (b, h', w', out_channels)."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)


class BatchNorm(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over a map: (b, h, w, c) -> (b, h, w, c)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def pad_map(x: Tensor, multiple: int) -> Tensor:
    """Zeros at the bottom and on the right until both sides are multiples: (b, h, w, c) -> (b, h', w', c)."""
    height, width = x.shape[1], x.shape[2]
    return F.pad(x, (0, 0, 0, -width % multiple, 0, -height % multiple))
