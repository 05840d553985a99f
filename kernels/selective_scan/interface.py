"""The selective scan as one operator: argument checks, choice of backend, and registration with torch.

`selective_scan` has the interface of mamba_ssm. `route_scan` reads K routes over one copy of the tokens. Both call the
operator ``torch.ops.vimamba.route_scan``, which checks its arguments and which mixers call directly. Eager, autograd,
`torch.compile`, `torch.export` and fx see one node.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vimamba.errors import UsageError, bad_argument, check_flags, unknown_name

from ..backends import choose
from ..checks import check_rank, check_tensors, check_walk
from ..flops import register, scan_flops
from ..operator import define, differentiate, without_autocast
from ..routes import Order, read, unread, walk_along
from . import cpu, portable
from .reference import selective_scan_reference
from .scan import Scan, differentiated, empty_grads, empty_output

BACKENDS = ('auto', 'triton', 'cpu', 'portable', 'reference')
LIMITS = f'float32 and narrower, up to {cpu.MAX_STATES} states on a CPU'
OPTIONAL = ('D', 'z', 'delta_bias', 'initial_state')


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
    Computed in float32, with the state in float32, under autocast too; float64 in float64. Differentiable once, in
    reverse mode. 'reference' is differentiable any number of times, in forward mode and by `torch.func`.

    Args:
        u: input (b, d, l).
        delta: step sizes before bias and softplus (b, d, l).
        A: state decay (d, n), negative for a stable scan; not its logarithm.
        B: input weights (b, n, l) or (b, g, n, l).
        C: output weights, same shape as B.
        D: skip weight (d,).
        z: gate (b, d, l).
        delta_bias: (d,), added to delta before softplus.
        delta_softplus: apply softplus to delta + delta_bias.
        return_last_state: also return the state after the last step.
        initial_state: state before the first step (b, d, n); zeros if None.
        reverse: scan from step l - 1 to step 0; the last state is then that after step 0.
        backend: 'auto', 'triton' (on a GPU), 'cpu' (compiled, where it was built), 'portable' (plain PyTorch, any
            device) or 'reference' (one step at a time).

    Returns:
        out (b, d, l) in the dtype of u; with ``return_last_state`` also the state (b, d, n), in float32 (float64
        for float64 input), differentiable: pass it as ``initial_state`` of the next chunk of a long sequence.

    Raises:
        UsageError (a ValueError): names the argument, what was expected and what came, before anything is computed.

    >>> u, delta = torch.rand(2, 1, 4, 8).unbind(0)
    >>> B, C = torch.rand(2, 1, 3, 8).unbind(0)
    >>> selective_scan(u, delta, -torch.ones(4, 3), B, C).shape
    torch.Size([1, 4, 8])
    """
    B, C = (t.unsqueeze(1) if isinstance(t, Tensor) and t.ndim == 3 else t for t in (B, C))
    check_rank('u', u, '(b, d, l)', 3)
    check_flags(delta_softplus=delta_softplus, return_last_state=return_last_state, reverse=reverse)
    options = (None, [-1 if reverse else 1], delta_softplus)  # of one route
    try:
        delta_, B_, C_, start_ = (_with_axis(t, 1) for t in (delta, B, C, initial_state))
        A_, D_, bias = (_with_axis(t, 0) for t in (A, D, delta_bias))
        out, last_state = _run(Scan(u, delta_, A_, B_, C_, D_, z, bias, start_, *options), backend)
    except UsageError:
        _check(Scan(u, delta, A, B, C, D, z, delta_bias, initial_state, *options), routes=False)  # without the axis k
        raise
    return (out, last_state[:, 0]) if return_last_state else out


