"""Reads image files as 8-bit PIL images; an error always names the file.

The EXIF orientation is applied. timm and torchvision ignore it, so the few ImageNet images that have one are read
differently.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS

from vimamba.data.files import find_files
from vimamba.errors import UsageError, bad_argument

__all__ = ['BrokenImage', 'find_images', 'read_image', 'to_channels']

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
MAX_ASPECT = 200  # resizing the short side of a thinner strip would need gigabytes
EIGHT_BIT = ('L', 'LA', 'RGB', 'RGBA')


class BrokenImage(UsageError):
    """A file that cannot be read as an image. Attributes: ``path``, ``reason``."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f'{self.path}: {self.reason}'


def to_eight_bit(image: Image.Image) -> Image.Image:
    """Converts any PIL mode to L, LA, RGB or RGBA; 16-bit grey is scaled to 0..255 (PIL would clip it).

    >>> to_eight_bit(Image.fromarray(np.array([[0, 25700, 65535]], np.uint16))).tobytes()
    b'\\x00d\\xff'

    Raises:
        ValueError: if the mode has no defined range, as 32-bit float has.
    """
    if image.mode in EIGHT_BIT:
        return image
    if image.mode.startswith('I'):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError('32-bit pixels outside 0..65535; save it with 8 or 16 bits')
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == 'F':
        raise ValueError('floating-point pixels have no defined range; save it with 8 or 16 bits')
    if image.mode == '1':
        return image.convert('L')
    return image.convert('RGBA' if image.has_transparency_data else 'RGB')


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Converts to grey (1), RGB (3) or RGBA (4); 1 and 3 drop transparency, as timm and torchvision do.

    >>> to_channels(Image.new('CMYK', (2, 1), (0, 255, 255, 0)), 3).getpixel((0, 0))
    (255, 0, 0)
    """
    if channels not in MODES:
        raise bad_argument('input_size', '1 (grey), 3 (RGB) or 4 (RGBA) channels', channels)
    return to_eight_bit(image).convert(MODES[channels])


def read_image(path: str | os.PathLike[str], *, upright: bool = True, max_aspect: int = MAX_ASPECT) -> Image.Image:
    """Reads and decodes a whole image file, in mode L, LA, RGB or RGBA.

    Args:
        path: the file.
        upright: whether to apply its EXIF orientation.
        max_aspect: the largest ratio of the longer side to the shorter one.

    Raises:
        BrokenImage: if the file is missing, empty, truncated, not an image, thinner than ``max_aspect``, or has more
            pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` (a decompression bomb); the message names the file.
    """
    path = os.fspath(path)
    try:
        if not os.path.getsize(path):
            raise ValueError('the file is empty (0 bytes)')
        with Image.open(path) as image:
            limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
            if limit and pixels > limit:  # PIL itself only warns up to twice the limit
                raise ValueError(f'{pixels} pixels, more than the {limit} of PIL.Image.MAX_IMAGE_PIXELS')
            if max(image.size) > max_aspect * min(image.size):
                raise ValueError(f'{image.width} x {image.height} pixels: no side may be {max_aspect} times the other')
            image.load()
            return to_eight_bit(ImageOps.exif_transpose(image) if upright else image.copy())
    except Image.UnidentifiedImageError:
        raise BrokenImage(path, 'not an image in a format that PIL can read') from None
    except Exception as error:  # PIL's decoders raise almost anything on a damaged file
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BrokenImage(path, ' '.join(reason.split()) or type(error).__name__) from error


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """`find_files` of the extensions that torchvision knows as images."""
    return find_files(paths, IMG_EXTENSIONS, 'images')
