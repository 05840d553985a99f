"""The selective scan in plain PyTorch, forward and backward: any device, no compiler.

Two things make it several times faster than the reference loop. First, everything that does not depend on the state is
computed for a chunk of steps at once, so a step of the recurrence is one fused multiply-add. Second, the backward pass
is written out and starts from one saved state per chunk, so the states (b, d, n) of at most one chunk are in memory.
Internally, routes are groups, time is the leading axis and channels the last, (l, b, g, n, d/g): a step is contiguous,
and the innermost loop runs over channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..routes import read, swap, unread
from .scan import Scan

__all__ = ['CHUNK', 'KEEPS_Y', 'MEMORY', 'backward', 'describe', 'forward']

CHUNK = 32  # steps between two saved states
KEEPS_Y = True  # keeps y before the gate for the backward pass
MEMORY = {'u': 'kbld', 'delta': 'kbld', 'z': 'bld'}  # layout of the gradients, see `empty_grads`


def describe() -> str:
    return 'plain PyTorch'


class _Steps(NamedTuple):
    """The operands in scan order, time first, in the dtype of the computation. G counts the groups of all routes."""

    x: Tensor  # (l, b, G, 1, d/g)
    raw: Tensor  # (l, b, G, 1, d/g)  delta + bias, before softplus
    dt: Tensor  # (l, b, G, 1, d/g)
    A: Tensor  # (G, n, d/g)
    A2: Tensor  # (G, n, d/g)  A / log 2: on many CPUs PyTorch's exp2 is several times faster than exp
    B: Tensor  # (l, b, G, n, 1)
    C: Tensor  # (l, b, G, n, 1)


def _wide(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)


def _time_first(t: Tensor, s: Scan) -> Tensor:
    """(b, k or 1, ..., l) -> (l, b, k, ...) in scan order."""
    t = read(t, s.rows, s.steps).movedim(-1, 0)
    return t.to(_wide(s.u)).contiguous()  # so that sums do not depend on the strides


def _tokens(t: Tensor, s: Scan) -> Tensor:
    """(l, b, ...) in scan order -> (b, k, d, l) in token order."""
    b, k, d, l = s.delta.shape
    return unread(t.reshape(l, b, k, d).permute(1, 2, 3, 0), s.rows, s.steps)


def _channels_last(t: Tensor, dtype: torch.dtype) -> Tensor:
    """The same values in the layout of `empty_output`."""
    return swap(swap(t).to(dtype).contiguous())


def _softplus(x: Tensor) -> Tensor:
    """softplus with the accuracy of float32, several times faster on a CPU, where PyTorch's log1p is not vectorised."""
    if x.dtype != torch.float32:
        return F.softplus(x)
    e = torch.exp(-x.abs())
    w = 1 + e
    return x.relu() + (w.log() + (e - (w - 1)) / w)  # log1p(e), with a first-order correction for the rounding of w