def route_scan(
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
    order: Order,
    initial_state: Tensor | None = None,
    each: bool = False,
    backend: str = 'auto',
) -> Tensor | tuple[Tensor, Tensor]:
    """Sum of K selective scans over one copy of the tokens, each along its route of ``order``.

    Arguments and results are in token order, without copies in scan order. The result equals ``order.merge`` of the
    scans of ``order.scan``, gated once (VMamba's SS2D, arXiv:2401.10166, Fig. 3).

    Args:
        u: (b, d, l), read by every route, or (b, k, d, l).
        delta: (b, k, d, l).
        A: (k, d, n).
        B, C: (b, k, n, l) or (b, k, g, n, l).
        D, delta_bias: (k, d).
        z: gate of the sum (b, d, l).
        initial_state: (b, k, d, n).
        order: the routes, a `vimamba.scans.ScanOrder` or any object with an ``index`` (k, l).
        each: return the output of every route, (b, k, d, l), instead of their sum. z then gates each of them.
        delta_softplus, return_last_state, backend: as in `selective_scan`.

    Returns:
        out (b, d, l), or (b, k, d, l) in memory as (k, b, l, d) if ``each``. With ``return_last_state`` also the state
        of each route after its last step (b, k, d, n).

    Raises:
        UsageError (a ValueError): names the argument, what was expected and what came.
    """
    B, C = (t.unsqueeze(2) if isinstance(t, Tensor) and t.ndim == 4 else t for t in (B, C))
    check_rank('u', u, '(b, d, l) or (b, k, d, l)', 3, 4)
    check_flags(delta_softplus=delta_softplus, return_last_state=return_last_state, each=each)
    scan = Scan(u, delta, A, B, C, D, z, delta_bias, initial_state, *walk_along(order, 'u', u), delta_softplus, each)
    out, last_state = _run(scan, backend)
    return (out, last_state) if return_last_state else out


def _run(scan: Scan, backend: str) -> tuple[Tensor, Tensor]:
    if getattr(torch.autograd.forward_ad, '_current_level', -1) >= 0 and backend != 'reference':
        raise UsageError("selective_scan: no forward-mode derivative in this backend; use backend='reference'")
    if backend not in BACKENDS:
        raise unknown_name('backend', str(backend), BACKENDS)
    if backend == 'reference' or not all(isinstance(t, Tensor) or t is None for t in differentiated(scan)):
        _check(scan)
    if backend == 'reference':
        return _reference(scan)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiated(scan))
    return _scan(*scan, save, backend)[:2]  # checks its arguments


def _reference(s: Scan) -> tuple[Tensor, Tensor]:
    """The recurrence, one route after the other: plain differentiable PyTorch."""
    u = s.u if s.u.ndim == 4 else s.u.unsqueeze(1)
    u, delta, B, C = (read(t, s.rows, s.steps) for t in (u, s.delta, s.B, s.C))
    y, last = [], []
    for k in range(len(s.steps)):
        D, bias = (None if t is None else t[k] for t in (s.D, s.delta_bias))
        start = None if s.initial_state is None else s.initial_state[:, k]
        wide = torch.promote_types(s.u.dtype, torch.float32)
        out, state = selective_scan_reference(
            u[:, k].to(wide), delta[:, k], s.A[k], B[:, k], C[:, k], D, None, bias, start, s.softplus
        )
        y.append(out)
        last.append(state)
    out = unread(torch.stack(y, 1), s.rows, s.steps)  # (b, k, d, l)
    out = out if s.each else out.sum(1)
    if s.z is not None:
        gate = F.silu(s.z.to(out.dtype))
        out = out * (gate.unsqueeze(1) if s.each else gate)
    return out.to(s.u.dtype), torch.stack(last, 1)


def _with_axis(t: Any, dim: int) -> Any:
    return t.unsqueeze(dim) if isinstance(t, Tensor) else t


def _check(s: Scan, routes: bool = True) -> None:
    """Checks the arguments. Without ``routes`` they are those of `selective_scan`, which have no axis k."""
    if routes:
        check_rank('u', s.u, '(b, d, l) or (b, k, d, l)', 3, 4)
        check_rank('A', s.A, '(k, d, n)', 3)
        check_rank('B', s.B, '(b, k, n, l) or (b, k, g, n, l)', 5)
    else:
        check_rank('u', s.u, '(b, d, l)', 3)
        check_rank('A', s.A, '(d, n)', 2)
        check_rank('B', s.B, '(b, n, l) or (b, g, n, l)', 4)
    (b, *_, d, l), (*k, _, n), g = s.u.shape, s.A.shape, s.B.shape[-3]
    if d < 1 or n < 1:
        raise bad_argument('A', 'at least one channel d and one state n', f'd = {d} and n = {n}')
    if g < 1 or d % g:
        raise bad_argument('B', f'a number of groups that divides the {d} channels of u', f'{g} groups')
    shapes = {
        'u': (s.u, (b, d, l) if s.u.ndim == 3 else (b, *k, d, l)),
        'delta': (s.delta, (b, *k, d, l)),
        'A': (s.A, (*k, d, n)),
        'B': (s.B, (b, *k, g, n, l)),
        'C': (s.C, (b, *k, g, n, l)),
        'D': (s.D, (*k, d)),
        'z': (s.z, (b, d, l)),
        'delta_bias': (s.delta_bias, (*k, d)),
        'initial_state': (s.initial_state, (b, *k, d, n)),
    }
    check_tensors(shapes, OPTIONAL)
    check_walk(s.rows, s.steps, k[0] if routes else 1, s.u, 'u')


