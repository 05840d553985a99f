"""Image to tokens."""

import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from timm.models import register_notrace_function
from torch import Tensor, nn

from vimamba.errors import bad_argument, check_integers


@register_notrace_function
def check_img_size(height: int, width: int, img_size: tuple[int, int]) -> None:
    torch._assert(
        height == img_size[0] and width == img_size[1],
        f'image size {height}x{width}: this model takes {img_size[0]}x{img_size[1]}; resize the images, or build it '
        f'with img_size=({height}, {width}), or call set_input_size(({height}, {width}))',
    )


def _missing(side: int, patch: int, stride: int) -> int:
    """Pixels to add to a side so that the last patch is whole."""
    return patch - side if side < patch else (patch - side) % stride


@register_notrace_function
def pad_image(x: Tensor, patch: int, stride: int) -> Tensor:
    """Zeros at the bottom and on the right until the last patches are whole: (b, c, h, w) -> (b, c, h', w')."""
    return F.pad(x, (0, _missing(x.shape[3], patch, stride), 0, _missing(x.shape[2], patch, stride)))


class PatchEmbed(nn.Module):
    """Patches to tokens by a strided convolution; overlapping patches if stride < patch_size.

    The grid is ((H - patch) // stride + 1, (W - patch) // stride + 1): pixels beyond the last whole patch are not read,
    or, with ``pad``, zeros at the bottom and on the right make the patch whole.

    Shape: (b, in_chans, H, W) -> (b, grid height * grid width, dim), tokens in raster order.

    Raises:
        UsageError: the image is smaller than a patch.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        stride: int,
        in_chans: int,
        dim: int,
        strict_img_size: bool = True,
        pad: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_integers(1, patch_size=patch_size, stride=stride, in_chans=in_chans, embed_dim=dim)
        self.patch_size, self.stride, self.strict_img_size, self.pad = patch_size, stride, strict_img_size, pad
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride, device=device, dtype=dtype)
        self.set_input_size(img_size)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Sets the image size, in pixels, and the grid that follows from it."""
        sizes = to_2tuple(img_size)
        if len(sizes) != 2 or not all(isinstance(size, int) for size in sizes):
            raise bad_argument('img_size', 'an integer or (height, width), in pixels', repr(img_size))
        height, width = sizes
        if min(height, width) < (1 if self.pad else self.patch_size):
            expected = f'at least one patch, {self.patch_size}x{self.patch_size} pixels'
            raise bad_argument('img_size', expected, f'{height}x{width}')
        self.img_size = (int(height), int(width))
        self.grid_size = self.dynamic_feat_size(self.img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """The grid, in tokens, of an image of ``img_size`` pixels."""
        height, width = img_size
        if self.pad:
            height, width = (side + _missing(side, self.patch_size, self.stride) for side in img_size)
        return (height - self.patch_size) // self.stride + 1, (width - self.patch_size) // self.stride + 1

    def forward(self, x: Tensor) -> Tensor:
        if self.strict_img_size:
            check_img_size(x.shape[2], x.shape[3], self.img_size)
        if self.pad:
            x = pad_image(x, self.patch_size, self.stride)
        return self.proj(x).flatten(2).transpose(1, 2)
