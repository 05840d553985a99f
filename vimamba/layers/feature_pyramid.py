"""Feature maps of four strides from a flat model."""

import math

from torch import Tensor, nn

from vimamba.errors import bad_argument

from .norm import BatchNorm2d

__all__ = ['FlatPyramid']

STRIDES = (4, 8, 16, 32)


class FlatPyramid(nn.Module):
    """Brings four maps of one stride to 4, 8, 16 and 32 pixels, as BEiT (arXiv:2106.08254) and Vim do for UperNet.

    Transposed convolutions of 2 x 2 halve the stride, max pooling increases it.

    Shape: (b, dim, h, w) -> (b, dim, h * stride / s, w * stride / s), s of `STRIDES`.

    Args:
        dim: channels.
        stride: stride of the maps in pixels: 4, 8, 16 or 32.
        blocks: the block whose map goes to each of the four strides.

    Raises:
        UsageError: another stride, or not four blocks in ascending order.
    """

    def __init__(self, dim: int, stride: int, blocks: tuple[int, ...], device=None, dtype=None):
        super().__init__()
        if stride not in STRIDES:
            raise bad_argument('stride', 'one of 4, 8, 16 and 32 for a feature_pyramid', stride)
        if len(blocks) != len(STRIDES) or list(blocks) != sorted(set(blocks)):
            raise bad_argument('feature_pyramid', 'four blocks in ascending order', repr(blocks))
        dd = {'device': device, 'dtype': dtype}
        self.reductions = dict(zip(blocks, STRIDES))
        self.levels = nn.ModuleDict()
        for block, out in self.reductions.items():
            halvings, layers = round(math.log2(out / stride)), nn.Sequential()
            for i in range(-halvings):
                if i:
                    layers.extend([BatchNorm2d(dim, **dd), nn.GELU()])
                layers.append(nn.ConvTranspose2d(dim, dim, 2, 2, **dd))
            if halvings > 0:
                layers.append(nn.MaxPool2d(out // stride))
            self.levels[str(block)] = layers

    def reset_parameters(self) -> None:
        for module in self.levels.modules():
            if isinstance(module, (nn.ConvTranspose2d, BatchNorm2d)):
                module.reset_parameters()

    def strides(self, depth: int) -> list[int]:
        """Stride in pixels of each block; blocks between two maps have that of the next (timm wants them ascending)."""
        return [min((s for block, s in self.reductions.items() if block >= i), default=32) for i in range(depth)]

    def prune(self, blocks: list[int]) -> None:
        """Keeps the levels of ``blocks``."""
        self.levels = nn.ModuleDict({str(block): self.levels[str(block)] for block in blocks})

    def forward(self, x: Tensor, block: int) -> Tensor:
        return self.levels[str(block)](x)
