"""Combines the chunks of a split scan, and sums over channels in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_common import (
    LOG2E,
    OPTIONS,
    PLAIN_INTS,
    at_block,
    at_channels,
    at_step,
    block_start,
    load_channels,
    load_states,
    locate,
    sigmoid,
    step_size,
    tokens_of,
)


@triton.jit
def carry_kernel(
    A, end, decay, first, start, last,
    routes, channels, n_total, chunks, codes,
    FLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """State at the start of every chunk: h <- exp(A sum of d_t) h + end. decay is the sum of d_t, in base 2."""
    blocks = (channels + BLOCK - 1) // BLOCK
    pid = tl.program_id(0).to(tl.int64)
    c = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    live = c < channels
    n = pid // blocks % n_total
    bk = pid // blocks // n_total
    k = bk % routes
    backwards = ((codes >> k) & 1) ^ FLIP
    a = tl.load(A + (k * n_total + n) * channels + c, mask=live, other=0.0)
    h = tl.full([BLOCK], 0.0, tl.float32)
    if first is not None:
        h = tl.load(first + (bk * channels + c) * n_total + n, mask=live, other=0.0).to(tl.float32)
    for i in range(chunks):
        j = bk * chunks + tl.where(backwards != 0, chunks - 1 - i, i)
        at = (j * n_total + n) * channels + c
        tl.store(start + at, h, mask=live)
        fade = tl.exp2(a * tl.load(decay + j * channels + c, mask=live, other=0.0))
        h = fade * h + tl.load(end + at, mask=live, other=0.0)
    tl.store(last + (bk * channels + c) * n_total + n, h, mask=live)


def carry(A: Tensor, end: Tensor, decay: Tensor, first: Tensor | None, codes: int, flip: bool) -> tuple[Tensor, Tensor]:
    """States (b, k, chunks, n, d) at the start of every chunk, and (b, k, d, n) after the last. A is (k, n, d).

    ``flip`` walks backwards.
    """
    b, k, chunks, n, d = end.shape
    start, last = torch.empty_like(end), end.new_empty(b, k, d, n)
    grid = (b * k * n * triton.cdiv(d, 128),)
    carry_kernel[grid](
        A, end, decay, first, start, last, k, d, n, chunks, codes, FLIP=int(flip), BLOCK=128, num_warps=4, **OPTIONS
    )
    return start, last


@triton.jit(do_not_specialize=PLAIN_INTS)
def adjoint_kernel(
    delta, A, C, z, bias, rows, gout, end, decay,
    batch, routes, groups, length, n0, chunk, chunks, route, width, inverse,
    sd_b, sd_k, sd_d, sC_b, sC_k, sC_g, sC_n, sz_b, sz_d, sg_b, sg_d,
    sd_l: tl.constexpr, sC_l: tl.constexpr, sz_l: tl.constexpr, sg_l: tl.constexpr,
    channels: tl.constexpr, n_total: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr, PACK: tl.constexpr,
    ORDER: tl.constexpr, SIGN: tl.constexpr, SOFTPLUS: tl.constexpr, WORDS: tl.constexpr,
    EVEN_D: tl.constexpr, EVEN_L: tl.constexpr,
):  # fmt: skip
    """The gradient a_t e_t that a chunk alone passes to the one before it, and the sum of its step sizes.

    SIGN is opposite to the direction of the route.
    """
    b, j, g, c, pair, live = locate(batch, channels, groups, BLOCK, EVEN_D)
    PER: tl.constexpr = 2 if WORDS else 1  # channels per pointer
    k = route.to(tl.int64)
    stored = (length + T - 1) // T
    first_block = j * (chunk // T)
    last_block = tl.minimum(first_block + chunk // T, stored) - 1
    a = ()
    e = ()
    for n in tl.static_range(N):
        a += (tl.load(A + (k * n_total + n0 + n) * channels + c, mask=live, other=0.0),)
        e += (tl.full([BLOCK], 0.0, tl.float32),)
    shift = tl.full([BLOCK], 0.0, tl.float32)
    if bias is not None:
        shift = tl.load(bias + k * channels + c, mask=live, other=0.0) * LOG2E
    total = tl.full([BLOCK], 0.0, tl.float32)
    d_k = at_channels(delta, b * sd_b + k * sd_k, c, pair, sd_d, WORDS)
    C_k = C + b * sC_b + k * sC_k + g * sC_g
    g_k = at_channels(gout, b * sg_b, c, pair, sg_d, WORDS)
    if z is not None:
        z_k = at_channels(z, b * sz_b, c, pair, sz_d, WORDS)
    for m in range(last_block - first_block + 1):
        block = first_block + m
        if SIGN < 0:
            block = last_block - m
        begin = block_start(block, length, T, SIGN)
        tokens = tokens_of(begin, rows, width, inverse, length, ORDER, T, SIGN)
        d_m = at_block(d_k, begin, sd_l // PER, ORDER, INDEX)
        C_m = at_block(C_k, begin, sC_l, ORDER, INDEX)
        g_m = at_block(g_k, begin, sg_l // PER, ORDER, INDEX)
        if z is not None:
            z_m = at_block(z_k, begin, sz_l // PER, ORDER, INDEX)
        for t in tl.static_range(T):
            row = tokens[t]
            own = True
            if not EVEN_L:
                own = begin + SIGN * t >= block * T
            dt = step_size(
                load_channels(at_step(d_m, row, t, sd_l // PER, ORDER, SIGN, INDEX), live, own, float('-inf')),
                shift,
                SOFTPLUS,
                delta.dtype.element_ty == tl.float32,
            )
            dy = load_channels(at_step(g_m, row, t, sg_l // PER, ORDER, SIGN, INDEX), live, own, 0.0)
            if z is not None:
                gate = load_channels(at_step(z_m, row, t, sz_l // PER, ORDER, SIGN, INDEX), live, True, 0.0)
                dy = dy * gate * sigmoid(gate * LOG2E)
            Ct = load_states(at_step(C_m, row, t, sC_l, ORDER, SIGN, INDEX), sC_n, N, PACK)
            before = ()
            for n in tl.static_range(N):
                before += (tl.exp2(dt * a[n]) * (dy * Ct[n] + e[n]),)
            e = before
            total += dt
    at = ((b * routes + k) * chunks + j) * n_total * channels + c
    for n in tl.static_range(N):
        tl.store(end + at + (n0 + n) * channels, e[n], mask=live)
    tl.store(decay + ((b * routes + k) * chunks + j) * channels + c, total, mask=live)


@triton.jit
def exchange(v, w, lane, BIT: tl.constexpr):
    """Lanes without BIT sum v with the lane BIT away; lanes with BIT sum w."""
    upper = (lane & BIT) != 0
    return tl.where(upper, w, v) + tl.gather(tl.where(upper, v, w), lane ^ BIT, 0)


@triton.jit
def fold(v, BLOCK: tl.constexpr):
    """Sums over the channels of each thread: one value per lane."""
    if BLOCK > 64:
        even, odd = tl.split(tl.reshape(v, [BLOCK // 2, 2]))
        v = even + odd
    if BLOCK > 32:
        even, odd = tl.split(tl.reshape(v, [32, 2]))
        v = even + odd
    return v


@triton.jit
def halve(values, lane, BIT: tl.constexpr, COUNT: tl.constexpr):
    """Reduces COUNT vectors (a power of two) to one, by exchanges over the bits of the lane number from BIT down.

    Every exchange halves the number of vectors: 31 shuffles for 32 sums, where 32 reductions take 160.
    """
    for s in tl.static_range(5):
        if (COUNT >> s) > 1:
            halved = ()
            for i in tl.static_range(COUNT >> (s + 1)):
                halved += (exchange(values[i], values[i + (COUNT >> (s + 1))], lane, BIT >> s),)
            values = halved
    return values[0]


@triton.jit
def reduce_kernel(
    partial, dB, dC, tokens, groups, blocks, n_total, n0,
    N: tl.constexpr, SUMS: tl.constexpr, HELD: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums dB and dC of a group over its blocks of channels, in order.

    partial (tokens, groups, blocks, SUMS / HELD, 2, HELD): for every HELD states the sums of dB, then those of dC.
    """
    pid = tl.program_id(0).to(tl.int64)
    g = pid % groups
    row = (pid // groups) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    n = column // (2 * HELD) * HELD + column % HELD
    of_c = column // HELD % 2 == 1
    live = (row < tokens) & (column < 2 * SUMS) & (n < N)
    total = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    for block in range(blocks):
        at = (row * groups + g) * blocks + block
        total += tl.load(partial + at * (2 * SUMS) + column, mask=live, other=0.0)
    to = (row * groups + g) * n_total + n0 + n
    tl.store(dB + to, total.to(dB.dtype.element_ty), mask=live & (of_c == 0))
    tl.store(dC + to, total.to(dC.dtype.element_ty), mask=live & of_c)
