"""Twelve files that no reader can turn into an image, each named like one."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def _encoded(kind: str, mode: str = 'RGB', size: tuple[int, int] = (48, 40)) -> bytes:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.RandomState(0).randint(0, 256, (*size[::-1], channels), np.uint8).squeeze()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def _png_of_zeros(width: int, height: int) -> bytes:
    """A well-formed grey PNG, small on disk, of any size."""
    packer = zlib.compressobj(9)
    rows = b''.join(packer.compress(bytes(width + 1)) for _ in range(min(height, 64)))
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    parts = ((b'IHDR', header), (b'IDAT', rows + packer.flush()), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(_png_chunk(*part) for part in parts)


def _float_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)).save(buffer, 'TIFF')
    return buffer.getvalue()


def _corrupt_png() -> bytes:
    png = bytearray(_encoded('PNG'))
    png[png.index(b'IDAT') + 40] ^= 0xFF
    return bytes(png)


BAD_IMAGES: dict[str, bytes] = {
    'zero_bytes.jpg': b'',
    'text_renamed.jpg': b'this is a text file\n' * 20,
    'html_error_page.jpeg': b'<!DOCTYPE html><title>404 Not Found</title>',
    'jpeg_truncated.jpg': _encoded('JPEG')[:700],
    'jpeg_header_only.jpg': _encoded('JPEG')[:20],
    'png_truncated.png': _encoded('PNG')[:-2000],
    'png_bit_flipped.png': _corrupt_png(),
    'webp_truncated.webp': _encoded('WEBP')[:100],
    'bomb.png': _png_of_zeros(12_000, 12_000),
    'bomb_that_pil_refuses.png': _png_of_zeros(60_000, 60_000),
    'strip.png': _png_of_zeros(20_000, 1),
    'floating_point.tiff': _float_tiff(),
}


def write_bad_images(folder: Path) -> list[Path]:
    """Writes all of them into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in BAD_IMAGES.items():
        (folder / name).write_bytes(content)
    return sorted(folder / name for name in BAD_IMAGES)
