"""The causal convolution as one operator: argument checks, choice of backend, and registration with torch."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from vimamba.errors import bad_argument, check_flags

from ..backends import choose
from ..checks import check_rank, check_tensors, check_walk
from ..flops import conv_flops, register
from ..operator import define, differentiate, without_autocast
from ..routes import Order, swap, walk_along
from . import cpu, portable

MAX_TRITON_WIDTH = 8  # taps, each in registers


def route_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, order: Order, silu: bool = True) -> Tensor:
    """Depthwise causal convolution of the tokens along each route, then SiLU, in token order.

        out_k[i_t] = silu(bias_k + sum_j weight_k[j] x[i_{t - w + 1 + j}]),   i_0, i_1, ... the rows of route k

    Mamba's conv1d (arXiv:2312.00752, Fig. 3) along K routes. Computed in float32, or float64 for float64 input.

    Args:
        x: (b, d, l), any strides; channels-last memory is the fast layout.
        weight: (k, d, w), w taps for each route and channel; the last multiplies the token itself.
        bias: (k, d).
        order: the routes, a `vimamba.scans.ScanOrder` or any object with an ``index`` (k, l).
        silu: apply SiLU.

    Returns:
        (b, k, d, l) in the dtype of x, as (k, b, l, d) in memory.

    Raises:
        UsageError (a ValueError): names the argument, what was expected and what came.
    """
    check_rank('x', x, '(b, d, l)', 3)
    check_rank('weight', weight, '(k, d, w)', 3)
    if bias is not None:
        check_rank('bias', bias, '(k, d)', 2)
    check_flags(silu=silu)
    return torch.ops.vimamba.route_conv1d(x, weight, bias, *walk_along(order, 'x', x), silu)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, steps: list[int], silu: bool) -> None:
    check_rank('x', x, '(b, d, l)', 3)
    check_rank('weight', weight, '(k, d, w)', 3)
    k, d, w = len(steps), x.shape[1], weight.shape[2]
    if w < 1:
        raise bad_argument('weight', f'shape ({k}, {d}, w) with w >= 1', 'w = 0')
    shapes = {'x': (x, x.shape), 'weight': (weight, (k, d, w)), 'bias': (bias, (k, d))}
    check_tensors(shapes, optional=('bias',))
    check_walk(rows, steps, k, x, 'x')


def _module(x: Tensor, weight: Tensor) -> ModuleType:
    narrow, taps = x.dtype != torch.float64, weight.shape[2]
    name = choose('auto', x.device.type, narrow and taps <= MAX_TRITON_WIDTH, narrow and taps <= cpu.MAX_WIDTH)
    return {'cpu': cpu, 'portable': portable}.get(name) or import_module('.triton_conv', __package__)


def _forward(x, weight, *others):
    _check(x, weight, *others)
    with without_autocast(x.device.type):
        return _module(x, weight).forward(x, weight, *others)


def _fake_forward(x, weight, bias, rows, steps, silu):
    _check(x, weight, bias, rows, steps, silu)
    b, d, l = x.shape
    return swap(x.new_empty(len(steps), b, l, d))


def _backward(grad, x, weight, *others):
    """Gradients of the tensor arguments that are not None, in order."""
    with without_autocast(x.device.type):
        grads = _module(x, weight).backward(grad, x, weight, *others)
    return [grad for grad in grads if grad is not None]


def _fake_backward(grad, x, weight, bias, *_):
    grads = [x.new_empty(x.mT.shape).mT, weight.new_empty(weight.shape)]
    return grads if bias is None else [*grads, bias.new_empty(bias.shape)]


def _setup(ctx, inputs, output):
    *tensors, ctx.steps, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    grads = _conv_backward(grad, *ctx.saved_tensors, ctx.steps, ctx.silu)
    return (*grads, *(None,) * (6 - len(grads)))


_ARGUMENTS = 'Tensor x, Tensor weight, Tensor? bias, Tensor? rows, SymInt[] steps, bool silu'
_conv = define('route_conv1d', f'({_ARGUMENTS}) -> Tensor', _forward, _fake_forward)
_conv_backward = define('route_conv1d_backward', f'(Tensor grad, {_ARGUMENTS}) -> Tensor[]', _backward, _fake_backward)
differentiate(_conv, _setup, _differentiate)
register('route_conv1d', conv_flops, gradients=1)
