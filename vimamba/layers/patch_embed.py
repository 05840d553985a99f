"""Patch embedding of images and clips."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from timm.models import register_notrace_function, register_notrace_module
from torch import Tensor, nn

from vimamba.errors import bad_argument, check_integers

__all__ = [
    'PatchEmbed',
    'TubeletEmbed',
    'check_clip',
    'check_frames',
    'check_images',
    'check_size',
    'image_size',
    'pad_image',
    'resize_time_embed',
]


def image_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels from an argument ``img_size``."""
    sizes = to_2tuple(img_size)
    if len(sizes) != 2 or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise bad_argument('img_size', 'an integer or (height, width), in pixels', repr(img_size))
    return sizes[0], sizes[1]


@register_notrace_function
def check_images(x: Tensor, in_chans: int, smallest: int, sides: int = 2) -> None:
    """Checks images (b, in_chans, H, W), or clips if ``sides`` is 3, of at least ``smallest`` pixels per side."""
    what = 'clip' if sides == 3 else 'images'
    axes = 'frames, height, width' if sides == 3 else 'height, width'
    torch._assert(x.ndim == sides + 2, f'{what}: expected (b, channels, {axes}), got shape {list(x.shape)}')
    channels, height, width = x.shape[1], x.shape[-2], x.shape[-1]
    torch._assert(channels == in_chans, f'{what} of {channels} channels: this model takes {in_chans}')
    torch._assert(
        height >= smallest and width >= smallest,
        f'{what} of {height}x{width} pixels: this model takes {smallest}x{smallest} and more; resize them',
    )


@register_notrace_function
def check_size(height: int, width: int, img_size: tuple[int, int]) -> None:
    """Checks that an image has the size of the model."""
    torch._assert(
        height == img_size[0] and width == img_size[1],
        f'image size {height}x{width}: this model takes {img_size[0]}x{img_size[1]}; resize the images, or build it '
        f'with img_size=({height}, {width}), or call set_input_size(({height}, {width}))',
    )


def check_frames(num_frames: int, tubelet_size: int) -> None:
    """Checks an argument ``num_frames``."""
    if not isinstance(num_frames, int) or num_frames < 1 or num_frames % tubelet_size:
        raise bad_argument('num_frames', f'a positive multiple of tubelet_size, {tubelet_size}', repr(num_frames))


def _missing(side: int, patch: int, stride: int) -> int:
    """Padding of a side, in pixels, that completes the last patch."""
    return patch - side if side < patch else (patch - side) % stride


@register_notrace_function
def check_clip(x: Tensor, num_frames: int, tubelet_size: int) -> None:
    """Checks the frames of clips (b, c, t, h, w): ``num_frames``, or any number if 0."""
    frames = x.shape[2]
    torch._assert(frames > 0, 'clip of 0 frames: expected one at least')
    torch._assert(
        num_frames in (0, frames),
        f'clip of {frames} frames: this model takes {num_frames}; sample as many, or build it with '
        f'num_frames={frames}, or call set_input_size(num_frames={frames})',
    )
    torch._assert(
        frames % tubelet_size == 0,
        f'clip of {frames} frames: expected a multiple of the {tubelet_size} frames of a patch',
    )


def resize_time_embed(table: Tensor, times: int) -> Tensor:
    """Interpolates a table in time, linearly, corners not aligned: (1, t, dim) -> (1, times, dim)."""
    if table.shape[1] == times:
        return table
    return F.interpolate(table.float().transpose(1, 2), [times], mode='linear').transpose(1, 2).to(table.dtype)


@register_notrace_function
def pad_image(x: Tensor, patch: int, stride: int) -> Tensor:
    """Pads images with zeros at the bottom and on the right to whole patches: (b, c, h, w) -> (b, c, h', w')."""
    return F.pad(x, (0, _missing(x.shape[3], patch, stride), 0, _missing(x.shape[2], patch, stride)))


