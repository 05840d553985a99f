"""The selective scan on the CPU by the compiled library (cpu.cpp): float32 inside, channels-last, any routes."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ..cpu.library import describe, fields, is_built, library, pointer, sum_parts, threads, token_rows
from .scan import Scan

__all__ = ['KEEPS_Y', 'MAX_STATES', 'MEMORY', 'backward', 'describe', 'forward', 'is_built', 'library', 'stored_steps']

KEEPS_Y = True  # the sum before the gate, for the backward pass
MEMORY = {'u': 'kbld', 'delta': 'kbld', 'B': 'bkgln', 'C': 'bkgln', 'z': 'bld'}  # of the gradients
MAX_STATES = 256
CHUNK = 16  # steps between two saved states, as in cpu.cpp
_STEP_COST = 12e-9  # seconds for a (batch, channel, step) of 16 states, about: what a thread must be worth


class _Scan(ctypes.Structure):
    _fields_ = [
        *fields('b k g d l n chunks softplus', ctypes.c_int64),
        *fields('u_b u_k u_l delta_b delta_k delta_l', ctypes.c_int64),
        *fields('B_b B_k B_g B_l C_b C_k C_g C_l z_b z_l', ctypes.c_int64),
        *fields('u delta A B C D z bias h0 rows steps out last saved y', ctypes.c_void_p),
    ]


class _Grads(ctypes.Structure):
    _fields_ = [
        *fields('out_b out_l', ctypes.c_int64),
        *fields('out last u delta A B C D z bias h0', ctypes.c_void_p),
    ]


def stored_steps(n: int) -> int:
    """Steps between two saved states, whatever the states are."""
    return CHUNK


def _flat(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.float().contiguous()


def _describe(s: Scan) -> tuple[_Scan, list, int]:
    """The C structure, the tensors that it points into, and how many threads the work is worth."""
    (k, d, n), (b, _, g, _, l) = s.A.shape, s.B.shape
    u, delta, B, C = (token_rows(t) for t in (s.u, s.delta, s.B, s.C))
    z = None if s.z is None else token_rows(s.z)
    A, D, bias, h0 = (_flat(t) for t in (s.A, s.D, s.delta_bias, s.initial_state))
    rows = None if s.rows is None else s.rows.contiguous()
    steps = (ctypes.c_int64 * k)(*s.steps)
    own = u.ndim == 4
    c = _Scan(
        b, k, g, d, l, n, -(-l // CHUNK), s.softplus,
        u.stride(0), u.stride(1) if own else 0, u.stride(-2), delta.stride(0), delta.stride(1), delta.stride(2),
        *B.stride()[:4], *C.stride()[:4], *((0, 0) if z is None else z.stride()[:2]),
        *map(pointer, (u, delta, A, B, C, D, z, bias, h0, rows)), ctypes.addressof(steps),
    )  # fmt: skip
    return c, [u, delta, A, B, C, D, z, bias, h0, rows, steps], threads(b * k * d * l * (n + 4) / 20 * _STEP_COST)


def forward(s: Scan, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes (out, last_state, saved, y): the last two are what `backward` wants, empty unless ``save``."""
    c, keep, count = _describe(s)
    wide = torch.float32
    out = s.u.new_empty(c.b, c.l, c.d, dtype=wide)
    last = s.u.new_empty(c.b, c.k, c.d, c.n, dtype=wide)
    saved = s.u.new_empty((c.b, c.k, c.chunks, c.n, c.d) if save else 0, dtype=wide)
    y = s.u.new_empty((c.b, c.l, c.d) if save and s.z is not None else 0, dtype=wide)
    c.out, c.last = out.data_ptr(), last.data_ptr()
    if save:
        c.saved, c.y = saved.data_ptr(), y.data_ptr() if s.z is not None else None
    library().vimamba_scan_forward(ctypes.byref(c), count)
    del keep
    y = y.transpose(1, 2) if y.ndim == 3 else y
    return out.to(s.u.dtype).transpose(1, 2), last, saved, y


def backward(
    grad_out: Tensor, grad_last: Tensor | None, s: Scan, saved: Tensor, y: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients for the tensors of the scan, u to initial_state; None where there is none."""
    c, keep, count = _describe(s)
    b, k, g, d, l, n = c.b, c.k, c.g, c.d, c.l, c.n
    dout = token_rows(grad_out)
    last = _flat(grad_last)
    parts = library().vimamba_scan_parts(ctypes.byref(c), count)
    y = y.transpose(1, 2).contiguous() if y.ndim == 3 else y
    saved = saved.contiguous()
    c.saved, c.y = saved.data_ptr(), y.data_ptr()
    du = torch.empty((b, l, d) if s.u.ndim == 3 else (k, b, l, d))
    ddelta, dA = torch.empty(k, b, l, d), torch.empty(b, k, d, n)
    dB, dC = (torch.empty(parts, b, k, g, l, n) for _ in range(2))
    dD, dbias = (None if t is None else torch.empty(b, k, d) for t in (s.D, s.delta_bias))
    dz = None if s.z is None else torch.empty(b, l, d)
    dh = None if s.initial_state is None else torch.empty(b, k, d, n)
    new = (du, ddelta, dA, dB, dC, dD, dz, dbias, dh)
    c_grads = _Grads(dout.stride(0), dout.stride(1), *map(pointer, (dout, last, *new)))
    library().vimamba_scan_backward(ctypes.byref(c), ctypes.byref(c_grads), count)
    del keep
    grads = (
        du.transpose(1, 2) if s.u.ndim == 3 else du.permute(1, 0, 3, 2),
        ddelta.permute(1, 0, 3, 2),
        sum_parts(dA, count),
        sum_parts(dB, count).transpose(-1, -2),
        sum_parts(dC, count).transpose(-1, -2),
        None if dD is None else sum_parts(dD, count),
        None if dz is None else dz.transpose(1, 2),
        None if dbias is None else sum_parts(dbias, count),
        dh,
    )
    return tuple(None if grad is None or t is None else grad.to(t.dtype) for grad, t in zip(grads, s.tensors))
