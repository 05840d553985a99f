"""The causal convolution as one operator: argument checks, choice of backend, and registration with torch."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from vimamba.errors import bad_argument, check_flags

from ..cpu.library import is_built
from ..flops import conv_flops, register
from ..gpu import triton_runs, triton_wanted
from ..operator import define, differentiate, without_autocast
from ..routes import Order, walk_along
from . import cpu, portable

MAX_TRITON_WIDTH = 8  # taps, each in registers
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
    for name, t in (('x', x), ('weight', weight), *([] if bias is None else [('bias', bias)])):
        if not isinstance(t, Tensor):
            raise bad_argument(name, 'a tensor', type(t).__name__)
    _check_tokens(x)
    check_flags(silu=silu)
    return torch.ops.vimamba.route_conv1d(x, weight, bias, *walk_along(order, 'x', x), silu)


def _check_tokens(x: Tensor) -> None:
    if x.ndim != 3 or x.dtype not in _FLOATS:
        raise bad_argument('x', 'shape (b, d, l), floating-point', f'shape {tuple(x.shape)}, {x.dtype}')


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, steps: list[int]) -> None:
    _check_tokens(x)
    k, d = len(steps), x.shape[1]
    if k < 1:
        raise bad_argument('steps', 'one for each route, of one or more', '0')
    if weight.ndim != 3 or weight.shape[:2] != (k, d) or weight.shape[2] < 1:
        raise bad_argument('weight', f'shape ({k}, {d}, w)', f'shape {tuple(weight.shape)}')
    if bias is not None and bias.shape != (k, d):
        raise bad_argument('bias', f'shape ({k}, {d})', f'shape {tuple(bias.shape)}')
    for name, t in (('weight', weight), ('bias', bias)):
        if t is not None and t.dtype not in _FLOATS:
            raise bad_argument(name, 'a floating-point dtype', t.dtype)
        if t is not None and t.device != x.device:
            raise bad_argument(name, f'device {x.device} (that of x)', f'device {t.device}')
    if rows is not None and (rows.shape != (k, x.shape[2]) or rows.dtype != torch.int32):
        raise bad_argument('rows', f'({k}, {x.shape[2]}) int32', f'{tuple(rows.shape)} {rows.dtype}')
    if rows is not None and rows.device != x.device and not x.is_meta:  # the table of a meta model has values
        raise bad_argument('rows', f'device {x.device} (that of x)', f'device {rows.device}')


def _module(x: Tensor, weight: Tensor) -> ModuleType:
    taps = weight.shape[2]
    if x.dtype == torch.float64:
        return portable
    if triton_wanted() and triton_runs(x.device.type) and taps <= MAX_TRITON_WIDTH:
        return import_module('.triton_conv', __package__)
    return cpu if x.device.type == 'cpu' and taps <= cpu.MAX_WIDTH and is_built() else portable


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, steps: list[int], silu: bool
) -> Tensor:
    _check(x, weight, bias, rows, steps)
    with without_autocast(x.device.type):
        return _module(x, weight).forward(x, weight, bias, rows, steps, silu)


def _fake_forward(x, weight, bias, rows, steps, silu):
    _check(x, weight, bias, rows, steps)
    b, d, l = x.shape
    return x.new_empty(len(steps), b, l, d).permute(1, 0, 3, 2)


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    steps: list[int],
    silu: bool,
) -> list[Tensor]:
    """Gradients of the tensor arguments that are not None, in order."""
    with without_autocast(x.device.type):
        grads = _module(x, weight).backward(grad, x, weight, bias, rows, steps, silu)
    return [grad for grad in grads if grad is not None]


def _fake_backward(grad, x, weight, bias, rows, steps, silu):
    b, d, l = x.shape
    grads = [x.new_empty(b, l, d).transpose(1, 2), weight.new_empty(weight.shape)]
    return grads if bias is None else [*grads, bias.new_empty(bias.shape)]


def _setup(ctx, inputs, output):
    *tensors, ctx.steps, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    grads = _conv_backward(grad, *ctx.saved_tensors, ctx.steps, ctx.silu)
    return (*grads, *(None,) * (6 - len(grads)))


_conv = define('route_conv1d', _forward, _fake_forward)
_conv_backward = define('route_conv1d_backward', _backward, _fake_backward)
differentiate(_conv, _setup, _differentiate)
register('route_conv1d', conv_flops, gradients=1)
