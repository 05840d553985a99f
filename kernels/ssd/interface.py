"""SSD: argument checks, choice of backend, and the softplus, skip, gate and direction around the recurrence."""

from __future__ import annotations

from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

from vimamba.errors import UsageError, bad_argument, check_flags, check_integers, unknown_name

from ..backends import choose
from ..checks import check_rank, check_tensors
from ..operator import without_autocast
from .portable import ssd_chunked, ssd_noncausal
from .reference import ssd_reference

BACKENDS = ('auto', 'triton', 'portable', 'reference')
MAX_STATES = 128  # of the Triton kernels
LIMITS = f'float32 and narrower, causal, up to {MAX_STATES} states'


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    reverse: bool = False,
    causal: bool = True,
    chunk_size: int = 32,
    backend: str = 'auto',
) -> Tensor | tuple[Tensor, Tensor]:
    """State space duality, the scan of Mamba-2 (arXiv:2405.21060), differentiable.

        d_t = softplus(dt_t + dt_bias)
        H_t = exp(d_t A) H_{t-1} + d_t x_t B_t^T
        y_t = H_t C_t + D x_t,    out_t = y_t * silu(z_t)

    Non-causal (VSSD, arXiv:2407.18559): every token reads the same H = sum_t -d_t A x_t B_t^T, without decay.

    SSD is the selective scan with one A and one step size per head, and so a matrix product. Argument names and shapes
    are those of mamba_ssm (``mamba_chunk_scan_combined``). Legend: b batch, l steps, h heads, p channels of
    each (headdim), g groups (g divides h; head i reads B and C of group i // (h / g)), n states (d_state). Any strides;
    b and l may be 0. Computed in float32, with the state in float32, under autocast too; float64 in float64.
    Differentiable any number of times and in forward mode too; 'triton' once, in reverse mode.

    Args:
        x: input (b, l, h, p).
        dt: step sizes before bias and softplus (b, l, h).
        A: state decay (h,), negative for a stable scan; not its logarithm.
        B: input weights (b, l, g, n).
        C: output weights, same shape as B.
        D: skip weight (h,) or (h, p).
        z: gate (b, l, h, p).
        dt_bias: (h,), added to dt before softplus.
        dt_softplus: apply softplus to dt + dt_bias.
        return_last_state: also return the state after the last step.
        initial_state: state before the first step (b, h, p, n); zeros if None.
        reverse: scan from step l - 1 to step 0; the last state is then that after step 0.
        causal: False for the non-causal form: its last state is H, which starts from ``initial_state``.
        chunk_size: steps of one masked matrix product; affects the result by rounding only.
        backend: 'auto', 'triton' (on a GPU), 'portable' (plain PyTorch, any device) or 'reference' (step by step).

    Returns:
        out (b, l, h, p) in the dtype of x; with ``return_last_state`` also the state (b, h, p, n), in float32 (float64
        for float64 input), differentiable: pass it as ``initial_state`` of the next chunk of a long sequence.

    Raises:
        UsageError (a ValueError): names the argument, what was expected and what came, before anything is computed.

    >>> x, dt, B = torch.rand(1, 8, 2, 4), torch.rand(1, 8, 2), torch.rand(1, 8, 1, 16)
    >>> ssd(x, dt, -torch.ones(2), B, B).shape
    torch.Size([1, 8, 2, 4])
    """
    if backend not in BACKENDS:
        raise unknown_name('backend', str(backend), BACKENDS)
    check_integers(1, chunk_size=chunk_size)
    check_flags(dt_softplus=dt_softplus, return_last_state=return_last_state, reverse=reverse, causal=causal)
    _check(x, dt, A, B, C, D, z, dt_bias, initial_state)
    fits_triton = causal and x.dtype != torch.float64 and B.shape[-1] <= MAX_STATES
    backend = choose(backend, x.device.type, fits_triton, limits=LIMITS)
    if backend == 'triton' and getattr(torch.autograd.forward_ad, '_current_level', -1) >= 0:
        raise UsageError("ssd: no forward-mode derivative in backend 'triton'; use backend='portable'")
    wide = torch.promote_types(x.dtype, torch.float32)
    with without_autocast(x.device.type):
        x_, B_, C_ = (x, B, C) if backend == 'triton' else (t.to(wide) for t in (x, B, C))
        dt_ = dt.to(wide)
        if reverse:
            x_, dt_, B_, C_ = (t.flip(1) for t in (x_, dt_, B_, C_))
        if dt_bias is not None:
            dt_ = dt_ + dt_bias.to(wide)
        if dt_softplus:
            dt_ = F.softplus(dt_)
        start = None if initial_state is None else initial_state.to(wide)
        if backend == 'reference':
            out, last = ssd_reference(x_, dt_, A.to(wide), B_, C_, start, causal)
        elif backend == 'triton':
            kernel = import_module('.triton_ssd', __package__).ssd_triton
            out, last, _ = kernel(x_, dt_, A.to(wide), B_, C_, start, torch.is_grad_enabled())
        elif not causal:
            out, last = ssd_noncausal(x_, dt_, A.to(wide), B_, C_, start)
        else:
            out, last = ssd_chunked(x_, dt_, A.to(wide), B_, C_, start, min(chunk_size, max(x.shape[1], 1)))
        if D is not None:
            out = out + x_ * (D if D.ndim == 2 else D.unsqueeze(-1)).to(wide)
        out = out.flip(1) if reverse else out
        if z is not None:
            out = out * F.silu(z.to(wide))
    return (out.to(x.dtype), last) if return_last_state else out.to(x.dtype)


def _check(x, dt, A, B, C, D, z, dt_bias, initial_state) -> None:
    check_rank('x', x, '(b, l, h, p)', 4)
    check_rank('B', B, '(b, l, g, n)', 4)
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    if h < 1 or p < 1:
        raise bad_argument('x', 'shape (b, l, h, p) with h >= 1 and p >= 1', f'h = {h} and p = {p}')
    if g < 1 or h % g or n < 1:
        raise bad_argument('B', f'g groups that divide the {h} heads of x, n >= 1', f'g = {g} and n = {n}')
    shapes = {
        'x': (x, (b, l, h, p)),
        'dt': (dt, (b, l, h)),
        'A': (A, (h,)),
        'B': (B, (b, l, g, n)),
        'C': (C, (b, l, g, n)),
        'D': (D, (h, p) if isinstance(D, Tensor) and D.ndim == 2 else (h,)),
        'z': (z, (b, l, h, p)),
        'dt_bias': (dt_bias, (h,)),
        'initial_state': (initial_state, (b, h, p, n)),
    }
    check_tensors(shapes, optional=('D', 'z', 'dt_bias', 'initial_state'))
