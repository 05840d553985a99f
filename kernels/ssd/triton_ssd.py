"""SSD on the GPU: one program walks the chunks of a head, its state in registers (README.md has the equations).

A program computes 32 channels of one head of one sequence, or 16 in the backward pass; more would spill registers.
Each program writes a gradient of what programs share: B and C of a group, and the step sizes of a head. These are added
in a fixed order, without atomics. Offsets are int64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vimamba.kernels.flops import register

__all__ = ['ssd_triton']

CHUNK = 16  # steps of a masked matrix product; 32 spill registers
OPTIONS = {'enable_fp_fusion': True, 'num_stages': 1}  # the first is explicit because Triton 3.10 changes its default
PLAIN_INTS = ['length', 'heads', 'per_group', 'chunks']


@triton.jit
def load_tokens(ptr, t, i, stride_t, stride_i, length, width):
    """Loads (steps, width) in float32, zero outside."""
    rows = ptr + t.to(tl.int64) * stride_t
    keep = (t < length)[:, None] & (i < width)[None, :]
    return tl.load(rows[:, None] + (i.to(tl.int64) * stride_i)[None, :], mask=keep, other=0.0).to(tl.float32)


@triton.jit
def decays(a, T: tl.constexpr):
    """Decays of steps a (T,): from j to i (T, T), from the start through i, from j to the end, and over the chunk."""
    i = tl.arange(0, T)
    below = tl.where(i[:, None] > i[None, :], a[:, None], 0.0)
    between = tl.where(i[:, None] >= i[None, :], tl.exp(tl.cumsum(below, 0)), 0.0)
    return between, tl.exp(tl.cumsum(a, 0)), tl.exp(tl.sum(below, 0)), tl.exp(tl.sum(a, 0))


@triton.jit(do_not_specialize=PLAIN_INTS)
def forward_kernel(
    x, dt, A, B, C, start, y, last, states, length, heads, per_group, chunks,
    sx_b, sx_l, sx_h, sx_p, sB_b, sB_l, sB_g, sB_n, sC_b, sC_l, sC_g, sC_n,
    P: tl.constexpr, N: tl.constexpr, T: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0).to(tl.int64)
    b, h = part // heads, part % heads
    g = h // per_group
    p, n = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    in_state = (p < P)[:, None] & (n < N)[None, :]
    at_state = p[:, None] * N + n[None, :]
    rate = tl.load(A + h)
    state = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    if start is not None:
        state = tl.load(start + part * P * N + at_state, mask=in_state, other=0.0)
    x += b * sx_b + h * sx_h
    B += b * sB_b + g * sB_g
    C += b * sC_b + g * sC_g
    for chunk in range(chunks):
        if states is not None:
            tl.store(states + (part * chunks + chunk) * P * N + at_state, state, mask=in_state)
        t = chunk * T + tl.arange(0, T)
        at_step = (b * length + t.to(tl.int64)) * heads + h
        step = tl.load(dt + at_step, mask=t < length, other=0.0)
        between, from_start, to_end, whole = decays(step * rate, T)
        weighted = load_tokens(x, t, p, sx_l, sx_p, length, P) * step[:, None]
        B_t, C_t = load_tokens(B, t, n, sB_l, sB_n, length, N), load_tokens(C, t, n, sC_l, sC_n, length, N)
        mixed = tl.dot(C_t, tl.trans(B_t), input_precision=PRECISION) * between
        out = tl.dot(mixed, weighted, input_precision=PRECISION)
        out += tl.dot(C_t, tl.trans(state), input_precision=PRECISION) * from_start[:, None]
        keep = (t < length)[:, None] & (p < P)[None, :]
        tl.store(y + at_step[:, None] * P + p[None, :], out, mask=keep)
        state = whole * state + tl.dot(tl.trans(weighted * to_end[:, None]), B_t, input_precision=PRECISION)
    tl.store(last + part * P * N + at_state, state, mask=in_state)


@triton.jit(do_not_specialize=PLAIN_INTS)
def backward_kernel(
    x, dt, A, B, C, states, dy, dlast, dx, ddt, dA, dB, dC, dstart, length, heads, per_group, chunks,
    sx_b, sx_l, sx_h, sx_p, sB_b, sB_l, sB_g, sB_n, sC_b, sC_l, sC_g, sC_n,
    P: tl.constexpr, N: tl.constexpr, T: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0).to(tl.int64)
    block, blocks = tl.program_id(1), tl.num_programs(1)
    b, h = part // heads, part % heads
    g = h // per_group
    p, n = block * BLOCK_P + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_N)
    in_state = (p < P)[:, None] & (n < N)[None, :]
    at_state = p[:, None] * N + n[None, :]
    rate = tl.load(A + h)
    dstate = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    if dlast is not None:
        dstate = tl.load(dlast + part * P * N + at_state, mask=in_state, other=0.0)
    drate = 0.0
    x += b * sx_b + h * sx_h
    B += b * sB_b + g * sB_g
    C += b * sC_b + g * sC_g
    for back in range(chunks):
        chunk = chunks - 1 - back
        t = chunk * T + tl.arange(0, T)
        at_step = (b * length + t.to(tl.int64)) * heads + h
        at_token = at_step[:, None] * P + p[None, :]
        keep = (t < length)[:, None] & (p < P)[None, :]
        step = tl.load(dt + at_step, mask=t < length, other=0.0)
        between, from_start, to_end, whole = decays(step * rate, T)
        g_t = tl.load(dy + at_token, mask=keep, other=0.0)
        C_t = load_tokens(C, t, n, sC_l, sC_n, length, N)

        # through the state before the chunk; dsums, to, end: gradients of the sums of steps
        state = tl.load(states + (part * chunks + chunk) * P * N + at_state, mask=in_state, other=0.0)
        end = whole * tl.sum(tl.sum(dstate * state, 1), 0)
        dC_t = tl.dot(g_t, state, input_precision=PRECISION) * from_start[:, None]
        dsums = tl.sum(dC_t * C_t, 1)

        # through the state after it
        x_t = load_tokens(x, t, p, sx_l, sx_p, length, P)
        B_t = load_tokens(B, t, n, sB_l, sB_n, length, N)
        weighted = x_t * step[:, None]
        dB_t = tl.dot(weighted, dstate, input_precision=PRECISION) * to_end[:, None]
        dweighted = tl.dot(B_t, tl.trans(dstate), input_precision=PRECISION) * to_end[:, None]
        to = tl.sum(dB_t * B_t, 1)

        # within it
        mixed = tl.dot(C_t, tl.trans(B_t), input_precision=PRECISION) * between
        dmixed = tl.dot(g_t, tl.trans(weighted), input_precision=PRECISION)
        dproducts = dmixed * between
        dweighted += tl.dot(tl.trans(mixed), g_t, input_precision=PRECISION)
        dC_t += tl.dot(dproducts, B_t, input_precision=PRECISION)
        dB_t += tl.dot(tl.trans(dproducts), C_t, input_precision=PRECISION)
        dsums += tl.sum(dmixed * mixed, 1) - tl.sum(dmixed * mixed, 0)
        da = tl.cumsum(dsums - to, 0, reverse=True) + tl.sum(to, 0) + end

        tl.store(dx + at_token, dweighted * step[:, None], mask=keep)
        dstep = da * rate + tl.sum(dweighted * x_t, 1)
        tl.store(ddt + at_step * blocks + block, dstep, mask=t < length)
        at_row = (at_step * blocks + block)[:, None] * N + n[None, :]
        in_row = (t < length)[:, None] & (n < N)[None, :]
        tl.store(dB + at_row, dB_t, mask=in_row)
        tl.store(dC + at_row, dC_t, mask=in_row)
        drate += tl.sum(tl.where(t < length, da * step, 0.0), 0)
        dstate = whole * dstate + tl.dot(tl.trans(g_t * from_start[:, None]), C_t, input_precision=PRECISION)
    tl.store(dA + part * blocks + block, drate)
    tl.store(dstart + part * P * N + at_state, dstate, mask=in_state)


def constants(dtype: torch.dtype, p: int, n: int, backward: bool) -> dict:
    """Compile-time constants of a kernel for p channels of a head and n states."""
    block_p = 16 if backward else 32
    precision = 'ieee' if dtype == torch.float32 else 'tf32'  # its 10 bits of mantissa suffice for bfloat16 and float16
    warps = 8 if block_p > 16 or n > 64 else 4
    return dict(P=p, N=n, T=CHUNK, BLOCK_P=block_p, BLOCK_N=max(16, triton.next_power_of_2(n)),
                PRECISION=precision, num_warps=warps, **OPTIONS)  # fmt: skip


def _layout(x: Tensor, B: Tensor, C: Tensor, backward: bool) -> tuple[tuple[int, int], list[int], dict]:
    """Grid, integer arguments and constants of a kernel."""
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    compiled = constants(x.dtype, p, n, backward)
    sizes = [l, h, h // g, triton.cdiv(l, CHUNK), *x.stride(), *B.stride(), *C.stride()]
    grid = b * h, triton.cdiv(p, compiled['BLOCK_P'])  # CUDA takes 65535 programs along any axis but the first
    return grid, sizes, compiled


@torch.library.custom_op('vimamba::ssd', mutates_args=())
def ssd_triton(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor | None, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `ssd_reference`, d_state up to 128; float32 out, and with ``save`` the states that the chunks start from.

    x (b, l, h, p), B and C (b, l, g, n) in any dtype and strides; dt (b, l, h), A (h,), initial_state float32.
    """
    (b, l, h, p), n = x.shape, B.shape[-1]
    grid, sizes, compiled = _layout(x, B, C, backward=False)
    empty = A.new_empty  # float32, independent of torch's default
    y, last = empty(b, l, h, p), empty(b, h, p, n)
    states = empty((b, h, triton.cdiv(l, CHUNK), p, n) if save else 0)
    if b:
        start = None if initial_state is None else initial_state.contiguous()
        with torch.cuda.device_of(x):
            forward_kernel[grid](
                x, dt.contiguous(), A.contiguous(), B, C, start, y, last, states if save else None, *sizes, **compiled
            )
    return y, last, states


