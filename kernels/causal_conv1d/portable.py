"""The causal convolution in plain PyTorch, forward and backward: any device, no compiler."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..routes import read, swap, unread


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps) -> tuple[Tensor, Tensor, Tensor]:
    """The result before SiLU (b, k d, l), the padded input (b, k d, l + w - 1) and the taps (k d, 1, w)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    read_in = F.pad(read(x.unsqueeze(1), rows, steps).flatten(1, 2).to(wide), (weight.shape[-1] - 1, 0))
    taps = weight.to(wide).flatten(0, 1).unsqueeze(1)
    return F.conv1d(read_in, taps, None if bias is None else bias.to(wide).flatten(), groups=len(taps)), read_in, taps


def _tokens(t: Tensor, rows, steps: list[int], dtype: torch.dtype) -> Tensor:
    """(b, k d, l) in scan order -> (b, k, d, l) in token order, as (k, b, l, d) in memory."""
    t = unread(t.unflatten(1, (len(steps), -1)), rows, steps)
    return swap(swap(t.to(dtype)).contiguous())


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps: list[int], silu: bool) -> Tensor:
    out, _, _ = _convolve(x, weight, bias, rows, steps)
    return _tokens(F.silu(out) if silu else out, rows, steps, x.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps: list[int], silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    out, read_in, taps = _convolve(x, weight, bias, rows, steps)
    grad = read(grad, rows, steps).flatten(1, 2).to(out.dtype)
    if silu:
        sigmoid = out.sigmoid()
        grad = grad * sigmoid * (1 + out * (1 - sigmoid))
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        grad, read_in, taps, None, [1], [0], [1], False, [0], len(taps), [True, True, False]
    )
    dx = unread(dx[..., weight.shape[-1] - 1 :].unflatten(1, (len(steps), -1)), rows, steps).sum(1)
    dbias = None if bias is None else grad.sum((0, 2)).view(bias.shape).to(bias.dtype)
    return swap(swap(dx).to(x.dtype).contiguous()), dweight.view(weight.shape).to(weight.dtype), dbias
