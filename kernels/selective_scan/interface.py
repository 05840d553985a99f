"""The selective scan as one operator: argument checks, choice of backend, and its registration with torch.

`selective_scan` is what ported code calls; modules that are scripted or traced call the operator behind it,
``torch.ops.vimamba.selective_scan``, which checks its arguments likewise. Eager, autograd, `torch.compile`,
`torch.export`, fx and TorchScript all see one node.
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from vimamba.errors import UsageError, bad_argument, unknown_name

from . import portable
from .reference import selective_scan_reference

BACKENDS = ('auto', 'portable', 'reference')
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    reverse: bool = False,
    backend: str = 'auto',
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective scan of Mamba (arXiv:2312.00752, Eq. 2 with the discretisation of its Sec. 2), differentiable.

        d_t = softplus(delta_t + delta_bias)
        h_t = exp(d_t A) * h_{t-1} + d_t B_t u_t
        y_t = C_t . h_t + D u_t,    out_t = y_t * silu(z_t)

    Argument names, order and shapes are mamba_ssm's. Legend: b batch, d channels, l steps, n states a channel
    (d_state), g groups (g divides d; channel c reads B and C of group c // (d / g)). Any strides; channels-last
    memory, i.e. (b, l, d) transposed, is the fast layout and that of the output. b and l may be 0.
    float16, bfloat16 and float32 are computed in float32, with the state in float32, under autocast too; float64 in
    float64. Differentiable once, in reverse mode; 'reference' any number of times and in forward mode too.

    Args:
        u: input (b, d, l).
        delta: step sizes before bias and softplus (b, d, l).
        A: state decay (d, n), negative for a stable scan; as is, not its logarithm.
        B: input weights (b, n, l) or (b, g, n, l).
        C: output weights, same shape as B.
        D: skip weight (d,).
        z: gate (b, d, l).
        delta_bias: (d,), added to delta before softplus.
        delta_softplus: apply softplus to delta + delta_bias.
        return_last_state: also return the state after the last step.
        initial_state: state before the first step (b, d, n); zeros if None.
        reverse: walk from step l - 1 to step 0; the last state is then that after step 0.
        backend: 'auto', 'portable' (plain PyTorch, any device) or 'reference' (one step at a time).

    Returns:
        out (b, d, l) in the dtype of u; with ``return_last_state`` also the state (b, d, n), in float32 (float64
        for float64 input), differentiable: give it to the next chunk of a long sequence as ``initial_state``.

    Raises:
        UsageError (a ValueError): names the argument, what was expected and what came, before anything is computed.

    >>> u, delta = torch.rand(2, 1, 4, 8).unbind(0)
    >>> B, C = torch.rand(2, 1, 3, 8).unbind(0)
    >>> selective_scan(u, delta, -torch.ones(4, 3), B, C).shape
    torch.Size([1, 4, 8])
    """
    if isinstance(B, Tensor) and B.ndim == 3:
        B = B.unsqueeze(1)
    if isinstance(C, Tensor) and C.ndim == 3:
        C = C.unsqueeze(1)
    required = {'u': u, 'delta': delta, 'A': A, 'B': B, 'C': C}
    for name, t in required.items():
        if not isinstance(t, Tensor):
            raise bad_argument(name, 'a tensor', type(t).__name__)
    optional = {'D': D, 'z': z, 'delta_bias': delta_bias, 'initial_state': initial_state}
    for name, value in optional.items():
        if not (value is None or isinstance(value, Tensor)):
            raise bad_argument(name, 'a tensor or None', type(value).__name__)
    if backend not in BACKENDS:
        raise unknown_name('backend', str(backend), BACKENDS)
    if getattr(torch.autograd.forward_ad, '_current_level', -1) >= 0 and backend != 'reference':
        raise UsageError("selective_scan: no forward-mode derivative in this backend; use backend='reference'")
    args = (u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse)
    if backend == 'reference':
        _check(*args[:9])
        out, last_state = selective_scan_reference(*args)
    else:
        out, last_state = torch.ops.vimamba.selective_scan(*args, backend)
    return (out, last_state) if return_last_state else out


