"""Softmax attention over the tokens of a window."""

import timm.layers
import torch.nn.functional as F
from torch import Tensor

from .linear import dense

__all__ = ['Attention']


class Attention(timm.layers.Attention):
    """timm's multi-head self-attention by the dense layers of this package.

    Shape: (b, l, dim), kept.

    Args:
        dim: channels, a multiple of ``num_heads``.
        num_heads: attention heads.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None):
        super().__init__(dim, num_heads, qkv_bias=True, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = dense(self.qkv, x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return dense(self.proj, F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
