"""Selective scan on the GPU, forward: one kernel, serial along the route, its state in registers (see NOTES.md)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_chunks import carry
from .triton_common import (
    LOG2E,
    OPTIONS,
    PLAIN_INTS,
    Plan,
    Routes,
    Shape,
    accumulate,
    at_block,
    at_step,
    block_token,
    first_row,
    index_type,
    load_states,
    locate,
    next_row,
    pack,
    plan,
    sigmoid,
    softplus,
    state_blocks,
    strides,
)

__all__ = ['route_scan_fwd']

REGISTERS = 168  # a thread: three warps to a scheduler; left to itself the compiler spills, to have four


@triton.jit(do_not_specialize=PLAIN_INTS)
def scan_kernel(
    u, delta, A, B, C, D, z, bias, rows, start, out, acc, states, end, decay,
    batch, routes, groups, length, n0, chunk, chunks,
    route0, route_step, route_count, codes, width,
    su_b, su_k, su_d, sd_b, sd_k, sd_d, sB_b, sB_k, sB_g, sB_n, sC_b, sC_k, sC_g, sC_n, sz_b, sz_d, ss_n, ss_d,
    more: tl.constexpr, final: tl.constexpr,
    su_l: tl.constexpr, sd_l: tl.constexpr, sB_l: tl.constexpr, sC_l: tl.constexpr, sz_l: tl.constexpr,
    channels: tl.constexpr, n_total: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr, PACK: tl.constexpr,
    ORDER: tl.constexpr, SOFTPLUS: tl.constexpr, EVEN_D: tl.constexpr, EVEN_L: tl.constexpr,
):  # fmt: skip
    """A program scans one chunk of one batch item for BLOCK channels, route after route, N of its states.

    Without out it stores states only: those at the end of its chunk and, in decay, the sum of its step sizes.
    """
    b, j, slot, g, c, live = locate(batch, channels, groups, chunks, BLOCK, EVEN_D)
    wide = c.to(tl.int64)
    STRAIGHT: tl.constexpr = ORDER == 'forth' or ORDER == 'back'
    stored = (length + T - 1) // T
    first_block = j * (chunk // T)
    last_block = tl.minimum(first_block + chunk // T, stored) - 1
    for i in range(route_count):
        k = (route0 + (slot + i) * route_step).to(tl.int64)
        code = codes >> (2 * k)
        sign = 1 - 2 * (code & 1).to(tl.int32)
        if STRAIGHT:
            sign = 1 if ORDER == 'forth' else -1
        step = tl.where((code & 2) != 0, width, 1)
        table = rows
        if ORDER == 'table':
            table = rows + k * length
        position = tl.where(sign > 0, first_block * T, last_block * T + T - 1)
        row = position
        if not STRAIGHT:
            row = first_row(position, step, length, table, ORDER)

        kd = k * channels + c
        at = ((b * routes + k) * chunks + j) * n_total * channels
        a = ()
        h = ()
        for n in tl.static_range(N):
            a += (tl.load(A + (k * n_total + n0 + n) * channels + c, mask=live, other=0.0) * LOG2E,)
            if start is not None:
                state = tl.load(start + at + (n0 + n) * ss_n + c * ss_d, mask=live, other=0.0).to(tl.float32)
            else:
                state = tl.full([BLOCK], 0.0, tl.float32)
            h += (state,)
        skip = tl.full([BLOCK], 0.0, tl.float32)
        if D is not None:
            skip = tl.load(D + kd, mask=live, other=0.0)
        shift = tl.full([BLOCK], 0.0, tl.float32)
        if bias is not None:
            shift = tl.load(bias + kd, mask=live, other=0.0)
        total = tl.full([BLOCK], 0.0, tl.float32)

        u_k = u + b * su_b + k * su_k + wide * su_d
        d_k = delta + b * sd_b + k * sd_k + wide * sd_d
        B_k = B + b * sB_b + k * sB_k + g * sB_g + n0.to(tl.int64) * sB_n
        C_k = C + b * sC_b + k * sC_k + g * sC_g + n0.to(tl.int64) * sC_n
        item = b * length * channels + c
        for m in range(last_block - first_block + 1):
            block = tl.where(sign > 0, first_block + m, last_block - m)
            if states is not None:
                spot = states + ((b * routes + k) * stored + block) * n_total * channels + n0 * channels + c
                for n in tl.static_range(N):
                    tl.store(spot + n * channels, h[n], mask=live)
            token = block_token(block, length, T, ORDER)
            u_m = at_block(u_k, token, su_l, ORDER, INDEX)
            d_m = at_block(d_k, token, sd_l, ORDER, INDEX)
            B_m = at_block(B_k, token, sB_l, ORDER, INDEX)
            C_m = at_block(C_k, token, sC_l, ORDER, INDEX)
            if z is not None:
                z_m = at_block(z + b * sz_b + wide * sz_d, token, sz_l, ORDER, INDEX)
            if out is not None:
                out_m = at_block(out + item, token, channels, ORDER, INDEX)
                acc_m = acc
                if acc is not None:
                    acc_m = at_block(acc + item, token, channels, ORDER, INDEX)
            for t in tl.static_range(T):
                x = tl.load(at_step(u_m, row, t, su_l, ORDER, INDEX), mask=live, other=0.0).to(tl.float32)
                dt = tl.load(at_step(d_m, row, t, sd_l, ORDER, INDEX), mask=live, other=0.0).to(tl.float32) + shift
                if SOFTPLUS:
                    dt = softplus(dt)
                keep = live
                if not EVEN_L:
                    own = position + sign * t < length
                    if STRAIGHT:
                        own = token + sign * t >= block * T
                    dt = tl.where(own, dt, 0.0)
                    keep = live & own
                dx = dt * x
                y = skip * x
                Bt = load_states(at_step(B_m, row, t, sB_l, ORDER, INDEX), sB_n, N, PACK)
                if out is not None:
                    Ct = load_states(at_step(C_m, row, t, sC_l, ORDER, INDEX), sC_n, N, PACK)
                following = ()
                for n in tl.static_range(N):
                    state = tl.exp2(dt * a[n]) * h[n] + dx * Bt[n]
                    if out is not None:
                        y += Ct[n] * state
                    following += (state,)
                h = following
                if decay is not None:
                    total += dt
                if out is not None:
                    if z is not None:
                        gate = tl.load(at_step(z_m, row, t, sz_l, ORDER, INDEX), mask=live, other=0.0).to(tl.float32)
                        y = y * gate * sigmoid(gate)
                    to_acc = acc_m
                    if acc is not None:
                        to_acc = at_step(acc_m, row, t, channels, ORDER, INDEX)
                    more_all = more
                    final_all = final
                    if not STRAIGHT:  # several routes to a launch
                        more_all = (i > 0) | more
                        final_all = (i == route_count - 1) & final
                    accumulate(at_step(out_m, row, t, channels, ORDER, INDEX), to_acc, y, keep, more_all, final_all)
                if not STRAIGHT:
                    row = next_row(row, position + sign * t, step, length, sign, table, ORDER)
            position += sign * T
        if end is not None:
            for n in tl.static_range(N):
                tl.store(end + at + (n0 + n) * ss_n + c * ss_d, h[n], mask=live)
        if decay is not None:
            tl.store(decay + ((b * routes + k) * chunks + j) * channels + c, total, mask=live)


def route_scan_fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    routes: Routes,
    *,
    save_states: bool = False,
    output: bool = True,
    how: Plan | None = None,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """K selective scans over one copy of the tokens, each along its route, their gated outputs summed.

    Every argument is in token order; nothing is copied into scan order. With k routes and g groups of channels:

    Args:
        u: (b, d, l), read by every route, or (b, k, d, l).
        delta: (b, k, d, l).
        A: (k, d, n).
        B, C: (b, k, g, n, l).
        D, delta_bias: (k, d) or None.
        z: (b, d, l) or None.
        initial_state: (b, k, d, n) or None.
        delta_softplus: apply softplus to delta + delta_bias.
        routes: the K walks.
        save_states: also return the states that `route_scan_bwd` starts from.
        output: False leaves out the output (None), when only states are wanted.
        how: the layout; by default from the sizes alone.

    Returns:
        out (b, d, l), channels-last; last state (b, k, d, n), float32; states (b, k, blocks of steps, n, d) or None.
    """
    s = Shape(u.shape[0], A.shape[0], B.shape[2], u.shape[-2], u.shape[-1], A.shape[-1])
    how = how or plan(s, backward=False)
    blocks = triton.cdiv(s.l, how.steps)
    if s.b * s.l == 0:
        zeros = u.new_zeros(s.b, s.k, s.d, s.n, dtype=torch.float32)
        return (
            u.new_empty(s.b, s.l, s.d).transpose(1, 2) if output else None,
            zeros if initial_state is None else zeros + initial_state,
            u.new_empty(s.b, s.k, blocks, s.n, s.d, dtype=torch.float32) if save_states else None,
        )
    A = A.float().transpose(1, 2).contiguous()  # channels adjacent
    D, delta_bias = (None if t is None else t.float().contiguous() for t in (D, delta_bias))
    start = None if initial_state is None else initial_state.float().contiguous()
    turns = state_blocks(s.n)
    chunk = triton.cdiv(triton.cdiv(s.l, how.chunks), how.steps) * how.steps
    chunks = triton.cdiv(s.l, chunk)

    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device=u.device)

    out = empty(s.b, s.l, s.d, dtype=u.dtype) if output else None
    acc = None
    if output and s.k * len(turns) > 1:
        acc = out if out.dtype == torch.float32 else empty(s.b, s.l, s.d)
    states = empty(s.b, s.k, blocks, s.n, s.d) if save_states else None

    def launch(slots, group, turn, start, end, decay, out, states):
        n0, n = turn
        single = chunks == 1
        order = routes.order(group[0], how.steps, s.l)
        scan_kernel[(s.b * s.blocks(how.block) * chunks * slots,)](
            u, delta, A, B, C, D if n0 == 0 else None, z, delta_bias, routes.table,
            start, out, None if out is None else acc, states, end, decay,
            s.b, s.k, s.groups, s.l, n0, chunk, chunks, *group, routes.codes, routes.width,
            *strides(u)[:-1], *delta.stride()[:-1], *B.stride()[:-1], *C.stride()[:-1],
            *((0, 0) if z is None else z.stride()[:-1]), *((1, s.n) if single else (s.d, 1)),
            n0 > 0 or group[0] != 0, n0 + n == s.n and group == groups[-1],
            u.stride(-1), delta.stride(-1), B.stride(-1), C.stride(-1), 0 if z is None else z.stride(-1), s.d, s.n,
            INDEX=index_type(s, u, delta, B, C, z), N=n, BLOCK=how.block, T=how.steps,
            PACK=pack(n, B[..., n0:, :], C[..., n0:, :]), ORDER=order, SOFTPLUS=delta_softplus,
            EVEN_D=s.d // s.groups % how.block == 0, EVEN_L=s.l % how.steps == 0, num_warps=1,
            maxnreg=REGISTERS, **OPTIONS,
        )  # fmt: skip

    groups = routes.groups(chunks)
    with torch.cuda.device_of(u):
        if chunks == 1:
            last = end = empty(s.b, s.k, s.d, s.n)
        else:
            ends, decay = empty(s.b, s.k, chunks, s.n, s.d), empty(s.b, s.k, chunks, s.d)
            for turn in turns:
                for slots, group in routes.apart():
                    launch(slots, group, turn, None, ends, decay, None, None)
            start, last = carry(A, ends, decay, start, routes.codes, False)
            end = None
        if output or save_states or chunks == 1:
            for group in groups:
                for turn in turns:
                    launch(1, group, turn, start, end, None, out, states)
    return None if out is None else out.transpose(1, 2), last, states
