"""The causal convolution and its SiLU on the GPU: a warp walks a chunk of a route with the last w tokens in registers.

A route reads every token once, and w - 1 tokens before each chunk again, and writes every result once, in token order.
The backward pass recomputes what the slope of SiLU needs. It sums the gradients of the taps per chunk, and these sums
in a fixed order, without atomics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vimamba.kernels.routes import route_rows
from vimamba.kernels.selective_scan.triton_common import (
    LN2,
    LOG2E,
    OPTIONS,
    WARPS,
    falling,
    sigmoid,
    token_at,
    walks_of,
)

__all__ = ['backward', 'forward']

PLAIN_INTS = ['batch', 'routes', 'length', 'back', 'columns', 'width', 'inverse']
BITS = 31  # routes with a bit in an int32; more are read by a table
UNROLL = 8  # steps whose tokens are loaded before the first is used
LAYOUTS = ((128, 64), (64, 64), (64, 32), (32, 16))  # channels and steps of a program, for fewer and fewer tokens


@triton.jit
def place(batch, routes, channels: tl.constexpr, BLOCK: tl.constexpr):
    """Channels, route, batch item and chunk of a program; neighbours read the same tokens."""
    BLOCKS: tl.constexpr = (channels + BLOCK - 1) // BLOCK
    pid = tl.program_id(0).to(tl.int64)
    c = (pid % BLOCKS).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    pid = pid // BLOCKS
    k = (pid % routes).to(tl.int32)
    pid = pid // routes
    return c, k, pid % batch, (pid // batch).to(tl.int32)


@triton.jit
def tokens_from(start, rows, k, length, back, columns, width, inverse, ORDER: tl.constexpr, N: tl.constexpr):
    """N tokens of a route from a position, by a table or a formula; arbitrary outside of the route.

    ``back`` and ``columns`` have a bit for each route that walks backwards, and down the columns of a grid.
    """
    tokens = ()
    for t in tl.static_range(N):
        position = start + t
        if ORDER == 'table':
            token = tl.load(rows + k * length + tl.minimum(tl.maximum(position, 0), length - 1))
        else:
            token = tl.where(((back >> k) & 1) != 0, length - 1 - position, position)
            if ORDER == 'columns':
                down = ((columns >> k) & 1) != 0
                token = token_at(token, rows, tl.where(down, width, 1), tl.where(down, inverse, 0), length, ORDER)
        tokens += (token.to(tl.int64),)
    return tokens


@triton.jit
def load_taps(weight, bias, k, c, live, unit: tl.constexpr, channels: tl.constexpr, W: tl.constexpr):
    """Taps and bias times ``unit``: log2(e) before SiLU, so that its exponent in base 2 is the value itself."""
    taps = ()
    for j in tl.static_range(W):
        taps += (tl.load(weight + (k * channels + c) * W + j, mask=live, other=0.0).to(tl.float32) * unit,)
    shift = tl.zeros(c.shape, tl.float32)
    if bias is not None:
        shift = tl.load(bias + k * channels + c, mask=live, other=0.0).to(tl.float32) * unit
    return taps, shift


@triton.jit
def silu(value):
    """SiLU of a value in that unit: ln(2) times the value, times the square of an inverse root, as in `sigmoid`."""
    root = tl.rsqrt(tl.exp2(-value) * LOG2E + LOG2E)
    return value * (root * root)


@triton.jit
def load_tokens(ptr, tokens, start, live, length, stride, N: tl.constexpr):
    """Loads N rows of a route from a position, zero before its start and after its end."""
    values = ()
    for t in tl.static_range(N):
        own = live & (start + t >= 0) & (start + t < length)
        values += (tl.load(ptr + tokens[t] * stride, mask=own, other=0.0).to(tl.float32),)
    return values


@triton.jit
def convolve(window, taps, shift, first: tl.constexpr, W: tl.constexpr):
    value = shift
    for j in tl.static_range(W):
        value += taps[j] * window[first + j]
    return value


@triton.jit(do_not_specialize=PLAIN_INTS)
def forward_kernel(
    x, weight, bias, out, rows, batch, routes, length, back, columns, width, inverse, sx_b, sx_d,
    sx_l: tl.constexpr, channels: tl.constexpr, W: tl.constexpr, SILU: tl.constexpr, ORDER: tl.constexpr,
    BLOCK: tl.constexpr, STEPS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    c, k, b, j = place(batch, routes, channels, BLOCK)
    live = c < channels
    UNIT: tl.constexpr = LOG2E if SILU else 1.0
    taps, shift = load_taps(weight, bias, k, c, live, UNIT, channels, W)
    x += b * sx_b + c.to(tl.int64) * sx_d
    out += (k * batch.to(tl.int64) + b) * length * channels + c
    first = j * STEPS
    before = tokens_from(first - (W - 1), rows, k, length, back, columns, width, inverse, ORDER, W - 1)
    past = load_tokens(x, before, first - (W - 1), live, length, sx_l, W - 1)
    for i in range(0, tl.minimum(STEPS, length - first), UNROLL):
        tokens = tokens_from(first + i, rows, k, length, back, columns, width, inverse, ORDER, UNROLL)
        window = past + load_tokens(x, tokens, first + i, live, length, sx_l, UNROLL)
        for t in tl.static_range(UNROLL):
            value = convolve(window, taps, shift, t, W)
            if SILU:
                value = silu(value)
            keep = live & (first + i + t < length)
            tl.store(out + tokens[t] * channels, value.to(out.dtype.element_ty), mask=keep)
        past = window[UNROLL:]


@triton.jit
def zeros(N: tl.constexpr, BLOCK: tl.constexpr):
    values = ()
    for _ in tl.static_range(N):
        values += (tl.zeros([BLOCK], tl.float32),)
    return values


@triton.jit
def add(totals, slope, window, first: tl.constexpr, W: tl.constexpr):
    grown = ()
    for n in tl.static_range(W):
        grown += (totals[n] + slope * window[first + n],)
    return grown + (totals[W] + slope,)


@triton.jit
def spread(parts, slope, taps, W: tl.constexpr):
    grown = ()
    for n in tl.static_range(W - 1):
        grown += (parts[n] + taps[n] * slope,)
    return grown + (taps[W - 1] * slope,)


@triton.jit(do_not_specialize=PLAIN_INTS)
def backward_kernel(
    grad, x, weight, bias, dx, sums, rows, batch, routes, length, back, columns, width, inverse,
    sg_b, sg_k, sg_d, sx_b, sx_d,
    sg_l: tl.constexpr, sx_l: tl.constexpr, channels: tl.constexpr, W: tl.constexpr, SILU: tl.constexpr,
    ORDER: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The gradient of a token is complete w - 1 steps later, so a chunk walks that far into the next one."""
    OWN: tl.constexpr = STEPS - (W - 1)
    c, k, b, j = place(batch, routes, channels, BLOCK)
    live = c < channels
    UNIT: tl.constexpr = LOG2E if SILU else 1.0
    taps, shift = load_taps(weight, bias, k, c, live, UNIT, channels, W)
    x += b * sx_b + c.to(tl.int64) * sx_d
    grad += b * sg_b + k.to(tl.int64) * sg_k + c.to(tl.int64) * sg_d
    dx += (k * batch.to(tl.int64) + b) * length * channels + c
    first = j * OWN
    before = tokens_from(first - (W - 1), rows, k, length, back, columns, width, inverse, ORDER, W - 1)
    past = load_tokens(x, before, first - (W - 1), live, length, sx_l, W - 1)
    totals = zeros(W + 1, BLOCK)  # gradients of the taps and of the bias
    parts = zeros(W - 1, BLOCK)  # gradients of the last tokens, not yet complete
    for i in range(0, tl.minimum(STEPS, length - first + W - 1), UNROLL):
        tokens = tokens_from(first + i, rows, k, length, back, columns, width, inverse, ORDER, UNROLL)
        window = past + load_tokens(x, tokens, first + i, live, length, sx_l, UNROLL)
        slopes = load_tokens(grad, tokens, first + i, live, length, sg_l, UNROLL)
        walked = before + tokens
        for t in tl.static_range(UNROLL):
            slope = slopes[t]
            if SILU:
                value = convolve(window, taps, shift, t, W)
                gate = sigmoid(value)
                slope *= gate * (value * (gate * (-LN2 * LN2) + LN2 * LN2) + LN2)  # per unit of the taps
            totals = add(totals, tl.where(i + t < OWN, slope, 0.0), window, t, W)
            parts = spread(parts, slope, taps, W)
            keep = live & (i + t >= W - 1) & (first + i + t - (W - 1) < length)
            tl.store(dx + walked[t] * channels, parts[0].to(dx.dtype.element_ty), mask=keep)
            parts = parts[1:]
        past = window[UNROLL:]
        before = walked[UNROLL:]
    sums += (j * batch.to(tl.int64) + b) * (W + 1) * routes * channels + k * channels + c
    for n in tl.static_range(W + 1):
        tl.store(sums + n * routes * channels, totals[n] * UNIT, mask=live)


