"""The causal convolution on the CPU by the compiled library (cpu.cpp): float32 inside, channels-last, any routes."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ..cpu.library import fields, library, pointer, sum_parts, threads, token_rows

MAX_WIDTH = 4
_STEP_COST = 1.5e-9  # seconds for a (batch, channel, step), about: what a thread must be worth


class _Conv(ctypes.Structure):
    _fields_ = [
        *fields('b k d l w silu x_b x_l', ctypes.c_int64),
        *fields('x weight bias rows steps out', ctypes.c_void_p),
    ]


class _Grads(ctypes.Structure):
    _fields_ = [*fields('out_b out_k out_l', ctypes.c_int64), *fields('out x weight bias', ctypes.c_void_p)]


def _describe(x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps: list[int], silu: bool):
    """The C structure, what it points into, and how many threads the work is worth."""
    (b, d, l), (k, _, w) = x.shape, weight.shape
    tokens = token_rows(x)
    keep = [
        tokens,
        weight.float().transpose(1, 2).contiguous(),
        None if bias is None else bias.float().contiguous(),
        None if rows is None else rows.contiguous(),
    ]
    walk = (ctypes.c_int64 * k)(*steps)
    c = _Conv(b, k, d, l, w, silu, *tokens.stride()[:2], *map(pointer, keep), ctypes.addressof(walk))
    return c, [*keep, walk], threads(b * k * d * l * _STEP_COST)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps: list[int], silu: bool) -> Tensor:
    c, keep, count = _describe(x, weight, bias, rows, steps, silu)
    out = torch.empty(c.k, c.b, c.l, c.d)
    c.out = out.data_ptr()
    library().vimamba_conv_forward(ctypes.byref(c), count)
    del keep
    return out.to(x.dtype).permute(1, 0, 3, 2)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, rows, steps: list[int], silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    c, keep, count = _describe(x, weight, bias, rows, steps, silu)
    dout = token_rows(grad)
    dx, dweight = torch.empty(c.b, c.l, c.d), torch.empty(c.b, c.k, c.w, c.d)
    dbias = None if bias is None else torch.empty(c.b, c.k, c.d)
    grads = _Grads(*dout.stride()[:3], *map(pointer, (dout, dx, dweight, dbias)))
    library().vimamba_conv_backward(ctypes.byref(c), ctypes.byref(grads), count)
    del keep
    dweight = sum_parts(dweight, count).transpose(1, 2).to(weight.dtype).contiguous()
    if bias is not None and dbias is not None:
        dbias = sum_parts(dbias, count).to(bias.dtype)
    return dx.transpose(1, 2).to(x.dtype), dweight, dbias
