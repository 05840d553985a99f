"""The selective scan in plain PyTorch, forward and backward: any device, no compiler.

Two things make it several times faster than the reference loop. Everything that does not depend on the state is
computed for a chunk of steps at once, so that a step of the recurrence is one fused multiply-add; and the backward
pass is written out, from one saved state per chunk, so that the states (b, d, n) of at most one chunk of about
sqrt(l) steps are ever in memory. Inside, time is the leading axis and channels the last, (l, b, g, n, d/g), so that a
step is contiguous and the innermost loop runs over channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _Steps(NamedTuple):
    """The operands in scan order, time first, in the dtype of the computation."""

    x: Tensor  # (l, b, g, 1, d/g)
    raw: Tensor  # (l, b, g, 1, d/g)  delta + bias, before softplus
    dt: Tensor  # (l, b, g, 1, d/g)
    A: Tensor  # (g, n, d/g)
    B: Tensor  # (l, b, g, n, 1)
    C: Tensor  # (l, b, g, n, 1)
    h: Tensor  # (b, g, n, d/g)  initial state
    chunk: int


def _time_first(t: Tensor, dtype: torch.dtype, reverse: bool) -> Tensor:
    t = t.movedim(-1, 0)
    return (t.flip(0) if reverse else t).to(dtype).contiguous()  # so that sums do not depend on the strides


def _batch_first(t: Tensor, dtype: torch.dtype, reverse: bool) -> Tensor:
    """(l, b, d) -> (b, d, l), channels-last in memory: what the projection that follows reads."""
    return (t.flip(0) if reverse else t).transpose(0, 1).to(dtype).contiguous().transpose(1, 2)


def _softplus(x: Tensor) -> Tensor:
    """softplus to the last bits of float32, four times as fast on a CPU: PyTorch's log1p is not vectorised there."""
    if x.dtype != torch.float32:
        return F.softplus(x)
    e = torch.exp(-x.abs())
    w = 1 + e
    log1p = torch.where(w == 1, e, w.log() * (e / (w - 1)))  # the rounding error of w cancels (W. Kahan)
    return log1p + x.relu()


