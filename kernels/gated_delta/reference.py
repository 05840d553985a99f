"""The gated delta rule by its recurrence, one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['gated_delta_reference']


def gated_delta_reference(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,  y_t = scale S_t^T q_t.

    arXiv:2412.06464, Eq. 10, with the state transposed. Any floating-point dtype and any number of derivatives.
    Shapes: q, k (b, l, h, n); v and the result (b, l, h, p); g, beta (b, l, h); the states (b, h, n, p), at first zeros
    if None.
    """
    b, _, h, n = k.shape
    state = v.new_zeros(b, h, n, v.shape[-1]) if initial_state is None else initial_state
    ys = []
    for q_t, k_t, v_t, g_t, beta_t in zip(*(t.unbind(1) for t in (q, k, v, g, beta)), strict=True):
        state = torch.exp(g_t)[..., None, None] * state
        error = v_t - (state * k_t[..., None]).sum(-2)  # (b, h, p): the value minus what the state returns for the key
        state = state + k_t[..., None] * (beta_t[..., None] * error)[..., None, :]
        ys.append((state * q_t[..., None]).sum(-2))
    return (torch.stack(ys, 1) * scale if ys else v), state