class Layout(NamedTuple):
    """Launch arguments of both kernels, from the sizes alone: a result does not depend on earlier calls."""

    programs: int
    chunks: int
    walk: tuple[Any, ...]  # the arguments from rows to inverse
    constants: dict[str, Any]


def arrange(x: Tensor, weight: Tensor, rows: Tensor | None, steps: list[int], silu: bool, shared: int) -> Layout:
    """The layout, where ``shared`` steps of a chunk also belong to the next one."""
    (b, d, l), (k, _, w) = x.shape, weight.shape
    programs = {
        (block, walk): b * k * triton.cdiv(d, block) * triton.cdiv(l, walk - shared)
        for block, walk in LAYOUTS
        if d % block == 0 or (block, walk) == LAYOUTS[-1]
    }
    block, walk = next((own for own, count in programs.items() if count >= WARPS), LAYOUTS[-1])
    walks = [] if rows is not None or k > BITS else walks_of(steps, None, l, x.device)
    grids = {(own.width, own.inverse) for own in walks if own.order == 'columns'}
    looked_up = not walks or len(grids) > 1 or any(own.order == 'table' for own in walks)
    order = 'table' if looked_up else 'columns' if grids else 'rows'
    if order == 'table' and rows is None:
        rows = torch.stack([route_rows(step, l, x.device) for step in steps])
    columns = sum((own.order == 'columns') << i for i, own in enumerate(walks))
    width, inverse = grids.pop() if order == 'columns' else (1, 0)
    table = rows.int().contiguous() if order == 'table' else None
    return Layout(
        programs[block, walk],
        triton.cdiv(l, walk - shared),
        (table, b, k, l, falling(walks), columns, width, inverse),
        {'channels': d, 'W': w, 'SILU': silu, 'ORDER': order, 'BLOCK': block, 'STEPS': walk, 'UNROLL': UNROLL,
         'num_warps': 1, **OPTIONS},
    )  # fmt: skip


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, steps: list[int], silu: bool
) -> Tensor:
    """x (b, d, l), weight (k, d, w), bias (k, d) -> (b, k, d, l), as (k, b, l, d) in memory."""
    how = arrange(x, weight, rows, steps, silu, 0)
    out = x.new_empty(len(steps), x.shape[0], x.shape[2], x.shape[1])
    if out.numel():
        with torch.cuda.device_of(x):
            forward_kernel[(how.programs,)](
                x, weight.contiguous(), None if bias is None else bias.contiguous(), out, *how.walk,
                x.stride(0), x.stride(1), x.stride(2), **how.constants,
            )  # fmt: skip
    return out.permute(1, 0, 3, 2)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, steps: list[int], silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x, in memory as (b, l, d) and rounded to its dtype for each route, of weight and of bias."""
    (b, d, l), (k, _, w) = x.shape, weight.shape
    how = arrange(x, weight, rows, steps, silu, w - 1)
    dx = x.new_empty(k, b, l, d)
    sums = x.new_empty(how.chunks, b, w + 1, k, d, dtype=torch.float32)
    if dx.numel():
        with torch.cuda.device_of(x):
            backward_kernel[(how.programs,)](
                grad, x, weight.contiguous(), None if bias is None else bias.contiguous(), dx, sums, *how.walk,
                *grad.stride()[:3], x.stride(0), x.stride(1), grad.stride(3), x.stride(2), **how.constants,
            )  # fmt: skip
    total = sums.sum((0, 1))
    return (
        (dx[0] if k == 1 else dx.sum(0)).transpose(1, 2),
        total[:w].permute(1, 2, 0).to(weight.dtype).contiguous(),
        None if bias is None else total[w].to(bias.dtype),
    )