def _prepare(u, delta, A, B, C, delta_bias, initial_state, delta_softplus, reverse) -> _Steps:
    dtype = torch.promote_types(u.dtype, torch.float32)
    (b, d, l), g, n = u.shape, B.shape[1], A.shape[1]
    x, raw = (_time_first(t, dtype, reverse) for t in (u, delta))
    if delta_bias is not None:
        raw = raw + delta_bias.to(dtype)
    raw = raw.reshape(l, b, g, 1, d // g)
    B, C = (_time_first(t, dtype, reverse)[..., None] for t in (B, C))
    A = A.to(dtype).view(g, d // g, n).transpose(1, 2).contiguous()
    if initial_state is None:
        h = x.new_zeros(b, g, n, d // g)
    else:
        h = (
            initial_state.to(dtype)
            .reshape(b, g, d // g, n)
            .transpose(2, 3)
            .clone(memory_format=torch.contiguous_format)
        )
    dt = _softplus(raw) if delta_softplus else raw
    return _Steps(x.reshape(raw.shape), raw, dt, A, B, C, h, max(8, math.isqrt(l)))


def _states(s: _Steps, part: slice, h: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states (steps, b, g, n, d/g) of one chunk that starts from the state ``h``."""
    decay = (s.dt[part] * s.A).exp_()
    states = (s.dt[part] * s.x[part]) * s.B[part]
    for a, state in zip(decay.unbind(0), states.unbind(0)):
        h = state.addcmul_(a, h)
    return decay, states


def _sum_states(left: Tensor, right: Tensor) -> Tensor:
    """sum over n of left (..., n, 1) * right (..., n, d) -> (..., 1, d)."""
    return left * right if left.shape[-2] == 1 else left.transpose(-1, -2) @ right


def _sum_channels(left: Tensor, right: Tensor) -> Tensor:
    """sum over channels of left (..., n, d) * right (..., 1, d) -> (..., n, 1)."""
    return left @ right.transpose(-1, -2)


def _chunks(s: _Steps) -> list[slice]:
    return [slice(t, t + s.chunk) for t in range(0, len(s.x), s.chunk)]


def forward(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse) -> tuple[Tensor, Tensor]:
    """Computes (out, last_state); arguments as in `selective_scan`, B and C (b, g, n, l)."""
    s = _prepare(u, delta, A, B, C, delta_bias, initial_state, delta_softplus, reverse)
    (b, d, l), h = u.shape, s.h
    y = torch.empty_like(s.x)
    for part in _chunks(s):
        _, states = _states(s, part, h)
        h = states[-1]
        y[part] = _sum_states(s.C[part], states)
    y, x = y.view(l, b, d), s.x.view(l, b, d)
    if D is not None:
        y.addcmul_(x, D.to(y.dtype))
    if z is not None:
        y.mul_(F.silu(_time_first(z, y.dtype, reverse)))
    return _batch_first(y, u.dtype, reverse), h.transpose(2, 3).reshape(b, d, A.shape[1]).contiguous()


def backward(
    grad_out, grad_last, u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse
) -> tuple[Tensor | None, ...]:
    """Gradients for (u, delta, A, B, C, D, z, delta_bias, initial_state); None where the argument is None.

    With g_t = dL/dh_t and a_t = exp(d_t A):  g_t = C_t dL/dy_t + a_{t+1} g_{t+1}, and from it
        dL/dC_t = dL/dy_t h_t        dL/dB_t = d_t u_t g_t        dL/du_t = d_t B_t g_t + D dL/dy_t
        dL/dA = sum_t d_t a_t h_{t-1} g_t                         dL/dd_t = A a_t h_{t-1} g_t + B_t u_t g_t
    Sums run in a fixed order: the result does not change from run to run.
    """
    s = _prepare(u, delta, A, B, C, delta_bias, initial_state, delta_softplus, reverse)
    (b, d, l), n = u.shape, A.shape[1]
    shape, dtype = s.x.shape, s.x.dtype
    x = s.x.view(l, b, d)
    dout = _time_first(grad_out, dtype, reverse)
    dy = dout if z is None else dout * F.silu(_time_first(z, dtype, reverse))
    dy = dy.reshape(shape)

    starts, h = [], s.h
    y = torch.empty_like(s.x) if z is not None else None
    for part in _chunks(s):
        starts.append(h)
        _, states = _states(s, part, h)
        h = states[-1].clone()
        if y is not None:
            y[part] = _sum_states(s.C[part], states)

    dx, ddt = torch.empty_like(s.x), torch.empty_like(s.x)
    dB, dC = torch.empty_like(s.B), torch.empty_like(s.C)
    dA = torch.zeros_like(s.A)
    carry = (
        grad_last.to(dtype)
        .reshape(h.transpose(2, 3).shape)
        .transpose(2, 3)
        .clone(memory_format=torch.contiguous_format)
    )
    for part, start in zip(reversed(_chunks(s)), reversed(starts)):
        dt, xs, dys, Bs = s.dt[part], s.x[part], dy[part], s.B[part]
        decay, states = _states(s, part, start)
        dC[part] = _sum_channels(states, dys)
        grads = s.C[part] * dys  # becomes g_t, backwards in place; carry = a_{t+1} g_{t+1}
        for a, grad in zip(reversed(decay.unbind(0)), reversed(grads.unbind(0))):
            carry = a * grad.add_(carry)
        dB[part] = _sum_channels(grads, dt * xs)
        through_B = _sum_states(Bs, grads)
        torch.mul(dt, through_B, out=dx[part])
        decay[1:].mul_(states[:-1])
        decay[0].mul_(start)
        decay.mul_(grads)  # a_t h_{t-1} g_t
        dA += (decay * dt).sum((0, 1))
        torch.addcmul((decay * s.A).sum(-2, keepdim=True), xs, through_B, out=ddt[part])

    dx, ddt, dy = (t.view(l, b, d) for t in (dx, ddt, dy))
    dD = dz = dbias = dstate = None
    if D is not None:
        dx.addcmul_(dy, D.to(dtype))
        dD = (dy * x).sum((0, 1)).to(D.dtype)
    if z is not None and y is not None:
        y = y.view(l, b, d)
        if D is not None:
            y.addcmul_(x, D.to(dtype))
        gate = _time_first(z, dtype, reverse)
        sigmoid = gate.sigmoid()
        dz = _batch_first(dout * y * sigmoid * (1 + gate * (1 - sigmoid)), z.dtype, reverse)
    if delta_softplus:
        raw = s.raw.view(l, b, d)
        ddt = torch.where(raw > 20, ddt, ddt * raw.sigmoid())  # softplus is the identity above 20
    if delta_bias is not None:
        dbias = ddt.sum((0, 1)).to(delta_bias.dtype)
    if initial_state is not None:
        dstate = carry.transpose(2, 3).reshape(b, d, n).to(initial_state.dtype).contiguous()
    dB, dC = ((t.flip(0) if reverse else t)[..., 0].movedim(0, -1) for t in (dB, dC))
    return (
        _batch_first(dx, u.dtype, reverse),
        _batch_first(ddt, delta.dtype, reverse),
        dA.transpose(1, 2).reshape(d, n).to(A.dtype),
        dB.to(B.dtype).contiguous(),
        dC.to(C.dtype).contiguous(),
        dD,
        dz,
        dbias,
        dstate,
    )