def _check(u, delta, A, B, C, D, z, delta_bias, initial_state) -> None:
    if u.ndim != 3:
        raise bad_argument('u', 'shape (b, d, l)', f'shape {tuple(u.shape)}')
    if A.ndim != 2:
        raise bad_argument('A', 'shape (d, n)', f'shape {tuple(A.shape)}')
    if B.ndim != 4:
        raise bad_argument('B', 'shape (b, n, l) or (b, g, n, l)', f'shape {tuple(B.shape)}')
    (b, d, l), n, g = u.shape, A.shape[1], B.shape[1]
    if d < 1 or n < 1:
        raise bad_argument('A', 'shape (d, n) with d >= 1 and n >= 1', f'shape {tuple(A.shape)}')
    if g < 1 or d % g:
        raise bad_argument('B', f'a number of groups that divides the {d} channels of u', f'{g} groups')
    shapes = {
        'delta': (delta, (b, d, l)),
        'A': (A, (d, n)),
        'B': (B, (b, g, n, l)),
        'C': (C, (b, g, n, l)),
        'D': (D, (d,)),
        'z': (z, (b, d, l)),
        'delta_bias': (delta_bias, (d,)),
        'initial_state': (initial_state, (b, d, n)),
    }
    if u.dtype not in _FLOATS:
        raise bad_argument('u', 'a floating-point dtype', u.dtype)
    for name, (t, shape) in shapes.items():
        if t is None:
            continue
        if tuple(t.shape) != shape:
            raise bad_argument(name, f'shape {shape}', f'shape {tuple(t.shape)}')
        if t.dtype not in _FLOATS:
            raise bad_argument(name, 'a floating-point dtype', t.dtype, 'complex A (S4D) is not supported here')
        if t.device != u.device:
            raise bad_argument(name, f'device {u.device} (that of u)', f'device {t.device}')


@cache
def _backend(name: str, device_type: str) -> ModuleType:
    """The module that computes; what 'auto' chose is said once for each device."""
    if name not in ('auto', 'portable'):
        raise unknown_name('backend', name, BACKENDS)
    if name == 'auto':
        logging.getLogger('vimamba').info('selective_scan on %s: portable backend (plain PyTorch)', device_type)
    return portable


@torch.library.custom_op('vimamba::selective_scan', mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    with torch.autocast(u.device.type, enabled=False):  # the dtype of the arguments decides, not the caller's mode
        return _backend(backend, u.device.type).forward(
            u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse
        )


@_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse, backend):
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    _backend(backend, u.device.type)
    b, d, l = u.shape
    last_state = u.new_empty(b, d, A.shape[1], dtype=torch.promote_types(u.dtype, torch.float32))
    return u.new_empty(b, l, d).transpose(1, 2), last_state


@torch.library.custom_op('vimamba::selective_scan_backward', mutates_args=())
def _scan_backward(
    grad_out: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    backend: str,
) -> list[Tensor]:
    """Gradients of the arguments that are given, in their order."""
    with torch.autocast(u.device.type, enabled=False):
        grads = _backend(backend, u.device.type).backward(
            grad_out, grad_last_state, u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse
        )
    return [grad for grad in grads if grad is not None]


@_scan_backward.register_fake
def _(grad_out, grad_last_state, u, delta, A, B, C, D, z, delta_bias, initial_state, *options):
    def like(t):
        return t.new_empty(t.shape)

    def channels_last(t):
        return t.new_empty(t.shape[0], t.shape[2], t.shape[1]).transpose(1, 2)

    grads = [channels_last(u), channels_last(delta), like(A), like(B), like(C)]
    if D is not None:
        grads.append(like(D))
    if z is not None:
        grads.append(channels_last(z))
    return grads + [like(t) for t in (delta_bias, initial_state) if t is not None]


def _setup_context(ctx, inputs, output):
    *tensors, ctx.delta_softplus, ctx.reverse, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_out, grad_last_state):
    tensors = ctx.saved_tensors
    grads = iter(
        torch.ops.vimamba.selective_scan_backward(
            grad_out, grad_last_state, *tensors, ctx.delta_softplus, ctx.reverse, ctx.backend
        )
    )
    return (*(None if t is None else next(grads) for t in tensors), None, None, None)


_scan.register_autograd(_backward, setup_context=_setup_context)
