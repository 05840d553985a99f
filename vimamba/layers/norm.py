"""Normalisation of a residual stream that is at least float32."""

import torch
import torch.nn.functional as F
from timm.models import register_notrace_function, register_notrace_module
from torch import Tensor, nn

__all__ = ['BatchNorm2d', 'LayerNorm', 'RMSNorm', 'widen']


@register_notrace_function
def widen(x: Tensor) -> Tensor:
    """Casts float16 and bfloat16 to float32, the least precision of states and residual streams."""
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x


class RMSNorm(nn.RMSNorm):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv:1910.07467, Eq. 4).

    Computes in at least float32 and returns the dtype of the weight, so that a bfloat16 model keeps a float32 residual
    stream in front of bfloat16 mixers.

    Shape: (..., dim) -> (..., dim).
    """

    def __init__(self, dim: int, eps: float = 1e-5, device=None, dtype=None):
        super().__init__(dim, eps, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(widen(x), self.normalized_shape, widen(self.weight), self.eps).to(self.weight.dtype)


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` that computes in at least float32 and returns the dtype of its weight, like `RMSNorm`."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = widen(self.weight), widen(self.bias)
        return F.layer_norm(widen(input), self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


@register_notrace_module
class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose count of batches is floating-point, like its other buffers.

    Code that averages, casts or overwrites the tensors of a model (an EMA, ``to_empty``) then treats them alike.
    """

    def __init__(self, dim: int, eps: float = 1e-5, device=None, dtype=None):
        super().__init__(dim, eps, device=device, dtype=dtype)
        self.num_batches_tracked = torch.zeros((), device=device)
