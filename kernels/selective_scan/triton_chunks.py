"""What ties the chunks of a split scan together, and the sums over channels: fixed orders."""

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
    at_step,
    block_token,
    first_row,
    load_states,
    locate,
    next_row,
    sigmoid,
    softplus,
)


@triton.jit
def carry_kernel(
    A, end, decay, first, start, last,
    routes, channels, n_total, chunks, codes,
    FLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """State at the start of every chunk from what each chunk adds: h <- exp(A sum of d_t) h + end, chunk by chunk."""
    blocks = (channels + BLOCK - 1) // BLOCK
    pid = tl.program_id(0).to(tl.int64)
    c = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    live = c < channels
    n = pid // blocks % n_total
    bk = pid // blocks // n_total
    k = bk % routes
    backwards = ((codes >> (2 * k)) & 1) ^ FLIP
    a = tl.load(A + (k * n_total + n) * channels + c, mask=live, other=0.0) * LOG2E
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
    """States (b, k, chunks, n, d) at the start of every chunk and (b, k, d, n) at the end of all; flip: walk back.

    A is (k, n, d).
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
    batch, routes, groups, length, n0, chunk, chunks, route0, codes, width,
    sd_b, sd_k, sd_d, sC_b, sC_k, sC_g, sC_n, sz_b, sz_d, sg_b, sg_d,
    sd_l: tl.constexpr, sC_l: tl.constexpr, sz_l: tl.constexpr, sg_l: tl.constexpr,
    channels: tl.constexpr, n_total: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr, PACK: tl.constexpr,
    ORDER: tl.constexpr, SOFTPLUS: tl.constexpr, EVEN_D: tl.constexpr, EVEN_L: tl.constexpr,
):  # fmt: skip
    """What a chunk alone hands back to the one before it, a_t e_t at its first step, and the sum of its step sizes.

    It walks against its route: a route that goes forth is walked by blocks from its end.
    """
    b, j, slot, g, c, live = locate(batch, channels, groups, chunks, BLOCK, EVEN_D)
    wide = c.to(tl.int64)
    k = (route0 + slot).to(tl.int64)
    code = codes >> (2 * k)
    sign = (code & 1).to(tl.int32) * 2 - 1
    STRAIGHT: tl.constexpr = ORDER == 'forth' or ORDER == 'back'
    WALK: tl.constexpr = ('back' if ORDER == 'forth' else 'forth') if STRAIGHT else ORDER
    if STRAIGHT:
        sign = 1 if WALK == 'forth' else -1
    step = tl.where((code & 2) != 0, width, 1)
    table = rows
    if ORDER == 'table':
        table = rows + k * length
    stored = (length + T - 1) // T
    first_block = j * (chunk // T)
    last_block = tl.minimum(first_block + chunk // T, stored) - 1
    position = tl.where(sign > 0, first_block * T, last_block * T + T - 1)
    row = position
    if not STRAIGHT:
        row = first_row(position, step, length, table, ORDER)
    kd = k * channels + c
    a = ()
    e = ()
    for n in tl.static_range(N):
        a += (tl.load(A + (k * n_total + n0 + n) * channels + c, mask=live, other=0.0) * LOG2E,)
        e += (tl.full([BLOCK], 0.0, tl.float32),)
    shift = tl.full([BLOCK], 0.0, tl.float32)
    if bias is not None:
        shift = tl.load(bias + kd, mask=live, other=0.0)
    total = tl.full([BLOCK], 0.0, tl.float32)
    d_k = delta + b * sd_b + k * sd_k + wide * sd_d
    C_k = C + b * sC_b + k * sC_k + g * sC_g + n0.to(tl.int64) * sC_n
    g_k = gout + b * sg_b + wide * sg_d
    for m in range(last_block - first_block + 1):
        block = tl.where(sign > 0, first_block + m, last_block - m)
        token = block_token(block, length, T, WALK)
        d_m = at_block(d_k, token, sd_l, WALK, INDEX)
        C_m = at_block(C_k, token, sC_l, WALK, INDEX)
        g_m = at_block(g_k, token, sg_l, WALK, INDEX)
        if z is not None:
            z_m = at_block(z + b * sz_b + wide * sz_d, token, sz_l, WALK, INDEX)
        for t in tl.static_range(T):
            keep = live
            dt = tl.load(at_step(d_m, row, t, sd_l, WALK, INDEX), mask=live, other=0.0).to(tl.float32) + shift
            if SOFTPLUS:
                dt = softplus(dt)
            if not EVEN_L:
                own = position + sign * t < length
                if STRAIGHT:
                    own = token + sign * t >= block * T
                dt = tl.where(own, dt, 0.0)
                keep = live & own
            dy = tl.load(at_step(g_m, row, t, sg_l, WALK, INDEX), mask=keep, other=0.0).to(tl.float32)
            if z is not None:
                gate = tl.load(at_step(z_m, row, t, sz_l, WALK, INDEX), mask=live, other=0.0).to(tl.float32)
                dy = dy * gate * sigmoid(gate)
            Ct = load_states(at_step(C_m, row, t, sC_l, WALK, INDEX), sC_n, N, PACK)
            before = ()
            for n in tl.static_range(N):
                before += (tl.exp2(dt * a[n]) * (dy * Ct[n] + e[n]),)
            e = before
            total += dt
            if not STRAIGHT:
                row = next_row(row, position + sign * t, step, length, sign, table, ORDER)
        position += sign * T
    at = ((b * routes + k) * chunks + j) * n_total * channels + c
    for n in tl.static_range(N):
        tl.store(end + at + (n0 + n) * channels, e[n], mask=live)
    tl.store(decay + ((b * routes + k) * chunks + j) * channels + c, total, mask=live)


@triton.jit
def exchange(v, w, lane, BIT: tl.constexpr):
    """Lanes without BIT get v summed over themselves and the lane BIT away; lanes with it get w likewise."""
    upper = (lane & BIT) != 0
    return tl.where(upper, w, v) + tl.gather(tl.where(upper, v, w), lane ^ BIT, 0)


@triton.jit
def fold(v, BLOCK: tl.constexpr):
    """One value a lane: the sum over the channels of a thread."""
    if BLOCK > 64:
        even, odd = tl.split(tl.reshape(v, [BLOCK // 2, 2]))
        v = even + odd
    if BLOCK > 32:
        even, odd = tl.split(tl.reshape(v, [32, 2]))
        v = even + odd
    return v


@triton.jit
def halve(values, lane, BIT: tl.constexpr, COUNT: tl.constexpr):
    """COUNT vectors (a power of two) become one, by exchanges over the bits of a lane's number from BIT down.

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
    """dB and dC of a group: the sum over its blocks of channels, block by block.

    partial (tokens, groups, blocks, SUMS / HELD, 2, HELD): of every HELD states those of dB, then those of dC.
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