class PatchEmbed(nn.Module):
    """Embeds patches by a strided convolution; patches overlap if stride < patch_size.

    The grid is ((H - patch) // stride + 1, (W - patch) // stride + 1). Pixels beyond the last whole patch are ignored;
    with ``pad``, zeros at the bottom and on the right complete it instead.

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
        *,
        tubelet: tuple[int, ...] = (),
        device=None,
        dtype=None,
    ):
        super().__init__()
        check_integers(1, patch_size=patch_size, stride=stride, in_chans=in_chans, embed_dim=dim)
        self.patch_size, self.stride, self.strict_img_size, self.pad = patch_size, stride, strict_img_size, pad
        self.in_chans, self.smallest = in_chans, 1 if pad or strict_img_size else patch_size
        conv = nn.Conv3d if tubelet else nn.Conv2d
        kernel, strides = (*tubelet, patch_size, patch_size), (*tubelet, stride, stride)
        self.proj = conv(in_chans, dim, kernel, strides, device=device, dtype=dtype)
        PatchEmbed.set_input_size(self, img_size)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Sets the image size in pixels and the grid."""
        self.img_size = height, width = image_size(img_size)
        if min(height, width) < (1 if self.pad else self.patch_size):
            expected = f'at least one patch, {self.patch_size}x{self.patch_size} pixels'
            raise bad_argument('img_size', expected, f'{height}x{width}')
        self.grid_size = self.dynamic_feat_size(self.img_size)
        self.num_patches = math.prod(self.grid_size)

    def dynamic_feat_size(self, img_size: tuple[int, ...]) -> tuple[int, ...]:
        """Grid, in tokens, of an image of ``img_size`` pixels."""
        height, width = img_size
        if self.pad:
            height, width = (side + _missing(side, self.patch_size, self.stride) for side in img_size)
        return (height - self.patch_size) // self.stride + 1, (width - self.patch_size) // self.stride + 1

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_chans, self.smallest)
        if self.strict_img_size:
            check_size(x.shape[2], x.shape[3], self.img_size)
        if self.pad:
            x = pad_image(x, self.patch_size, self.stride)
        return self.proj(x).flatten(2).transpose(1, 2)


@register_notrace_module
class TubeletEmbed(PatchEmbed):
    """Embeds patches of ``tubelet_size`` frames: ViViT's tubelets (arXiv:2103.15691, Sec. 3.2).

    With ``time_embed``, adds a learned row per time, interpolated for another number of frames. Without it, any number
    of frames is accepted.

    Shape: (b, in_chans, T, H, W) -> (b, T / tubelet_size * grid height * grid width, dim), frame by frame, each in
    raster order. ``grid_size`` is (T / tubelet_size, height, width).

    Raises:
        UsageError: a frame is smaller than a patch, or ``num_frames`` is not a multiple of ``tubelet_size``.
    """

    no_weight_decay = ('time_embed',)

    def __init__(self, num_frames: int, tubelet_size: int, time_embed: bool, *args: Any, **options: Any):
        super().__init__(*args, tubelet=(tubelet_size,), **options)
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        self.set_input_size()
        shape = (1, self.grid_size[0], self.proj.out_channels)
        table = nn.Parameter(self.proj.weight.new_zeros(shape)) if time_embed else None
        self.register_parameter('time_embed', table)

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, num_frames: int | None = None) -> None:
        """Sets the size of a frame in pixels, the number of frames, or both; resizes ``time_embed``."""
        frames = self.num_frames if num_frames is None else num_frames
        check_frames(frames, self.tubelet_size)
        super().set_input_size(self.img_size if img_size is None else img_size)
        self.num_frames, self.grid_size = frames, self.dynamic_feat_size((frames, *self.img_size))
        self.num_patches = math.prod(self.grid_size)
        table = self._parameters.get('time_embed')
        if table is not None and table.shape[1] != self.grid_size[0]:
            resized = resize_time_embed(table.detach(), self.grid_size[0])
            self.time_embed = nn.Parameter(resized, requires_grad=table.requires_grad)

    def dynamic_feat_size(self, img_size: tuple[int, ...]) -> tuple[int, ...]:
        """Grid, in tokens, of a clip (T, H, W) or of a frame (H, W)."""
        *frames, height, width = img_size
        grid = super().dynamic_feat_size((height, width))
        return (frames[0] // self.tubelet_size, *grid) if frames else grid

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_chans, self.smallest, 3)
        fixed = self.strict_img_size and self.time_embed is not None
        check_clip(x, self.num_frames if fixed else 0, self.tubelet_size)
        if self.strict_img_size:
            check_size(x.shape[3], x.shape[4], self.img_size)
        x = self.proj(x).flatten(3)  # (b, dim, t, n)
        if self.time_embed is not None:
            x = x + resize_time_embed(self.time_embed, x.shape[2]).transpose(1, 2).unsqueeze(3).to(x.dtype)
        return x.flatten(2).transpose(1, 2)
