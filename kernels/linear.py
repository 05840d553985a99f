"""Linear layers by oneDNN, on CPUs where it is faster than PyTorch's default.

PyTorch multiplies float32 matrices on x86 with MKL, which does not use AVX-512 on AMD processors. oneDNN, which PyTorch
also includes, does. On other machines `linear` is `torch.nn.functional.linear`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ['linear', 'linears', 'onednn_pays']

_WORTH = 1 << 22  # multiplications: smaller products lose more by the longer call than they gain
_TENSORS = (Tensor, torch.nn.Parameter)


@cache
def onednn_pays() -> bool:
    """Whether oneDNN multiplies faster than PyTorch's default: on AMD processors with AVX-512."""
    cpu = Path('/proc/cpuinfo')
    return (
        torch.backends.cpu.get_cpu_capability() == 'AVX512'
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and cpu.exists()
        and 'AuthenticAMD' in cpu.read_text()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as `torch.nn.functional.linear`: (..., i), (o, i), (o,) -> (..., o).

    Compilation, autocast, `torch.func` and dispatch modes such as FlopCounterMode see PyTorch's function.
    """
    return _linear(x, weight, bias) if _plain(x, weight, bias) else F.linear(x, weight, bias)


def linears(x: Tensor, weight: Tensor) -> Tensor:
    """One linear layer for each route: (k, m, i), (k, o, i) -> (k, m, o)."""
    if _plain(x, weight, routes=True):
        return torch.stack([_linear(tokens, w, None) for tokens, w in zip(x, weight)])
    return torch.bmm(x, weight.transpose(1, 2))


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None = None, routes: bool = False) -> bool:
    """Whether to use oneDNN. Arguments that do not fit go to PyTorch, which raises the error."""
    return bool(
        not torch.compiler.is_compiling()
        and all(type(t) in _TENSORS for t in (x, weight))  # no fx proxy, and no subclass, which may override functions
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == 'cpu'
        and onednn_pays()
        and torch.backends.mkldnn.enabled
        and weight.ndim > 1
        and x.numel() * weight.shape[-2] > _WORTH
        and not torch.is_autocast_enabled('cpu')
        and _get_current_dispatch_mode() is None
        and torch._C._functorch.peek_interpreter_stack() is None
        and getattr(torch.autograd.forward_ad, '_current_level', -1) < 0
        and (_fits_each(x, weight) if routes else _fits(x, weight, bias))
    )


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    width, one = weight.shape[:1], (torch.float32, x.device)
    same = bias is None or (type(bias) in _TENSORS and bias.shape == width and (bias.dtype, bias.device) == one)
    return weight.ndim == 2 and x.ndim > 0 and x.shape[-1] == weight.shape[1] and same


def _fits_each(x: Tensor, weight: Tensor) -> bool:
    return x.ndim == weight.ndim == 3 and x.shape[::2] == weight.shape[::2]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    needs_grad = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and needs_grad:
        return _Linear.apply(x, weight, bias)
    return _multiply(x, weight, bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    bias = None if bias is None else bias.contiguous()  # oneDNN ignores its stride
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        flat, rows = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        dx = _linear(flat, weight.t(), None).view(x.shape) if ctx.needs_input_grad[0] else None
        dweight = _linear(flat.t(), rows.t(), None) if ctx.needs_input_grad[1] else None
        return dx, dweight, flat.sum(0) if ctx.needs_input_grad[2] else None
