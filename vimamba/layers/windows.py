"""Partition of a map into windows."""

from timm.models import register_notrace_function
from torch import Tensor

from .channels_last import pad_map

__all__ = ['from_windows', 'to_windows']


@register_notrace_function
def to_windows(x: Tensor, size: int) -> Tensor:
    """Partitions a map, padded with zeros: (b, h, w, c) -> (b * windows, size * size, c).

    Windows, and the tokens in a window, are in raster order.
    """
    x = pad_map(x, size)
    b, height, width, c = x.shape
    x = x.reshape(b, height // size, size, width // size, size, c).transpose(2, 3)
    return x.reshape(-1, size * size, c)


@register_notrace_function
def from_windows(x: Tensor, size: int, height: int, width: int) -> Tensor:
    """Inverse of `to_windows`, without the padding: (b * windows, size * size, c) -> (b, height, width, c)."""
    rows, columns = (height + size - 1) // size, (width + size - 1) // size
    x = x.reshape(-1, rows, columns, size, size, x.shape[2]).transpose(2, 3)
    return x.reshape(-1, rows * size, columns * size, x.shape[5])[:, :height, :width].contiguous()
