"""The selective scan on the CPU by the compiled library (cpu.cpp): float32, channels-last, any routes."""

from __future__ import annotations

from array import array

from torch import Tensor

from ..cpu.library import describe, flat, is_built, library, pack, pointer, sum_parts, threads, token_rows
from ..routes import swap
from .scan import Scan, differentiated

__all__ = ['CHUNK', 'KEEPS_Y', 'MAX_STATES', 'MEMORY', 'backward', 'describe', 'forward', 'is_built', 'library']

KEEPS_Y = True  # keeps y before the gate for the backward pass
# layout of the gradients, see `empty_grads`
MEMORY = {'u': 'kbld', 'delta': 'kbld', 'B': 'bkgln', 'C': 'bkgln', 'z': 'bld'}
MAX_STATES = 256
CHUNK = 16  # steps between two saved states, the same as in cpu.cpp
_STEP_COST = 12e-9  # approximate seconds for a (batch, channel, step) of 16 states; sets the number of threads


def _describe(s: Scan) -> tuple[list[int], list, int]:
    """The C structure without its results, the objects that it points into, and the number of threads."""
    (k, d, n), (b, _, g, _, l) = s.A.shape, s.B.shape
    u, delta, B, C = token_rows(s.u), token_rows(s.delta), token_rows(s.B), token_rows(s.C)
    z = None if s.z is None else token_rows(s.z)
    rows = None if s.rows is None else s.rows.contiguous()
    keep = [u, delta, flat(s.A), B, C, flat(s.D), z, flat(s.delta_bias), flat(s.initial_state), rows]
    steps = array('q', s.steps)
    u_b, *u_k, _, u_l = u.stride()
    delta_b, delta_k, _, delta_l = delta.stride()
    (*B_bkg, _, B_l), (*C_bkg, _, C_l) = B.stride(), C.stride()
    z_b, _, z_l = (0, 0, 0) if z is None else z.stride()
    out_k = b * l * d if s.each else 0
    values = [
        *(b, k, g, d, l, n, -(-l // CHUNK), s.softplus),
        *(u_b, u_k[0] if u_k else 0, u_l, delta_b, delta_k, delta_l, *B_bkg, B_l, *C_bkg, C_l, z_b, z_l, out_k),
        *[0 if t is None else t.data_ptr() for t in keep],
        steps.buffer_info()[0],
    ]
    return values, [*keep, steps], threads(b * k * d * l * (n + 4) / 20 * _STEP_COST)


def forward(s: Scan, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes (out, last_state, saved, y). `backward` needs the last two; they are empty unless ``save``."""
    values, keep, count = _describe(s)
    b, k, _, d, l, n, chunks = values[:7]
    new = keep[0].new_empty  # float32 on the CPU, independent of torch's defaults
    shape = (k, b, l, d) if s.each else (b, l, d)
    out, last = new(shape), new(b, k, d, n)
    saved, y = new((b, k, chunks, n, d) if save else 0), new(shape if save and s.z is not None else 0)
    kept = (saved, y if y.ndim > 1 else None) if save else (None, None)
    library().vimamba_scan_forward(pack([*values, *map(pointer, (out, last, *kept))]), count)
    del keep
    return _as(swap(out), s.u), last, saved, swap(y) if y.ndim > 1 else y


def _as(t: Tensor, like: Tensor) -> Tensor:
    return t if t.dtype == like.dtype else t.to(like.dtype)


def backward(
    grad_out: Tensor, grad_last: Tensor | None, s: Scan, saved: Tensor, y: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors of the scan, u to initial_state; None for those that are None."""
    values, keep, count = _describe(s)
    b, k, g, d, l, n = values[:6]
    dout, last, saved = token_rows(grad_out), flat(grad_last), saved.contiguous()
    if y.ndim > 1:
        y = swap(y).contiguous()
    scan = pack([*values, 0, 0, saved.data_ptr(), y.data_ptr()])
    parts = library().vimamba_scan_parts(scan, count)
    new = keep[0].new_empty
    du = new((b, l, d) if s.u.ndim == 3 else (k, b, l, d))
    ddelta, dA = new(k, b, l, d), new(b, k, d, n)
    dB, dC = new(parts, b, k, g, l, n), new(parts, b, k, g, l, n)
    dD, dbias = (None if t is None else new(b, k, d) for t in (s.D, s.delta_bias))
    dz = None if s.z is None else new(b, l, d)
    dh = None if s.initial_state is None else new(b, k, d, n)
    dout_b, *dout_k, _, dout_l = dout.stride()
    strides = (dout_b, *(dout_k or [0]), dout_l, 0 if s.u.ndim == 3 else b * l * d)
    results = (dout, last, du, ddelta, dA, dB, dC, dD, dz, dbias, dh)
    library().vimamba_scan_backward(scan, pack([*strides, *map(pointer, results)]), count)
    del keep
    grads = (
        swap(du),
        swap(ddelta),
        sum_parts(dA, count),
        sum_parts(dB, count).transpose(-1, -2),
        sum_parts(dC, count).transpose(-1, -2),
        None if dD is None else sum_parts(dD, count),
        None if dz is None else swap(dz),
        None if dbias is None else sum_parts(dbias, count),
        dh,
    )
    return tuple(None if grad is None or t is None else _as(grad, t) for grad, t in zip(grads, differentiated(s)))
