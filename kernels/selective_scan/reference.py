"""The selective scan by its recurrence, one step at a time. Every other backend is tested against it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Selective scan (arXiv:2312.00752, Eq. 2a-2b and Alg. 2; B discretised by Euler's rule, as in its code).

        d_t = softplus(delta_t + delta_bias)
        h_t = exp(d_t A) * h_{t-1} + d_t B_t u_t
        y_t = C_t . h_t + D u_t,    out_t = y_t * silu(z_t)

    Plain differentiable PyTorch. Computed in float32, or in float64 for float64 input.
    Arguments and shapes are those of `selective_scan`; B and C are (b, g, n, l).
    Returns ``out`` (b, d, l) in the dtype of u, and the last state (b, d, n) in the dtype of the computation.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    x, dt, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        dt = F.softplus(dt)
    repeats = u.shape[1] // B.shape[1]
    B, C = B.repeat_interleave(repeats, 1), C.repeat_interleave(repeats, 1)  # (b, d, n, l)
    h = x.new_zeros(*u.shape[:2], A.shape[1]) if initial_state is None else initial_state.to(dtype)
    order = range(u.shape[2] - 1, -1, -1) if reverse else range(u.shape[2])
    steps = {}
    for t in order:
        h = torch.exp(dt[:, :, t, None] * A) * h + (dt[:, :, t] * x[:, :, t])[..., None] * B[..., t]
        steps[t] = (h * C[..., t]).sum(-1)
    y = torch.stack([steps[t] for t in range(len(steps))], -1) if steps else torch.zeros_like(x)
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), h.clone() if h is initial_state else h
