"""What ties the chunks of a split scan together, and the sums over blocks of channels: small kernels, fixed orders."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_common import LOG2E, OPTIONS, PLAIN_INTS, first_row, load_states, locate, next_row, sigmoid, softplus


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
    a = tl.load(A + (k * channels + c) * n_total + n, mask=live, other=0.0) * LOG2E
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
    """States (b, k, chunks, n, d) at the start of every chunk and (b, k, d, n) at the end of all; flip: walk back."""
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
    batch, routes, channels, groups, length, n_total, n0, chunk, chunks, codes, width,
    sd_b, sd_k, sd_d, sd_l,
    sC_b, sC_k, sC_g, sC_n, sC_l,
    sz_b, sz_d, sz_l,
    sg_b, sg_d, sg_l,
    INDEX: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr, PACK: tl.constexpr,
    ORDER: tl.constexpr, SOFTPLUS: tl.constexpr, EVEN_D: tl.constexpr, EVEN_L: tl.constexpr,
):  # fmt: skip
    """What a chunk alone hands back to the one before it, a_t e_t at its first step, and the sum of its step sizes."""
    b, j, slot, g, c, live = locate(batch, channels, groups, chunks, BLOCK, EVEN_D)
    wide = c.to(tl.int64)
    k = slot.to(tl.int64)
    code = codes >> (2 * k)
    sign = (code & 1).to(tl.int32) * 2 - 1
    step = tl.where((code & 2) != 0, width, 1)
    table = rows
    if ORDER == 'table':
        table = rows + k * length
    position = tl.where(sign > 0, j * chunk, j * chunk + chunk - 1)
    row = first_row(position, step, length, table, ORDER)
    kd = k * channels + c
    a = ()
    e = ()
    for n in tl.static_range(N):
        a += (tl.load(A + kd * n_total + n0 + n, mask=live, other=0.0) * LOG2E,)
        e += (tl.full([BLOCK], 0.0, tl.float32),)
    shift = tl.full([BLOCK], 0.0, tl.float32)
    if bias is not None:
        shift = tl.load(bias + kd, mask=live, other=0.0)
    total = tl.full([BLOCK], 0.0, tl.float32)
    d_k = delta + b * sd_b + k * sd_k + wide * sd_d
    C_k = C + b * sC_b + k * sC_k + g * sC_g + n0.to(tl.int64) * sC_n
    g_b = gout + b * sg_b + wide * sg_d
    for _ in range(chunk // T):
        for _t in tl.static_range(T):
            at_row = row.to(INDEX)
            keep = live
            dt = tl.load(d_k + at_row * sd_l, mask=live, other=0.0).to(tl.float32) + shift
            if SOFTPLUS:
                dt = softplus(dt)
            if not EVEN_L:
                dt = tl.where(position < length, dt, 0.0)
                keep = live & (position < length)
            dy = tl.load(g_b + at_row * sg_l, mask=keep, other=0.0).to(tl.float32)
            if z is not None:
                gate = tl.load(z + b * sz_b + wide * sz_d + at_row * sz_l, mask=live, other=0.0).to(tl.float32)
                dy = dy * gate * sigmoid(gate)
            Ct = load_states(C_k + at_row * sC_l, sC_n, N, PACK)
            before = ()
            for n in tl.static_range(N):
                before += (tl.exp2(dt * a[n]) * (dy * Ct[n] + e[n]),)
            e = before
            total += dt
            row = next_row(row, position, step, length, sign, table, ORDER)
            position += sign
    at = ((b * routes + k) * chunks + j) * n_total * channels + c
    for n in tl.static_range(N):
        tl.store(end + at + (n0 + n) * channels, e[n], mask=live)
    tl.store(decay + ((b * routes + k) * chunks + j) * channels + c, total, mask=live)


@triton.jit
def reduce_kernel(
    partial, dB, dC, tokens, groups, blocks, n_total, n0,
    N: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """dB and dC of a group: the sum over its blocks of channels, block by block."""
    pid = tl.program_id(0).to(tl.int64)
    g = pid % groups
    row = (pid // groups) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    live = (row < tokens) & (column < 2 * N)
    total = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    for block in range(blocks):
        at = (row * groups + g) * blocks + block
        total += tl.load(partial + at * (2 * N) + column, mask=live, other=0.0)
    to = (row * groups + g) * n_total + n0
    tl.store(dB + to + column, total.to(dB.dtype.element_ty), mask=live & (column < N))
    tl.store(dC + to + column - N, total.to(dC.dtype.element_ty), mask=live & (column >= N))
