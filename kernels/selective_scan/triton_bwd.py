"""Selective scan on the GPU, backward: states recomputed in registers, sums in a fixed order (see NOTES.md)."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from .scan import Scan
from .triton_chunks import adjoint_kernel, carry, exchange, fold, halve, reduce_kernel
from .triton_common import (
    LN2,
    LOG2E,
    OPTIONS,
    PLAIN_INTS,
    Plan,
    argument,
    at_block,
    at_channels,
    at_step,
    block_start,
    deliver,
    falling,
    index_type,
    load_channels,
    load_states,
    locate,
    pack,
    plan,
    shape_of,
    sigmoid,
    so_far,
    state_blocks,
    step_size,
    step_slope,
    strides,
    token_at,
    tokens_of,
    walks_of,
    words,
)
from .triton_fwd import route_scan_fwd

__all__ = ['route_scan_bwd']


def registers(block: int, n: int, order: str, size: int) -> int:
    """Registers per thread: 168 allow three warps per scheduler and suffice for one 16-bit channel with n > 4."""
    return 168 if block == 32 and n > 4 and order == 'rows' and size == 2 else 255


@triton.jit(do_not_specialize=PLAIN_INTS)
def scan_backward_kernel(
    u, delta, A, B, C, D, z, bias, rows, states, gout, start, end,
    du, du_acc, ddelta, ddelta_acc, dz, dz_acc, partial, partial_bc,
    batch, routes, groups, length, n0, chunk, chunks, route, width, inverse,
    su_b, su_k, su_d, sd_b, sd_k, sd_d, sB_b, sB_k, sB_g, sB_n, sC_b, sC_k, sC_g, sC_n, sz_b, sz_d, sg_b, sg_d,
    ss_n, ss_d,
    more: tl.constexpr, final: tl.constexpr, more_turns: tl.constexpr, final_turn: tl.constexpr,
    su_l: tl.constexpr, sd_l: tl.constexpr, sB_l: tl.constexpr, sC_l: tl.constexpr, sz_l: tl.constexpr,
    sg_l: tl.constexpr, channels: tl.constexpr, n_total: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, HELD: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr,
    PACK: tl.constexpr, ORDER: tl.constexpr, SIGN: tl.constexpr, SOFTPLUS: tl.constexpr, SHARED: tl.constexpr,
    WORDS: tl.constexpr, EVEN_D: tl.constexpr, EVEN_L: tl.constexpr,
):  # fmt: skip
    """A program walks one chunk of one batch item backwards along a route, for BLOCK channels and N of their states.

    For every T steps it first recomputes the states from the stored one before them, HELD of N at a time, as many as
    fit in registers. With e_t the gradient of h_t:

        e_t = g_t C_t + a_{t+1} e_{t+1},   g_t = dout_t silu(z_t),   a_t = exp(d_t A)
        du_t = D g_t + d_t <e_t, B_t>,     dd_t = u_t <e_t, B_t> + <e_t a_t h_{t-1}, A>
        dB_t = sum_c e_t d_t u_t,          dC_t = sum_c g_t h_t,          dA = sum_t d_t e_t a_t h_{t-1}
    """
    b, j, g, c, pair, live = locate(batch, channels, groups, BLOCK, EVEN_D)
    blocks = groups * ((channels // groups + BLOCK - 1) // BLOCK)
    channel_block = tl.program_id(0).to(tl.int64) % blocks
    PER: tl.constexpr = 2 if WORDS else 1  # channels per pointer
    KEEP_DELTA: tl.constexpr = (32 if N > 4 else 64) >= BLOCK  # if registers suffice
    k = route.to(tl.int64)
    SUMS: tl.constexpr = (N + HELD - 1) // HELD * HELD  # sums of dB, and of dC, per token
    lane = tl.arange(0, 32)
    # index of the sum that a lane holds: dB or dC, then the state, then the step
    place = lane // (16 // (HELD * T))
    place_t, place_n, place_c = place % T, place // T % HELD, place // (T * HELD) % 2
    stored = (length + T - 1) // T
    first_block = j * (chunk // T)
    last_block = tl.minimum(first_block + chunk // T, stored) - 1
    item = b * length * channels + c
    item_k = (b * routes + k) * length * channels + c
    item_u = item_k
    more_u: tl.constexpr = more if SHARED else more_turns
    final_u: tl.constexpr = final if SHARED else final_turn
    if SHARED:
        item_u = item

    kd = k * channels + c
    at = ((b * routes + k) * chunks + j) * n_total * channels
    a_k = A + (k * n_total + n0) * channels + c
    e = ()
    dA = ()
    for n in tl.static_range(N):
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
        shift = tl.load(bias + kd, mask=live, other=0.0) * LOG2E
    dD = tl.full([BLOCK], 0.0, tl.float32)
    dbias = tl.full([BLOCK], 0.0, tl.float32)

    u_k = at_channels(u, b * su_b + k * su_k, c, pair, su_d, WORDS)
    d_k = at_channels(delta, b * sd_b + k * sd_k, c, pair, sd_d, WORDS)
    g_k = at_channels(gout, b * sg_b, c, pair, sg_d, WORDS)
    if z is not None:
        z_k = at_channels(z, b * sz_b, c, pair, sz_d, WORDS)
    B_k = B + b * sB_b + k * sB_k + g * sB_g
    C_k = C + b * sC_b + k * sC_k + g * sC_g
    for m in range(last_block - first_block + 1):
        block = first_block + m
        if SIGN > 0:
            block = last_block - m
        begin = block_start(block, length, T, SIGN)
        far = tokens_of(begin, rows, width, inverse, length, ORDER, T, SIGN)
        told = (lane < 32) & (lane % (16 // (HELD * T)) == 0)
        if not EVEN_L:
            told = told & (begin + SIGN * place_t >= block * T)
        to = (b * routes + k) * length + token_at(begin + SIGN * place_t, rows, width, inverse, length, ORDER)
        to_bc = partial_bc + (to * blocks + channel_block) * (2 * SUMS) + place_c * HELD + place_n

        u_m = at_block(u_k, begin, su_l // PER, ORDER, INDEX)
        d_m = at_block(d_k, begin, sd_l // PER, ORDER, INDEX)
        g_m = at_block(g_k, begin, sg_l // PER, ORDER, INDEX)
        B_m = at_block(B_k, begin, sB_l, ORDER, INDEX)
        C_m = at_block(C_k, begin, sC_l, ORDER, INDEX)
        if z is not None:
            z_m = at_block(z_k, begin, sz_l // PER, ORDER, INDEX)
            dz_m = at_block(dz + item, begin, channels, ORDER, INDEX)
            dz_acc_m = dz_acc
            if dz_acc is not None:
                dz_acc_m = at_block(dz_acc + item, begin, channels, ORDER, INDEX)
        xs = ()
        raw = ()
        dts = ()
        dys = ()
        slants = ()  # for dz = slant <C, h> + ...
        ys = ()
        inners = ()
        slopes = ()
        for t in tl.static_range(T):
            own = True
            if not EVEN_L:
                own = begin + SIGN * t >= block * T
            x = load_channels(at_step(u_m, far[t], t, su_l // PER, ORDER, SIGN, INDEX), live, True, 0.0)
            dt = load_channels(at_step(d_m, far[t], t, sd_l // PER, ORDER, SIGN, INDEX), live, own, float('-inf'))
            if KEEP_DELTA:
                raw += (argument(dt, shift),)
            dt = step_size(dt, shift, SOFTPLUS, delta.dtype.element_ty == tl.float32) * LN2
            dy = load_channels(at_step(g_m, far[t], t, sg_l // PER, ORDER, SIGN, INDEX), live, own, 0.0)
            if z is not None:
                gate = load_channels(at_step(z_m, far[t], t, sz_l // PER, ORDER, SIGN, INDEX), live, True, 0.0)
                open_ = sigmoid(gate * LOG2E)
                slant = dy * open_
                dy = slant * gate
                slants += (slant + dy - dy * open_,)
                ys += (skip * x,)
            xs += (x,)
            dts += (dt,)
            dys += (dy,)
            inners += (tl.full([BLOCK], 0.0, tl.float32),)
            slopes += (tl.full([BLOCK], 0.0, tl.float32),)

        next_e = ()
        next_dA = ()
        spot = states + ((b * routes + k) * stored + block) * n_total * channels + n0 * channels + c
        for q in tl.static_range(0, N, HELD):
            a = ()
            h = ()
            back = ()
            dAq = ()
            for n in tl.static_range(q, min(q + HELD, N)):
                a += (tl.load(a_k + n * channels, mask=live, other=0.0) * LOG2E,)
                h += (tl.load(spot + n * channels, mask=live, other=0.0),)
                back += (e[n],)
                dAq += (dA[n],)
            hs = (h,)
            decays = ()
            Bs = ()
            for t in tl.static_range(T):
                dx = dts[t] * xs[t]
                to_B = at_step(B_m, far[t], t, sB_l, ORDER, SIGN, INDEX) + q * sB_n
                Bt = load_states(to_B, sB_n, min(HELD, N - q), PACK)
                following = ()
                decay = ()
                for n in tl.static_range(min(HELD, N - q)):
                    decay += (tl.exp2(dts[t] * a[n]),)
                    following += (decay[n] * hs[t][n] + dx * Bt[n],)
                hs += (following,)
                decays += (decay,)
                Bs += (Bt,)
            sums = ()
            y_new = ()
            inner_new = ()
            slope_new = ()
            for t in tl.static_range(T - 1, -1, -1):
                dx = dts[t] * xs[t]
                dy = dys[t]
                Bt = Bs[t]
                to_C = at_step(C_m, far[t], t, sC_l, ORDER, SIGN, INDEX) + q * sC_n
                Ct = load_states(to_C, sC_n, min(HELD, N - q), PACK)
                if z is not None:
                    y = ys[t]
                    for n in tl.static_range(min(HELD, N - q)):
                        y += Ct[n] * hs[t + 1][n]
                    y_new = (y,) + y_new
                inner = inners[t]
                slope = slopes[t]
                before = ()
                dAs = ()
                of_bc = ()
                for n in tl.static_range(min(HELD, N - q)):
                    en = dy * Ct[n] + back[n]
                    inner += en * Bt[n]
                    of_bc += (exchange(fold(en * dx, BLOCK), fold(dy * hs[t + 1][n], BLOCK), lane, 16),)
                    pulled = decays[t][n] * en
                    pull = pulled * hs[t][n]
                    slope += pull * a[n]
                    dAs += (dAq[n] + pull * dts[t],)
                    before += (pulled,)
                for _n in tl.static_range(min(HELD, N - q), HELD):
                    of_bc += (tl.full([32], 0.0, tl.float32),)
                back = before
                dAq = dAs
                sums = (halve(of_bc, lane, 8, HELD),) + sums
                inner_new = (inner,) + inner_new
                slope_new = (slope,) + slope_new
            ys = y_new
            inners = inner_new
            slopes = slope_new
            next_e += back
            next_dA += dAq
            total = halve(sums, lane, 8 // HELD, T)
            for s in tl.static_range(4):
                if (1 << s) < 16 // (HELD * T):
                    total += tl.gather(total, lane ^ (1 << s), 0)
            in_turn = told & (place_n + q < N)
            tl.store(to_bc + 2 * q, total, mask=in_turn)
        e = next_e
        dA = next_dA

        du_m = at_block(du + item_u, begin, channels, ORDER, INDEX)
        du_acc_m = du_acc
        if du_acc is not None:
            du_acc_m = at_block(du_acc + item_u, begin, channels, ORDER, INDEX)
        ddelta_m = at_block(ddelta + item_k, begin, channels, ORDER, INDEX)
        ddelta_acc_m = ddelta_acc
        if ddelta_acc is not None:
            ddelta_acc_m = at_block(ddelta_acc + item_k, begin, channels, ORDER, INDEX)
        for t in tl.static_range(T):
            own = True
            if not EVEN_L:  # computed again from other numbers: keeping the predicate would spill registers
                own = block * T <= length - T + (t if SIGN > 0 else T - 1 - t)
            keep = live & own
            x = xs[t]
            dt = dts[t]
            dy = dys[t]
            if z is not None:
                to_acc = dz_acc_m
                if dz_acc is not None:
                    to_acc = at_step(dz_acc_m, far[t], t, channels, ORDER, SIGN, INDEX)
                grad_z = slants[t] * ys[t] + so_far(to_acc, live, more)
                deliver(at_step(dz_m, far[t], t, channels, ORDER, SIGN, INDEX), to_acc, grad_z, keep, final)
            to_acc = du_acc_m
            if du_acc is not None:
                to_acc = at_step(du_acc_m, far[t], t, channels, ORDER, SIGN, INDEX)
            grad_u = skip * dy + so_far(to_acc, live, more_u) + dt * inners[t]
            deliver(at_step(du_m, far[t], t, channels, ORDER, SIGN, INDEX), to_acc, grad_u, keep, final_u)
            grad_d = x * inners[t] + slopes[t] * LN2
            if KEEP_DELTA:
                arg = raw[t]
            else:  # recomputed: there is no register to keep it
                arg = argument(
                    load_channels(at_step(d_m, far[t], t, sd_l // PER, ORDER, SIGN, INDEX), live, own, float('-inf')),
                    shift,
                )
            grad_d = grad_d * step_slope(arg, SOFTPLUS)
            dD += dy * x
            dbias += grad_d
            to_acc = ddelta_acc_m
            if ddelta_acc is not None:
                to_acc = at_step(ddelta_acc_m, far[t], t, channels, ORDER, SIGN, INDEX)
            grad_d += so_far(to_acc, live, more_turns)
            deliver(at_step(ddelta_m, far[t], t, channels, ORDER, SIGN, INDEX), to_acc, grad_d, keep, final_turn)
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
    scan: Scan,
    states: Tensor | None = None,
    *,
    how: Plan | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors of the scan, u to initial_state; None for those that are None.

    ``states`` are those that `route_scan_fwd` saved; without them they are computed again.
    """
    s, inputs = shape_of(scan), scan[:9]
    u, delta, A, B, C, D, z, delta_bias, initial_state = inputs
    if s.b * s.l == 0:
        grads = [None if t is None else torch.zeros_like(t) for t in inputs]
        if initial_state is not None and grad_last_state is not None:
            grads[-1] += grad_last_state
        return tuple(grads)
    how = how or plan(s, backward=True, pairs=u.element_size() == 2)
    if states is None:
        forward = replace(plan(s, backward=False), steps=how.steps)
        states = route_scan_fwd(scan, save_states=True, output=False, how=forward)[2]
    A = A.float().transpose(1, 2).contiguous()  # channels adjacent
    D, delta_bias = (None if t is None else t.float().contiguous() for t in (D, delta_bias))
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
        channels=s.d, n_total=s.n, INDEX=index_type(s, u, delta, B, C, z, grad_out), BLOCK=how.block, T=how.steps,
        SOFTPLUS=scan.softplus, WORDS=words(s, how.block, u, delta, z, grad_out),
        EVEN_D=s.d // s.groups % how.block == 0, EVEN_L=s.l % how.steps == 0,
        num_warps=1, **OPTIONS,
    )  # fmt: skip
    tokenwise = dict(u=u, d=delta, B=B, C=C, z=z, g=grad_out)
    steps = {f's{name}_l': 0 if t is None else t.stride(-1) for name, t in tokenwise.items()}
    z_strides = (0, 0) if z is None else z.stride()[:-1]
    walks = walks_of(scan.steps, scan.rows, s.l, u.device)
    gouts = grad_out.unbind(1) if scan.each else [grad_out] * s.k  # one for each route
    gout_strides = gouts[0].stride()[:-1]

    with torch.cuda.device_of(u):
        if chunks == 1:
            start = None if grad_last_state is None else grad_last_state.float().contiguous()
            dinitial = end = empty(s.b, s.k, s.d, s.n)
        else:
            ends, decay = empty(s.b, s.k, chunks, s.n, s.d), empty(s.b, s.k, chunks, s.d)
            for k, (n0, n) in product(range(s.k), turns):
                adjoint_kernel[(s.b * blocks * chunks,)](
                    delta, A, C[..., n0:, :], z, delta_bias, walks[k].rows, gouts[k], ends, decay,
                    s.b, s.k, s.groups, s.l, n0, chunk, chunks, k, walks[k].width, walks[k].inverse,
                    *delta.stride()[:-1], *C.stride()[:-1], *z_strides, *gout_strides,
                    N=n, PACK=pack(n, C[..., n0:, :]), ORDER=walks[k].order, SIGN=-walks[k].sign,
                    **{name: steps[name] for name in ('sd_l', 'sC_l', 'sz_l', 'sg_l')}, **common,
                )  # fmt: skip
            first = None if grad_last_state is None else grad_last_state.float().contiguous()
            start, dinitial = carry(A, ends, decay, first, falling(walks), True)
            end = None
        for n0, n in turns:
            held = min(16 // how.steps, triton.next_power_of_2(n))
            sums = triton.cdiv(n, held) * held
            partial = empty(s.b * chunks, s.k, n + 2, s.d)
            partial_bc = empty(s.b * s.k * s.l, blocks, 2 * sums)
            together = pack(n, B[..., n0:, :], C[..., n0:, :])
            last_turn = n0 + n == s.n
            for k, walk in enumerate(walks):
                scan_backward_kernel[(s.b * blocks * chunks,)](
                    u, delta, A, B[..., n0:, :], C[..., n0:, :], D if n0 == 0 else None, z, delta_bias,
                    walk.rows, states, gouts[k],
                    start, end, du, du_acc, ddelta, ddelta_acc, dz, dz_acc, partial, partial_bc,
                    s.b, s.k, s.groups, s.l, n0, chunk, chunks, k, walk.width, walk.inverse,
                    *strides(u)[:-1], *delta.stride()[:-1], *B.stride()[:-1], *C.stride()[:-1], *z_strides,
                    *gout_strides, *((1, s.n) if chunks == 1 else (s.d, 1)),
                    n0 > 0 or k > 0, last_turn and k == s.k - 1, n0 > 0, last_turn,
                    N=n, HELD=held, PACK=together if held % together == 0 else 1, SHARED=shared,
                    ORDER=walk.order, SIGN=walk.sign, **steps, **common,
                    maxnreg=registers(how.block, s.n, walk.order, u.element_size()),
                )  # fmt: skip
            totals = partial.sum(0)
            dA[:, n0 : n0 + n] = totals[:, :n]
            dD, dbias = dD + totals[:, n] * (n0 == 0), dbias + totals[:, n + 1]
            tokens = s.b * s.k * s.l
            reduce_kernel[(triton.cdiv(tokens, 32) * s.groups,)](
                partial_bc, dB, dC, tokens, s.groups, blocks // s.groups, s.n, n0, N=n, SUMS=sums, HELD=held,
                WIDTH=triton.next_power_of_2(2 * sums), ROWS=32, **OPTIONS,
            )  # fmt: skip
    grads = (
        du.transpose(-1, -2), ddelta.transpose(-1, -2), dA.transpose(-1, -2), dB.permute(0, 1, 3, 4, 2),
        dC.permute(0, 1, 3, 4, 2), dD, None if z is None else dz.transpose(-1, -2), dbias, dinitial,
    )  # fmt: skip
    return tuple(None if t is None else grad.to(t.dtype) for grad, t in zip(grads, inputs))
