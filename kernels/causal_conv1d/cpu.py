"""The causal convolution on the CPU by the compiled library (cpu.cpp): float32, channels-last, any routes."""

from __future__ import annotations

from array import array

from torch import Tensor

from ..cpu.library import flat, library, pack, pointer, sum_parts, threads, token_rows
from ..routes import swap

MAX_WIDTH = 4
_STEP_COST = 1.5e-9  # approximate seconds for a (batch, channel, step); sets the number of threads


def _describe(x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps: list[int], silu: bool):
    """The C structure without its result, the objects that it points into, and the number of threads."""
    (b, d, l), (k, _, w) = x.shape, weight.shape
    tokens = token_rows(x)
    keep = [tokens, flat(weight.transpose(1, 2)), flat(bias), None if rows is None else rows.contiguous()]
    walk = array('q', steps)
    x_b, _, x_l = tokens.stride()
    values = [b, k, d, l, w, silu, x_b, x_l, *map(pointer, keep), walk.buffer_info()[0]]
    return values, [*keep, walk], threads(b * k * d * l * _STEP_COST)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps: list[int], silu: bool) -> Tensor:
    values, keep, count = _describe(x, weight, bias, rows, steps, silu)
    b, k, d, l = values[:4]
    out = keep[0].new_empty(k, b, l, d)  # float32 on the CPU, independent of torch's defaults
    library().vimamba_conv_forward(pack([*values, out.data_ptr()]), count)
    del keep
    return swap(out.to(x.dtype))


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps: list[int], silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    values, keep, count = _describe(x, weight, bias, rows, steps, silu)
    b, k, d, l, w = values[:5]
    dout = token_rows(grad)
    new = keep[0].new_empty
    dx, dweight = new(b, l, d), new(b, k, w, d)
    dbias = None if bias is None else new(b, k, d)
    out_b, out_k, _, out_l = dout.stride()
    grads = pack([out_b, out_k, out_l, *map(pointer, (dout, dx, dweight, dbias))])
    library().vimamba_conv_backward(pack([*values, 0]), grads, count)
    del keep
    dweight = sum_parts(dweight, count).transpose(1, 2).to(weight.dtype).contiguous()
    if bias is not None and dbias is not None:
        dbias = sum_parts(dbias, count).to(bias.dtype)
    return swap(dx).to(x.dtype), dweight, dbias
