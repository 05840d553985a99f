"""SSD by chunks in plain PyTorch: a masked matrix product within a chunk, the recurrence between chunks.

Memory and time are linear in the length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['decays_between', 'ssd_chunked', 'ssd_noncausal']


def decays_between(a: Tensor) -> Tensor:
    """(..., c) -> (..., c, c): exp of the sum of a over j + 1 ... i where i >= j, and 0 where i < j.

    Each sum is computed separately. A difference of two cumulative sums loses digits, and a quotient of two products
    is 0 / 0 for strong decays.
    """
    c = a.shape[-1]
    ones = torch.ones(c, c, dtype=torch.bool, device=a.device)
    sums = a.unsqueeze(-1).expand(*a.shape, c).masked_fill(~ones.tril(-1), 0).cumsum(-2)
    return torch.exp(sums.masked_fill(~ones.tril(), -torch.inf))


def ssd_chunked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """As `ssd_reference`, in steps of ``chunk_size`` (arXiv:2405.21060, Sec. 6)."""
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    pad = -l % chunk_size  # with steps of size 0, which leave the state as it is
    x, B, C = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x, B, C))
    dt = F.pad(dt, (0, 0, 0, pad))
    # b batch, z chunks, i and j steps of a chunk, g groups, e heads of a group
    x, dt = (t.unflatten(2, (g, h // g)).unflatten(1, (-1, chunk_size)) for t in (x, dt))  # (b, z, i, g, e, ...)
    B, C = (t.unflatten(1, (-1, chunk_size)) for t in (B, C))  # (b, z, i, g, n)
    steps = (dt * A.view(g, h // g)).permute(0, 1, 3, 4, 2)  # (b, z, g, e, i)
    weighted = x * dt.unsqueeze(-1)

    decays = decays_between(steps)  # (b, z, g, e, i, j)
    products = torch.einsum('bzign,bzjgn->bzgij', C, B).unsqueeze(3)
    y = torch.einsum('bzgeij,bzjgep->bzigep', products * decays, weighted)

    to_end = decays[..., -1, :].permute(0, 1, 4, 2, 3)  # (b, z, j, g, e)
    added = torch.einsum('bzjgn,bzjgep->bzgepn', B, weighted * to_end.unsqueeze(-1))
    from_start = torch.exp(steps.cumsum(-1))  # (b, z, g, e, i)
    state = x.new_zeros(b, h, p, n) if initial_state is None else initial_state
    state = state.unflatten(1, (g, h // g))
    before = []
    for whole, new in zip(from_start[..., -1].unbind(1), added.unbind(1), strict=True):
        before.append(state)
        state = whole[..., None, None] * state + new
    if before:
        carried = torch.einsum('bzign,bzgepn->bzigep', C, torch.stack(before, 1))
        y = y + carried * from_start.permute(0, 1, 4, 2, 3).unsqueeze(-1)
    return y.flatten(1, 2)[:, :l].flatten(2, 3), state.flatten(1, 2)


def ssd_noncausal(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y_t = H C_t with one H = sum_t -d_t A x_t B_t^T for all tokens: two matrix products (arXiv:2407.18559)."""
    g = B.shape[2]
    weighted = (x * -(dt * A).unsqueeze(-1)).unflatten(2, (g, -1))  # (b, l, g, e, p)
    state = torch.einsum('blgep,blgn->bgepn', weighted, B)
    if initial_state is not None:
        state = state + initial_state.unflatten(1, (g, -1))
    return torch.einsum('blgn,bgepn->blgep', C, state).flatten(2, 3), state.flatten(1, 2)
