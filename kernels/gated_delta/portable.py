"""The gated delta rule by chunks in plain PyTorch: matrix products within a chunk, the recurrence between chunks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ssd.portable import decays_between

__all__ = ['gated_delta_chunked']


def _inverse(lower: Tensor) -> Tensor:
    """(I + lower)^-1 of strictly lower triangular matrices (..., c, c), c a power of two, by halves.

    It consists of matrix products, which every exporter supports. The product (I - L)(I + L^2)(I + L^4) ... would be
    shorter, but it cancels: for c = 32 and equal keys the powers of L reach 3e8, the inverse 1.
    """
    half = lower.shape[-1] // 2
    if half == 0:
        return torch.ones_like(lower)
    first, second = _inverse(torch.stack((lower[..., :half, :half], lower[..., half:, half:]))).unbind(0)
    corner = -second @ lower[..., half:, :half] @ first
    return torch.cat((F.pad(first, (0, half)), torch.cat((corner, second), -1)), -2)


def gated_delta_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """As `gated_delta_reference`, in chunks of ``chunk_size`` steps, a power of two (arXiv:2412.06464, Sec. 3.3).

    With G_i = g_1 + ... + g_i in a chunk that starts from the state S, and u_i what step i writes to the key k_i:

        (I + L) u = beta (v - exp(G) k S),   L_ij = beta_i exp(G_i - G_j) (k_i . k_j) for j < i
        y_i = exp(G_i) q_i S + sum_{j <= i} exp(G_i - G_j) (q_i . k_j) u_j
        S   = exp(G_c) S + sum_j exp(G_c - G_j) k_j^T u_j
    """
    b, l, h, n = k.shape
    pad = -l % chunk_size  # with beta = g = 0, which leaves the state as it is
    q, k, v = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (q * scale, k, v))
    g, beta = (F.pad(t, (0, 0, 0, pad)) for t in (g, beta))
    q, k, v, g, beta = (t.unflatten(1, (-1, chunk_size)).transpose(2, 3) for t in (q, k, v, g, beta))  # (b, z, h, c, .)

    decays = decays_between(g)  # (b, z, h, i, j)
    from_start, to_end = torch.exp(g.cumsum(-1)).unsqueeze(-1), decays[..., -1, :].unsqueeze(-1)
    inverse = _inverse((beta.unsqueeze(-1) * decays * (k @ k.mT)).tril(-1)) * beta.unsqueeze(-2)
    written, erased = inverse @ v, inverse @ (from_start * k)  # u = written - erased S
    parts = (from_start * q, decays * (q @ k.mT), written, erased, (to_end * k).mT, from_start[..., -1:, :])

    state = v.new_zeros(b, h, n, v.shape[-1]) if initial_state is None else initial_state
    ys = []
    for q_z, scores, u, w, k_z, decay in zip(*(t.unbind(1) for t in parts), strict=True):
        u = u - w @ state
        ys.append(q_z @ state + scores @ u)
        state = decay * state + k_z @ u
    y = torch.stack(ys, 1) if ys else v
    return y.transpose(2, 3).flatten(1, 2)[:, :l], state