def _module(s: Scan, backend: str) -> ModuleType:
    """Returns the backend module. Logs the choice of 'auto' once per device."""
    device, narrow = s.u.device.type, s.u.dtype != torch.float64
    name = choose(backend, device, narrow, narrow and s.A.shape[-1] <= cpu.MAX_STATES, LIMITS)
    if backend == 'auto':
        _say(device, name)
    return _load(name)


@cache
def _load(name: str) -> ModuleType:
    return {'cpu': cpu, 'portable': portable}.get(name) or import_module('.triton_scan', __package__)


@cache
def _say(device_type: str, name: str) -> None:
    what = f'{name} backend ({_load(name).describe()})'
    logging.getLogger('vimamba').info('selective_scan on %s: %s', device_type, what)


def _forward(*args):
    """Returns out, the last state and, with ``save``, the states and y that the backward pass otherwise recomputes."""
    *arguments, save, backend = args
    scan = Scan._make(arguments)
    _check(scan)
    with without_autocast(scan.u.device.type):
        return _module(scan, backend).forward(scan, save)


def _fake_forward(*args):
    *arguments, save, backend = args
    scan = Scan._make(arguments)
    _check(scan)
    module = _module(scan, backend)
    u, (k, d, n) = scan.u, scan.A.shape
    b, l = u.shape[0], u.shape[-1]
    wide = torch.promote_types(u.dtype, torch.float32)
    saved, y = u.new_empty(0, dtype=wide), u.new_empty(0, dtype=wide)
    if save:
        saved = u.new_empty(b, k, (l + module.CHUNK - 1) // module.CHUNK, n, d, dtype=wide)
        if scan.z is not None and module.KEEPS_Y:
            y = empty_output(scan, wide)
    return empty_output(scan, u.dtype), u.new_empty(b, k, d, n, dtype=wide), saved, y


def _backward(grad_out, grad_last, *args):
    """Gradients of the tensor arguments that are not None, in order."""
    *tensors, saved, y, steps, softplus, each, backend = args
    scan = Scan._make((*tensors, steps, softplus, each))
    module = _module(scan, backend)
    with without_autocast(grad_out.device.type):
        if saved.ndim == 1:  # nothing was saved
            _, _, saved, y = module.forward(scan, True)
        grads = module.backward(grad_out, grad_last, scan, saved, y)
    return [grad for grad in grads if grad is not None]


def _fake_backward(grad_out, grad_last, *args):
    *tensors, _, _, steps, softplus, each, backend = args
    scan = Scan._make((*tensors, steps, softplus, each))
    return empty_grads(scan, _module(scan, backend).MEMORY)


def _setup(ctx, inputs, output):
    *tensors, ctx.steps, ctx.softplus, ctx.each, _, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx, grad_out, grad_last, *_):
    *tensors, saved, y = ctx.saved_tensors
    options = (ctx.steps, ctx.softplus, ctx.each)
    if grad_out is None:
        grad_out = empty_output(Scan._make((*tensors, *options)), tensors[0].dtype).zero_()
    grads = iter(_scan_backward(grad_out, grad_last, *tensors, saved, y, *options, ctx.backend))
    return (*(None if t is None else next(grads) for t in tensors[:-1]), *(None,) * 6)


_TENSORS = (
    'Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, '
    'Tensor? initial_state, Tensor? rows'
)
_OPTIONS = 'SymInt[] steps, bool delta_softplus, bool each'
_FORWARD = f'({_TENSORS}, {_OPTIONS}, bool save, str backend) -> (Tensor, Tensor, Tensor, Tensor)'
_BACKWARD = f'(Tensor grad_out, Tensor? grad_last_state, {_TENSORS}, Tensor saved, Tensor y, {_OPTIONS}, str backend)'
_scan = define('route_scan', _FORWARD, _forward, _fake_forward)
_scan_backward = define('route_scan_backward', f'{_BACKWARD} -> Tensor[]', _backward, _fake_backward)
differentiate(_scan, _setup, _differentiate)
register('route_scan', scan_flops, gradients=2)
