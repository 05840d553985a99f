"""The operators of vimamba in those of every runtime: gathers, elementwise arithmetic and one loop over the steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan

from vimamba.kernels.routes import read, unread

__all__ = ['decompositions']


def decompositions() -> dict[Any, Any]:
    """The table for ``ExportedProgram.run_decompositions``: PyTorch's defaults and the operators of vimamba."""
    ops = torch.ops.vimamba
    return {
        **torch.export.default_decompositions(),
        ops.route_scan.default: route_scan,
        ops.route_conv1d.default: route_conv1d,
        ops.route_table.default: lambda index: index.to(torch.int32),
    }


def route_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, rows, steps, softplus, each, save, backend):
    """``torch.ops.vimamba.route_scan`` for inference, of any length, as a `torch._higher_order_ops.scan`."""
    b, (k, d, n), g = u.shape[0], A.shape, B.shape[2]
    wide = torch.promote_types(u.dtype, torch.float32)
    u_all = (u.unsqueeze(1) if u.ndim == 3 else u).to(wide)
    u_all, step, B, C = (read(t.to(wide), rows, steps) for t in (u_all, delta, B, C))
    if delta_bias is not None:
        step = step + delta_bias.to(wide).unsqueeze(-1)
    if softplus:
        step = F.softplus(step)
    A = A.to(wide)
    B, C = (t.repeat_interleave(d // g, 2) if g > 1 else t for t in (B, C))  # (b, k, d or 1, n, l)
    start = u_all.new_zeros(u.shape[0], k, d, n) if initial_state is None else initial_state.to(wide)

    def advance(h: Tensor, at: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        step_t, u_t, B_t, C_t = at  # (b, k, d), (b, k, d), (b, k, d or 1, n) twice
        h = torch.exp(step_t.unsqueeze(-1) * A) * h + (step_t * u_t).unsqueeze(-1) * B_t
        y = (h * C_t).sum(-1)
        return h, y.view(b, *y.shape[1:])  # AOTInductor looks up the sizes of the outputs, such as b, inside the loop

    last, y = scan(advance, start, tuple(t.movedim(-1, 0).contiguous() for t in (step, u_all, B, C)))
    y = y.movedim(0, -1)  # (b, k, d, l)
    if D is not None:
        y = y + u_all * D.to(wide).unsqueeze(-1)
    out = unread(y, rows, steps)
    out = out if each else out.sum(1)
    if z is not None:
        gate = F.silu(z.to(wide))
        out = out * (gate.unsqueeze(1) if each else gate)
    return out.to(u.dtype), last, u.new_empty(0, dtype=wide), u.new_empty(0, dtype=wide)


def route_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, steps: list[int], silu: bool
) -> Tensor:
    """``torch.ops.vimamba.route_conv1d`` as one grouped convolution."""
    k, d, w = weight.shape
    routes = read(x.unsqueeze(1), rows, steps).flatten(1, 2)  # (b, k d, l)
    bias = None if bias is None else bias.flatten()
    out = F.conv1d(F.pad(routes, (w - 1, 0)), weight.reshape(k * d, 1, w), bias, groups=k * d)
    out = unread(out.unflatten(1, (k, d)), rows, steps)
    return F.silu(out) if silu else out
