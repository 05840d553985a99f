"""Selective scan on the GPU, backward: states recomputed in registers, sums in a fixed order (see NOTES.md)."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_chunks import adjoint_kernel, carry, reduce_kernel
from .triton_common import (
    LN2,
    LOG2E,
    OPTIONS,
    PLAIN_INTS,
    Plan,
    Routes,
    Shape,
    accumulate,
    exp,
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
from .triton_fwd import route_scan_fwd

__all__ = ['route_scan_bwd']


@triton.jit
def softplus_slope(dt):
    """The derivative of softplus at x from its value d: 1 - e^-d, by its series where that would lose digits."""
    series = 0.008333334 - dt * 0.0013888889
    series = 0.041666668 - dt * series
    series = 0.16666667 - dt * series
    series = 0.5 - dt * series
    series = dt - dt * dt * series
    return tl.where(dt < 0.25, series, 1.0 - exp(-dt))


@triton.jit
def exchange(v, w, lane, BIT: tl.constexpr):
    """Lanes without BIT get v summed over themselves and the lane BIT away; lanes with it get w likewise."""
    upper = (lane & BIT) != 0
    return tl.where(upper, w, v) + tl.gather(tl.where(upper, v, w), lane ^ BIT, 0)


@triton.jit
def fold(v, BLOCK: tl.constexpr):
    """One value a lane: the sum over the channels of a thread."""
    if BLOCK > 32:
        even, odd = tl.split(tl.reshape(v, [32, 2]))
        v = even + odd
    return v


@triton.jit
def sum_lanes(values, lane, N: tl.constexpr):
    """Sums over the lanes of N vectors (a power of two) that differ between the halves of each 2 N lanes.

    Lane i gets the sum of vector i mod N in its half, i.e. of lanes that agree with it in bit N. Every exchange halves
    the number of vectors: 31 shuffles for 32 sums, where 32 reductions take 160.
    """
    for s in tl.static_range(5):
        if (16 >> s) < N:
            halved = ()
            for i in tl.static_range(16 >> s):
                halved += (exchange(values[i], values[i + (16 >> s)], lane, 16 >> s),)
            values = halved
    total = values[0]
    for s in tl.static_range(5):
        if (16 >> s) > N:
            total += tl.gather(total, lane ^ (16 >> s), 0)
    return total


@triton.jit(do_not_specialize=[*PLAIN_INTS, 'more', 'final', 'more_turns', 'final_turn'])
def scan_backward_kernel(
    u, delta, A, B, C, D, z, bias, rows, states, gout, start, end,
    du, du_acc, ddelta, ddelta_acc, dz, dz_acc, partial, partial_bc,
    batch, routes, channels, groups, length, n_total, n0, chunk, chunks,
    route0, route_step, route_count, codes, width, more, final, more_turns, final_turn,
    su_b, su_k, su_d, su_l,
    sd_b, sd_k, sd_d, sd_l,
    sB_b, sB_k, sB_g, sB_n, sB_l,
    sC_b, sC_k, sC_g, sC_n, sC_l,
    sz_b, sz_d, sz_l,
    sg_b, sg_d, sg_l,
    ss_n, ss_d,
    INDEX: tl.constexpr, N: tl.constexpr, SUMS: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr,
    PACK: tl.constexpr, ORDER: tl.constexpr, SOFTPLUS: tl.constexpr, SHARED: tl.constexpr,
    EVEN_D: tl.constexpr, EVEN_L: tl.constexpr,
):  # fmt: skip
    """A program walks one chunk of one batch item back, BLOCK channels, route after route, N of its states.

    Of every T steps it first recomputes the states, from the one stored before them. With e_t the gradient of h_t:

        e_t = g_t C_t + a_{t+1} e_{t+1},   g_t = dout_t silu(z_t),   a_t = exp(d_t A)
        du_t = D g_t + d_t <e_t, B_t>,     dd_t = u_t <e_t, B_t> + <e_t a_t h_{t-1}, A>
        dB_t = sum_c e_t d_t u_t,          dC_t = sum_c g_t h_t,          dA = sum_t d_t e_t a_t h_{t-1}
    """
    b, j, slot, g, c, live = locate(batch, channels, groups, chunks, BLOCK, EVEN_D)
    blocks = groups * ((channels // groups + BLOCK - 1) // BLOCK)
    block = tl.program_id(0).to(tl.int64) % blocks
    wide = c.to(tl.int64)
    lane = tl.arange(0, 32)
    g_b = gout + b * sg_b + wide * sg_d
    item = b * length * channels + c
    if z is not None:
        z_b = z + b * sz_b + wide * sz_d
        dz_b = dz + item
        dz_acc_b = dz_acc
        if dz_acc is not None:
            dz_acc_b = dz_acc + item
    for i in range(route_count):
        k = (route0 + (slot + i) * route_step).to(tl.int64)
        code = codes >> (2 * k)
        sign = 1 - 2 * (code & 1).to(tl.int32)
        one = (sign * sign).to(
            tl.float32
        )  # 1, unknown to the compiler: it would keep T N exponentials alive, and spill
        step = tl.where((code & 2) != 0, width, 1)
        table = rows
        if ORDER == 'table':
            table = rows + k * length
        more_all = (i > 0) | (more != 0)
        final_all = (i == route_count - 1) & (final != 0)
        item_k = (b * routes + k) * length * channels + c
        item_u = item_k
        more_u = more_turns != 0
        final_u = final_turn != 0
        if SHARED:
            item_u = item
            more_u = more_all
            final_u = final_all
        du_b = du + item_u
        du_acc_b = du_acc
        if du_acc is not None:
            du_acc_b = du_acc + item_u
        ddelta_b = ddelta + item_k
        ddelta_acc_b = ddelta_acc
        if ddelta_acc is not None:
            ddelta_acc_b = ddelta_acc + item_k

        kd = k * channels + c
        at = ((b * routes + k) * chunks + j) * n_total * channels
        a = ()
        e = ()
        dA = ()
        for n in tl.static_range(N):
            a += (tl.load(A + kd * n_total + n0 + n, mask=live, other=0.0) * LOG2E,)
            if start is not None:
                state = tl.load(start + at + (n0 + n) * ss_n + c * ss_d, mask=live, other=0.0).to(tl.float32)
            else:
                state = tl.full([BLOCK], 0.0, tl.float32)
            e += (state,)
            dA += (tl.full([BLOCK], 0.0, tl.float32),)
        skip = tl.full([BLOCK], 0.0, tl.float32)
        if D is not None:
            skip = tl.load(D + kd, mask=live, other=0.0)
        shift = tl.full([BLOCK], 0.0, tl.float32)
        if bias is not None:
            shift = tl.load(bias + kd, mask=live, other=0.0)
        dD = tl.full([BLOCK], 0.0, tl.float32)
        dbias = tl.full([BLOCK], 0.0, tl.float32)

        u_k = u + b * su_b + k * su_k + wide * su_d
        d_k = delta + b * sd_b + k * sd_k + wide * sd_d
        B_k = B + b * sB_b + k * sB_k + g * sB_g + n0.to(tl.int64) * sB_n
        C_k = C + b * sC_b + k * sC_k + g * sC_g + n0.to(tl.int64) * sC_n
        stored = (length + T - 1) // T
        last_block = tl.minimum((j + 1) * (chunk // T), stored) - 1
        first_block = j * (chunk // T)
        for m in range(last_block - first_block + 1):
            here = tl.where(sign > 0, last_block - m, first_block + m)
            spot = states + ((b * routes + k) * stored + here) * n_total * channels + n0 * channels + c
            h = ()
            for _n in tl.static_range(N):
                h += (tl.load(spot, mask=live, other=0.0),)
                spot += channels
            origin = here * T + tl.where(sign > 0, 0, T - 1)
            row = first_row(origin, step, length, table, ORDER)
            xs = ()
            dts = ()
            hs = (h,)
            far = ()
            for t in tl.static_range(T):
                position = origin + sign * t
                at_row = row.to(INDEX)
                x = tl.load(u_k + at_row * su_l, mask=live, other=0.0).to(tl.float32)
                dt = tl.load(d_k + at_row * sd_l, mask=live, other=0.0).to(tl.float32) + shift
                if SOFTPLUS:
                    dt = softplus(dt)
                if not EVEN_L:
                    dt = tl.where(position < length, dt, 0.0)
                dx = dt * x
                Bt = load_states(B_k + at_row * sB_l, sB_n, N, PACK)
                following = ()
                for n in tl.static_range(N):
                    following += (tl.exp2(dt * a[n]) * hs[t][n] + dx * Bt[n],)
                hs += (following,)
                xs += (x,)
                dts += (dt,)
                far += (at_row,)
                row = next_row(row, position, step, length, sign, table, ORDER)

            for t in tl.static_range(T - 1, -1, -1):
                position = origin + sign * t
                at_row = far[t]
                if ORDER == 'raster':  # the same, without keeping it
                    at_row = first_row(position, step, length, table, ORDER).to(INDEX)
                keep = live
                if not EVEN_L:
                    keep = live & (position < length)
                dt = dts[t]
                x = xs[t]
                dx = dt * x
                dy = tl.load(g_b + at_row * sg_l, mask=keep, other=0.0).to(tl.float32)
                Bt = load_states(B_k + at_row * sB_l, sB_n, N, PACK)
                Ct = load_states(C_k + at_row * sC_l, sC_n, N, PACK)
                if z is not None:
                    y = skip * x
                    for n in tl.static_range(N):
                        y += Ct[n] * hs[t + 1][n]
                    gate = tl.load(z_b + at_row * sz_l, mask=live, other=0.0).to(tl.float32)
                    open_ = sigmoid(gate)
                    dgate = dy * y * open_ * (1.0 + gate * (1.0 - open_))
                    accumulate(dz_b, dz_acc_b, at_row * channels, dgate, keep, more_all, final_all)
                    dy = dy * gate * open_
                again = dt * one
                inner = tl.full([BLOCK], 0.0, tl.float32)
                slope = tl.full([BLOCK], 0.0, tl.float32)
                before = ()
                dAs = ()
                sums = ()
                for n in tl.static_range(N):
                    en = dy * Ct[n] + e[n]
                    inner += en * Bt[n]
                    sums += (exchange(fold(en * dx, BLOCK), fold(dy * hs[t + 1][n], BLOCK), lane, SUMS),)
                    back = tl.exp2(again * a[n]) * en
                    pull = back * hs[t][n]
                    slope += pull * a[n]
                    dAs += (dA[n] + pull * dt,)
                    before += (back,)
                e = before
                dA = dAs
                grad_u = skip * dy + dt * inner
                grad_d = x * inner + slope * LN2
                if SOFTPLUS:
                    grad_d = grad_d * softplus_slope(dt)
                if not EVEN_L:
                    grad_d = tl.where(position < length, grad_d, 0.0)
                dD += dy * x
                dbias += grad_d
                accumulate(du_b, du_acc_b, at_row * channels, grad_u, keep, more_u, final_u)
                accumulate(ddelta_b, ddelta_acc_b, at_row * channels, grad_d, keep, more_turns != 0, final_turn != 0)

                for _n in tl.static_range(SUMS - N):
                    sums += (tl.full([32], 0.0, tl.float32),)
                total = sum_lanes(sums, lane, SUMS)
                to = ((b * routes + k) * length + at_row) * blocks + block
                told = (tl.full([32], 1, tl.int1) & (lane < 2 * SUMS)) & (lane % SUMS < N)
                if not EVEN_L:
                    told = told & (position < length)
                tl.store(partial_bc + to * (2 * N) + lane // SUMS * N + lane % SUMS, total, mask=told)
        if end is not None:
            spot = end + at + n0 * ss_n + c * ss_d
            for n in tl.static_range(N):
                tl.store(spot, e[n], mask=live)
                spot += ss_n
        to = partial + ((b * chunks + j) * routes + k) * (N + 2) * channels + c
        for n in tl.static_range(N):
            tl.store(to, dA[n], mask=live)
            to += channels
        tl.store(to, dD, mask=live)
        tl.store(to + channels, dbias, mask=live)


def route_scan_bwd(
    grad_out: Tensor,
    grad_last_state: Tensor | None,
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
    states: Tensor | None = None,
    *,
    how: Plan | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of `route_scan_fwd` with respect to u, delta, A, B, C, D, z, delta_bias and initial_state, in order.

    None stands where an argument was None. states are those the forward saved; without them they are computed again.
    """
    s = Shape(u.shape[0], A.shape[0], B.shape[2], u.shape[-2], u.shape[-1], A.shape[-1])
    inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if s.b * s.l == 0:
        grads = [None if t is None else torch.zeros_like(t) for t in inputs]
        if initial_state is not None and grad_last_state is not None:
            grads[-1] += grad_last_state
        return tuple(grads)
    how = how or plan(s, backward=True)
    if states is None:
        forward = replace(plan(s, backward=False), steps=how.steps)
        states = route_scan_fwd(*inputs, delta_softplus, routes, save_states=True, output=False, how=forward)[2]
    A, D, delta_bias = (None if t is None else t.float().contiguous() for t in (A, D, delta_bias))
    turns = state_blocks(s.n)
    chunk = triton.cdiv(triton.cdiv(s.l, how.chunks), how.steps) * how.steps
    chunks = triton.cdiv(s.l, chunk)
    blocks = s.blocks(how.block)
    shared = u.ndim == 3

    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device=u.device)

    def output(like, *shape, turns_only=False):
        """A gradient in token order and, where several launches or routes add to it, its float32 sums."""
        grad = empty(*shape, s.l, s.d, dtype=like.dtype)
        once = len(turns) == 1 and (turns_only or s.k == 1)
        return grad, None if once else grad if grad.dtype == torch.float32 else empty(*shape, s.l, s.d)

    du, du_acc = output(u, s.b) if shared else output(u, s.b, s.k, turns_only=True)
    ddelta, ddelta_acc = output(delta, s.b, s.k, turns_only=True)
    dz, dz_acc = (None, None) if z is None else output(z, s.b)
    dB, dC = (empty(s.b, s.k, s.l, s.groups, s.n, dtype=t.dtype) for t in (B, C))
    dA = empty(s.k, s.n, s.d)
    dD, dbias = 0, 0
    common = dict(
        INDEX=index_type(s, u, delta, B, C, z, grad_out), BLOCK=how.block, T=how.steps, ORDER=routes.order,
        SOFTPLUS=delta_softplus, EVEN_D=s.d // s.groups % how.block == 0, EVEN_L=chunk * chunks == s.l,
        num_warps=1, **OPTIONS,
    )  # fmt: skip
    z_strides = (0, 0, 0) if z is None else z.stride()

    with torch.cuda.device_of(u):
        if chunks == 1:
            groups = [(0, 1, s.k)]
            start = None if grad_last_state is None else grad_last_state.float().contiguous()
            dinitial = end = empty(s.b, s.k, s.d, s.n)
        else:
            groups = routes.groups()
            ends, decay = empty(s.b, s.k, chunks, s.n, s.d), empty(s.b, s.k, chunks, s.d)
            for n0, n in turns:
                adjoint_kernel[(s.b * blocks * chunks * s.k,)](
                    delta, A, C, z, delta_bias, routes.table, grad_out, ends, decay,
                    s.b, s.k, s.d, s.groups, s.l, s.n, n0, chunk, chunks, routes.codes, routes.width,
                    *delta.stride(), *C.stride(), *z_strides, *grad_out.stride(),
                    N=n, PACK=pack(n, C[..., n0:, :]), **common,
                )  # fmt: skip
            first = None if grad_last_state is None else grad_last_state.float().contiguous()
            start, dinitial = carry(A, ends, decay, first, routes.codes, True)
            end = None
        for n0, n in turns:
            partial = empty(s.b * chunks, s.k, n + 2, s.d)
            partial_bc = empty(s.b * s.k * s.l, blocks, 2 * n)
            for group in groups:
                last_turn = n0 + n == s.n
                scan_backward_kernel[(s.b * blocks * chunks,)](
                    u, delta, A, B, C, D if n0 == 0 else None, z, delta_bias, routes.table, states, grad_out,
                    start, end, du, du_acc, ddelta, ddelta_acc, dz, dz_acc, partial, partial_bc,
                    s.b, s.k, s.d, s.groups, s.l, s.n, n0, chunk, chunks, *group, routes.codes, routes.width,
                    *map(int, (n0 > 0 or group != groups[0], last_turn and group == groups[-1], n0 > 0, last_turn)),
                    *strides(u), *delta.stride(), *B.stride(), *C.stride(), *z_strides, *grad_out.stride(),
                    *((1, s.n) if chunks == 1 else (s.d, 1)),
                    N=n, SUMS=triton.next_power_of_2(n), PACK=pack(n, B[..., n0:, :], C[..., n0:, :]), SHARED=shared,
                    **common,
                )  # fmt: skip
            sums = partial.sum(0)
            dA[:, n0 : n0 + n] = sums[:, :n]
            dD, dbias = dD + sums[:, n] * (n0 == 0), dbias + sums[:, n + 1]
            tokens = s.b * s.k * s.l
            width = triton.next_power_of_2(2 * n)
            reduce_kernel[(triton.cdiv(tokens, 32) * s.groups,)](
                partial_bc, dB, dC, tokens, s.groups, blocks // s.groups, s.n, n0, N=n, WIDTH=width, ROWS=32, **OPTIONS
            )
    grads = (
        du.transpose(-1, -2), ddelta.transpose(-1, -2), dA.transpose(-1, -2), dB.permute(0, 1, 3, 4, 2),
        dC.permute(0, 1, 3, 4, 2), dD, None if z is None else dz.transpose(-1, -2), dbias, dinitial,
    )  # fmt: skip
    return tuple(None if t is None else grad.to(t.dtype) for grad, t in zip(grads, inputs))
