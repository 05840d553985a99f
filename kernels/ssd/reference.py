"""SSD by its recurrence, one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def ssd_reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None = None, causal: bool = True
) -> tuple[Tensor, Tensor]:
    """H_t = exp(dt_t A) H_{t-1} + dt_t x_t B_t^T,  y_t = H_t C_t, a matrix H (p, n) for each head.

    arXiv:2405.21060, Eq. 1 with the discretisation of Sec. 2 and a scalar A for each head. Any floating-point dtype and
    any number of derivatives.
    Shapes: x and the result (b, l, h, p); dt, after bias and softplus, (b, l, h); A (h,); B, C (b, l, g, n), of which
    head i reads group i // (h / g); the states (b, h, p, n), at first zeros if None. If not ``causal``, all tokens read
    one state, the sum of -dt_t A x_t B_t^T.
    """
    b, _, h, p = x.shape
    B, C = (t.repeat_interleave(h // t.shape[2], 2) for t in (B, C))  # (b, l, h, n)
    state = x.new_zeros(b, h, p, B.shape[-1]) if initial_state is None else initial_state
    if not causal:
        for x_t, dt_t, B_t in zip(*(t.unbind(1) for t in (x, dt, B)), strict=True):
            state = state + (-dt_t * A)[..., None, None] * x_t[..., None] * B_t[..., None, :]
        ys = [(state * C_t[..., None, :]).sum(-1) for C_t in C.unbind(1)]
        return (torch.stack(ys, 1) if ys else x), state
    ys = []
    for x_t, dt_t, B_t, C_t in zip(*(t.unbind(1) for t in (x, dt, B, C)), strict=True):
        state = torch.exp(dt_t * A)[..., None, None] * state + (dt_t[..., None] * x_t)[..., None] * B_t[..., None, :]
        ys.append((state * C_t[..., None, :]).sum(-1))
    return (torch.stack(ys, 1) if ys else x), state
