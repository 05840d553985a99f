"""The gated delta rule: argument checks and choice of backend."""

from __future__ import annotations

import torch
from torch import Tensor

from vimamba.errors import bad_argument, check_flags, check_integers, unknown_name

from ..checks import check_rank, check_tensors
from ..operator import without_autocast
from .portable import gated_delta_chunked
from .reference import gated_delta_reference

__all__ = ['BACKENDS', 'gated_delta']

BACKENDS = ('auto', 'portable', 'reference')


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    chunk_size: int = 32,
    backend: str = 'auto',
) -> Tensor | tuple[Tensor, Tensor]:
    """Gated delta rule, the recurrence of Gated DeltaNet (arXiv:2412.06464, Eq. 10), differentiable.

        S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
        out_t = scale S_t^T q_t

    Argument names and shapes are those of flash-linear-attention (``chunk_gated_delta_rule``). Legend: b batch,
    l steps, h heads, n channels of a key, p channels of a value. Any strides; b and l may be 0. Neither q nor k is
    normalised: the recurrence is stable for keys of unit length, so normalise k first. Computed in float32, with the
    state in float32, under autocast too; float64 in float64. Differentiable any number of times and in forward mode.

    Args:
        q: queries (b, l, h, n).
        k: keys (b, l, h, n).
        v: values (b, l, h, p).
        g: logarithm of the decay (b, l, h), at most 0.
        beta: step size (b, l, h), in (0, 1].
        scale: factor of the output; n ** -0.5 if None.
        initial_state: state before the first step (b, h, n, p); zeros if None.
        return_last_state: also return the state after the last step.
        chunk_size: steps computed together, rounded up to a power of two; affects the result by rounding only.
        backend: 'auto', 'portable' (plain PyTorch, any device) or 'reference' (step by step). 'auto' is 'portable'.

    Returns:
        out (b, l, h, p) in the dtype of v. With ``return_last_state`` also the state (b, h, n, p), in float32 (float64
        for float64 input), differentiable: pass it as ``initial_state`` of the next chunk of a long sequence.

    Raises:
        UsageError (a ValueError): names the argument, what was expected and what came, before anything is computed.

    >>> q, k, v = torch.rand(3, 1, 8, 2, 4).unbind(0)
    >>> g, beta = -torch.rand(1, 8, 2), torch.rand(1, 8, 2)
    >>> gated_delta(q, torch.nn.functional.normalize(k, dim=-1), v, g, beta).shape
    torch.Size([1, 8, 2, 4])
    """
    if backend not in BACKENDS:
        raise unknown_name('backend', str(backend), BACKENDS)
    check_integers(1, chunk_size=chunk_size)
    check_flags(return_last_state=return_last_state)
    if scale is not None and (not isinstance(scale, (int, float)) or isinstance(scale, bool)):
        raise bad_argument('scale', 'a number or None', repr(scale))
    _check(q, k, v, g, beta, initial_state)
    wide = torch.promote_types(v.dtype, torch.float32)
    with without_autocast(v.device.type):
        q_, k_, v_, g_, beta_ = (t.to(wide) for t in (q, k, v, g, beta))
        start = None if initial_state is None else initial_state.to(wide)
        scale = k.shape[-1] ** -0.5 if scale is None else scale
        if backend == 'reference':
            out, last = gated_delta_reference(q_, k_, v_, g_, beta_, scale, start)
        else:
            steps = min(chunk_size, max(v.shape[1], 1))
            out, last = gated_delta_chunked(q_, k_, v_, g_, beta_, scale, start, 1 << (steps - 1).bit_length())
    return (out.to(v.dtype), last) if return_last_state else out.to(v.dtype)


def _check(q, k, v, g, beta, initial_state) -> None:
    for name, t, axes in (('k', k, '(b, l, h, n)'), ('v', v, '(b, l, h, p)')):
        check_rank(name, t, axes, 4)
        if 0 in t.shape[2:]:
            raise bad_argument(name, f'shape {axes} with no axis of {axes[-5:-1]} empty', f'shape {tuple(t.shape)}')
    (b, l, h, n), p = k.shape, v.shape[-1]
    shapes = {
        'k': (k, (b, l, h, n)),
        'v': (v, (b, l, h, p)),
        'q': (q, (b, l, h, n)),
        'g': (g, (b, l, h)),
        'beta': (beta, (b, l, h)),
        'initial_state': (initial_state, (b, h, n, p)),
    }
    check_tensors(shapes, optional=('initial_state',))