@ssd_triton.register_fake
def _(x, dt, A, B, C, initial_state, save):
    (b, l, h, p), n = x.shape, B.shape[-1]
    states = A.new_empty((b, h, (l + CHUNK - 1) // CHUNK, p, n) if save else 0)
    return A.new_empty(b, l, h, p), A.new_empty(b, h, p, n), states


@torch.library.custom_op('vimamba::ssd_backward', mutates_args=())
def ssd_backward(
    dy: Tensor, dlast: Tensor | None, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor
) -> list[Tensor]:
    """Gradients of x, dt, A, B, C and the initial state."""
    (b, l, h, p), (g, n) = x.shape, B.shape[2:]
    grid, sizes, compiled = _layout(x, B, C, backward=True)
    empty, blocks = A.new_empty, grid[1]
    dx, dstart = empty(b, l, h, p), empty(b, h, p, n)
    ddt, dA, dB, dC = empty(b, l, h, blocks), empty(b, h, blocks), *(empty(b, l, h, blocks, n) for _ in range(2))
    if b:
        end = None if dlast is None else dlast.contiguous()
        with torch.cuda.device_of(x):
            backward_kernel[grid](
                x, dt.contiguous(), A.contiguous(), B, C, states, dy.contiguous(), end, dx, ddt, dA, dB, dC, dstart,
                *sizes, **compiled,
            )  # fmt: skip
    dB, dC = (t.unflatten(2, (g, h // g)).sum((3, 4)) for t in (dB, dC))
    return [dx.to(x.dtype), ddt.sum(-1), dA.sum((0, 2)), dB.to(B.dtype), dC.to(C.dtype), dstart]


@ssd_backward.register_fake
def _(dy, dlast, x, dt, A, B, C, states):
    shapes = (x.shape, dt.shape, A.shape, B.shape, C.shape, (x.shape[0], *x.shape[2:], B.shape[-1]))
    return [t.new_empty(shape) for t, shape in zip((x, A, A, B, C, A), shapes)]


def _setup_context(ctx, inputs, output):
    x, dt, A, B, C, initial_state, _ = inputs
    ctx.has_start = initial_state is not None
    ctx.save_for_backward(x, dt, A, B, C, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, dlast, _):
    x, dt, A, B, C, states = ctx.saved_tensors
    dy = A.new_zeros(x.shape) if dy is None else dy
    *grads, dstart = torch.ops.vimamba.ssd_backward(dy, dlast, x, dt, A, B, C, states)
    return (*grads, dstart if ctx.has_start else None, None)


ssd_triton.register_autograd(_backward, setup_context=_setup_context)


def _flops(x, dt, A, B, C, *_) -> int:
    """FLOPs of the matrix products in chunks."""
    (b, l, h, p), n = x, B[-1]
    return 2 * b * l * h * (CHUNK * (n + p) + 2 * n * p)


register('ssd', _flops, gradients=2)