def _prepare(s: Scan) -> tuple[_Steps, Tensor]:
    """The operands, and the initial state (b, G, n, d/g)."""
    dtype = _wide(s.u)
    (k, d, n), (b, _, g, _, l) = s.A.shape, s.B.shape
    shape = (l, b, k * g, 1, d // g)
    x = _time_first(s.u if s.u.ndim == 4 else s.u.unsqueeze(1), s)
    raw = _time_first(s.delta, s)
    if s.delta_bias is not None:
        raw = raw + s.delta_bias.to(dtype)
    raw = raw.reshape(shape)
    B, C = (_time_first(t, s).reshape(l, b, k * g, n, 1) for t in (s.B, s.C))
    A = s.A.to(dtype).reshape(k * g, d // g, n).transpose(1, 2).contiguous()
    h = x.new_zeros(b, k * g, n, d // g)
    if s.initial_state is not None:
        h.copy_(s.initial_state.reshape(b, k * g, d // g, n).transpose(2, 3))
    dt = _softplus(raw) if s.softplus else raw
    return _Steps(x.reshape(shape), raw, dt, A, A / math.log(2), B, C), h


def _states(s: _Steps, part: slice, h: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states (steps, b, G, n, d/g) of one chunk that starts from the state ``h``."""
    decay = (s.dt[part] * s.A2).exp2_()
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
    return [slice(t, t + CHUNK) for t in range(0, len(s.x), CHUNK)]


def forward(scan: Scan, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes (out, last_state, saved, y). `backward` needs the last two; they are empty unless ``save``."""
    s, h = _prepare(scan)
    (k, d, n), b, l = scan.A.shape, scan.u.shape[0], scan.u.shape[-1]
    starts = []
    y = torch.empty_like(s.x)
    for part in _chunks(s):
        starts.append(h)
        _, states = _states(s, part, h)
        h = states[-1].clone() if save else states[-1]
        y[part] = _sum_states(s.C[part], states)
    y, x = y.view(l, b, k * d), s.x.view(l, b, k * d)
    if scan.D is not None:
        y.addcmul_(x, scan.D.to(y.dtype).flatten())
    y = _tokens(y, scan)
    if not scan.each:
        y = y[:, 0] if k == 1 else y.sum(1)  # (b, d, l)
    saved, ungated = y.new_empty(0), y.new_empty(0)
    if save:
        saved = torch.stack(starts, 1) if starts else y.new_empty(b, 0, *h.shape[1:])
        g = scan.B.shape[2]
        saved = saved.view(b, len(starts), k, g, n, d // g).permute(0, 2, 1, 4, 3, 5).reshape(b, k, len(starts), n, d)
    out = y
    if scan.z is not None:
        gate = F.silu(_channels_last(scan.z, y.dtype))
        ungated = _channels_last(y, y.dtype) if save else ungated
        out = _channels_last(y, y.dtype) * (gate.unsqueeze(1) if scan.each else gate)
    last = h.transpose(2, 3).reshape(b, k, d, n)
    return _channels_last(out, scan.u.dtype), last.contiguous(), saved.contiguous(), ungated


def backward(
    grad_out: Tensor, grad_last: Tensor | None, scan: Scan, saved: Tensor, y: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors of the scan, u to initial_state; None for those that are None.

    With g_t = dL/dh_t and a_t = exp(d_t A):  g_t = C_t dL/dy_t + a_{t+1} g_{t+1}, and from it
        dL/dC_t = dL/dy_t h_t        dL/dB_t = d_t u_t g_t        dL/du_t = d_t B_t g_t + D dL/dy_t
        dL/dA = sum_t d_t a_t h_{t-1} g_t                         dL/dd_t = A a_t h_{t-1} g_t + B_t u_t g_t
    Sums run in a fixed order, so the result is deterministic.
    """
    s, h = _prepare(scan)
    (k, d, n), b, l, g = scan.A.shape, scan.u.shape[0], scan.u.shape[-1], scan.B.shape[2]
    shape, dtype = s.x.shape, s.x.dtype
    dout = _channels_last(grad_out, dtype)  # so that the rounding of sums and products does not depend on strides
    dy, dz = dout, None
    if scan.z is not None:
        z = _channels_last(scan.z, dtype)
        z = z.unsqueeze(1) if scan.each else z
        sigmoid = z.sigmoid()
        dy = dout * (z * sigmoid)
        dz = dout * y * sigmoid * (1 + z * (1 - sigmoid))
        dz = _channels_last(dz.sum(1) if scan.each else dz, scan.z.dtype)
    dy = _time_first(dy if scan.each else dy.unsqueeze(1), scan).reshape(shape)
    chunks = saved.shape[2]
    starts = saved.view(b, k, chunks, n, g, d // g).permute(2, 0, 1, 4, 3, 5).reshape(chunks, *h.shape)

    dx, ddt = torch.empty_like(s.x), torch.empty_like(s.x)
    dB, dC = torch.empty_like(s.B), torch.empty_like(s.C)
    dA = torch.zeros_like(s.A)
    carry = torch.zeros_like(h)
    if grad_last is not None:
        carry.copy_(grad_last.reshape(b, k * g, d // g, n).transpose(2, 3))
    for part, start in zip(reversed(_chunks(s)), reversed(starts)):
        dt, xs, dys, Bs = s.dt[part], s.x[part], dy[part], s.B[part]
        decay, states = _states(s, part, start)
        dC[part] = _sum_channels(states, dys)
        grads = s.C[part] * dys  # becomes g_t in place, from the last step to the first
        later, *earlier = reversed(grads.unbind(0))
        later.add_(carry)  # a_{t+1} g_{t+1}
        for a, grad in zip(reversed(decay[1:].unbind(0)), earlier):
            later = grad.addcmul_(a, later)
        carry = decay[0] * later
        dB[part] = _sum_channels(grads, dt * xs)
        through_B = _sum_states(Bs, grads)
        torch.mul(dt, through_B, out=dx[part])
        decay[1:].mul_(states[:-1])
        decay[0].mul_(start)
        decay.mul_(grads)  # a_t h_{t-1} g_t
        torch.addcmul((decay * s.A).sum(-2, keepdim=True), xs, through_B, out=ddt[part])
        dA += decay.mul_(dt).sum((0, 1))

    x, dx, ddt, raw, dy = (t.view(l, b, k * d) for t in (s.x, dx, ddt, s.raw, dy))
    dD = dbias = dstate = None
    if scan.D is not None:
        dx.addcmul_(dy, scan.D.to(dtype).flatten())
        dD = (dy * x).sum((0, 1)).view(k, d).to(scan.D.dtype)
    if scan.softplus:
        ddt = torch.where(raw > 20, ddt, ddt * raw.sigmoid())  # softplus is the identity above 20
    if scan.delta_bias is not None:
        dbias = ddt.sum((0, 1)).view(k, d).to(scan.delta_bias.dtype)
    if scan.initial_state is not None:
        dstate = carry.transpose(2, 3).reshape(b, k, d, n).to(scan.initial_state.dtype).contiguous()
    du = _tokens(dx, scan)
    dB, dC = (
        unread(t.view(l, b, k, g, n).permute(1, 2, 3, 4, 0), scan.rows, scan.steps).to(like.dtype).contiguous()
        for t, like in ((dB, scan.B), (dC, scan.C))
    )
    return (
        _channels_last(du if scan.u.ndim == 4 else du.sum(1), scan.u.dtype),
        _channels_last(_tokens(ddt, scan), scan.delta.dtype),
        dA.transpose(1, 2).reshape(k, d, n).to(scan.A.dtype),
        dB,
        dC,
        dD,
        dz,
        dbias,
        dstate,
    )
