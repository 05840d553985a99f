"""Selective scan on the GPU, forward: one kernel, serial along the route, its state in registers (see NOTES.md)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .scan import Scan, empty_output
from .triton_chunks import carry
from .triton_common import (
    LN2,
    LOG2E,
    OPTIONS,
    PLAIN_INTS,
    Plan,
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
    scale,
    shape_of,
    sigmoid,
    so_far,
    state_blocks,
    step_size,
    strides,
    tokens_of,
    walks_of,
    words,
)

__all__ = ['route_scan_fwd']

REGISTERS = 168  # per thread: three warps per scheduler; by default the compiler spills to fit four


@triton.jit(do_not_specialize=PLAIN_INTS)
def scan_kernel(
    u, delta, A, B, C, D, z, bias, rows, start, out, acc, states, end, decay,
    batch, routes, groups, length, n0, chunk, chunks, route, width, inverse,
    su_b, su_k, su_d, sd_b, sd_k, sd_d, sB_b, sB_k, sB_g, sB_n, sC_b, sC_k, sC_g, sC_n, sz_b, sz_d, ss_n, ss_d,
    more: tl.constexpr, final: tl.constexpr,
    su_l: tl.constexpr, sd_l: tl.constexpr, sB_l: tl.constexpr, sC_l: tl.constexpr, sz_l: tl.constexpr,
    channels: tl.constexpr, n_total: tl.constexpr,
    INDEX: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, T: tl.constexpr, PACK: tl.constexpr,
    ORDER: tl.constexpr, SIGN: tl.constexpr, SOFTPLUS: tl.constexpr, WORDS: tl.constexpr,
    EVEN_D: tl.constexpr, EVEN_L: tl.constexpr,
):  # fmt: skip
    """A program scans one chunk of one batch item along a route for BLOCK channels and N of their states.

    Without out it stores only the states at the end of its chunk and, in decay, the sum of its step sizes.
    """
    b, j, g, c, pair, live = locate(batch, channels, groups, BLOCK, EVEN_D)
    PER: tl.constexpr = 2 if WORDS else 1  # channels per pointer
    k = route.to(tl.int64)
    stored = (length + T - 1) // T
    first_block = j * (chunk // T)
    last_block = tl.minimum(first_block + chunk // T, stored) - 1
    kd = k * channels + c
    at = ((b * routes + k) * chunks + j) * n_total * channels
    a = ()
    h = ()
    for n in tl.static_range(N):
        a += (tl.load(A + (k * n_total + n0 + n) * channels + c, mask=live, other=0.0),)
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
        shift = tl.load(bias + kd, mask=live, other=0.0) * LOG2E
    total = tl.full([BLOCK], 0.0, tl.float32)

    u_k = at_channels(u, b * su_b + k * su_k, c, pair, su_d, WORDS)
    d_k = at_channels(delta, b * sd_b + k * sd_k, c, pair, sd_d, WORDS)
    if z is not None:
        z_k = at_channels(z, b * sz_b, c, pair, sz_d, WORDS)
    B_k = B + b * sB_b + k * sB_k + g * sB_g
    C_k = C + b * sC_b + k * sC_k + g * sC_g
    if out is not None:
        out_b = out + b * length * channels + c
        if acc is not None:
            acc_b = acc + b * length * channels + c
    for m in range(last_block - first_block + 1):
        block = first_block + m
        if SIGN < 0:
            block = last_block - m
        if states is not None:
            spot = states + ((b * routes + k) * stored + block) * n_total * channels + n0 * channels + c
            for n in tl.static_range(N):
                tl.store(spot + n * channels, h[n], mask=live)
        begin = block_start(block, length, T, SIGN)
        tokens = tokens_of(begin, rows, width, inverse, length, ORDER, T, SIGN)
        u_m = at_block(u_k, begin, su_l // PER, ORDER, INDEX)
        d_m = at_block(d_k, begin, sd_l // PER, ORDER, INDEX)
        B_m = at_block(B_k, begin, sB_l, ORDER, INDEX)
        C_m = at_block(C_k, begin, sC_l, ORDER, INDEX)
        if z is not None:
            z_m = at_block(z_k, begin, sz_l // PER, ORDER, INDEX)
        if out is not None:
            out_m = at_block(out_b, begin, channels, ORDER, INDEX)
            acc_m = acc
            if acc is not None:
                acc_m = at_block(acc_b, begin, channels, ORDER, INDEX)
        for t in tl.static_range(T):
            row = tokens[t]
            own = True
            if not EVEN_L:
                own = begin + SIGN * t >= block * T
            keep = live & own
            x = load_channels(at_step(u_m, row, t, su_l // PER, ORDER, SIGN, INDEX), live, True, 0.0)
            dt = step_size(
                load_channels(at_step(d_m, row, t, sd_l // PER, ORDER, SIGN, INDEX), live, own, float('-inf')),
                shift,
                SOFTPLUS,
                delta.dtype.element_ty == tl.float32,
            )
            dx = dt * x
            Bt = load_states(at_step(B_m, row, t, sB_l, ORDER, SIGN, INDEX), sB_n, N, PACK)
            if N > 4:  # to natural units: scales the channels or the states, whichever are fewer
                dx *= LN2
            else:
                Bt = scale(Bt, LN2)
            if out is not None:
                Ct = load_states(at_step(C_m, row, t, sC_l, ORDER, SIGN, INDEX), sC_n, N, PACK)
                to_acc = acc_m
                if acc is not None:
                    to_acc = at_step(acc_m, row, t, channels, ORDER, SIGN, INDEX)
                y = skip * x
                if z is None:
                    y += so_far(to_acc, live, more)
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
                    gate = load_channels(at_step(z_m, row, t, sz_l // PER, ORDER, SIGN, INDEX), live, True, 0.0)
                    y = y * gate * sigmoid(gate * LOG2E) + so_far(to_acc, live, more)
                deliver(at_step(out_m, row, t, channels, ORDER, SIGN, INDEX), to_acc, y, keep, final)
    if end is not None:
        for n in tl.static_range(N):
            tl.store(end + at + (n0 + n) * ss_n + c * ss_d, h[n], mask=live)
    if decay is not None:
        tl.store(decay + ((b * routes + k) * chunks + j) * channels + c, total, mask=live)


def route_scan_fwd(
    scan: Scan, *, save_states: bool = False, output: bool = True, how: Plan | None = None
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Computes a scan with one kernel launch for each route. Nothing is copied into scan order.

    Args:
        scan: the arguments.
        save_states: also return the states that `route_scan_bwd` starts from.
        output: False leaves out the output (None), when only states are wanted.
        how: the layout; by default from the sizes alone.

    Returns:
        out, laid out as `empty_output`; last state (b, k, d, n), float32; states (b, k, blocks of steps, n, d) or None.
    """
    u, delta, A, B, C, D, z, delta_bias, initial_state = scan[:9]
    s, each = shape_of(scan), scan.each
    how = how or plan(s, backward=False)
    blocks = triton.cdiv(s.l, how.steps)

    def empty(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device=u.device)

    out = empty_output(scan, u.dtype) if output else None
    if s.b * s.l == 0:
        zeros = u.new_zeros(s.b, s.k, s.d, s.n, dtype=torch.float32)
        return (
            out,
            zeros if initial_state is None else zeros + initial_state,
            u.new_empty(s.b, s.k, blocks, s.n, s.d, dtype=torch.float32) if save_states else None,
        )
    A = A.float().transpose(1, 2).contiguous()  # channels adjacent
    D, delta_bias = (None if t is None else t.float().contiguous() for t in (D, delta_bias))
    start = None if initial_state is None else initial_state.float().contiguous()
    turns = state_blocks(s.n)
    chunk = triton.cdiv(triton.cdiv(s.l, how.chunks), how.steps) * how.steps
    chunks = triton.cdiv(s.l, chunk)
    several = len(turns) > 1 or (s.k > 1 and not each)  # launches that add to one output
    acc = empty(s.b, s.l, s.d) if output and several and u.dtype != torch.float32 else None
    states = empty(s.b, s.k, blocks, s.n, s.d) if save_states else None

    walks = walks_of(scan.steps, scan.rows, s.l, u.device)

    def launch(k, turn, start, end, decay, out, states):
        n0, n = turn
        walk, single = walks[k], chunks == 1
        total = None if out is None or not several else out if acc is None else acc
        scan_kernel[(s.b * s.blocks(how.block) * chunks,)](
            u, delta, A, B[..., n0:, :], C[..., n0:, :], D if n0 == 0 else None, z, delta_bias, walk.rows,
            start, out, total, states, end, decay,
            s.b, s.k, s.groups, s.l, n0, chunk, chunks, k, walk.width, walk.inverse,
            *strides(u)[:-1], *delta.stride()[:-1], *B.stride()[:-1], *C.stride()[:-1],
            *((0, 0) if z is None else z.stride()[:-1]), *((1, s.n) if single else (s.d, 1)),
            n0 > 0 or (k > 0 and not each), n0 + n == s.n and (k == s.k - 1 or each),
            u.stride(-1), delta.stride(-1), B.stride(-1), C.stride(-1), 0 if z is None else z.stride(-1), s.d, s.n,
            INDEX=index_type(s, u, delta, B, C, z), N=n, BLOCK=how.block, T=how.steps,
            PACK=pack(n, B[..., n0:, :], C[..., n0:, :]), ORDER=walk.order, SIGN=walk.sign, SOFTPLUS=scan.softplus,
            WORDS=words(s, how.block, u, delta, z),
            EVEN_D=s.d // s.groups % how.block == 0, EVEN_L=s.l % how.steps == 0, num_warps=1,
            maxnreg=REGISTERS, **OPTIONS,
        )  # fmt: skip

    launches = [(k, turn) for k in range(s.k) for turn in turns]
    with torch.cuda.device_of(u):
        if chunks == 1:
            last = end = empty(s.b, s.k, s.d, s.n)
        else:
            ends, decay = empty(s.b, s.k, chunks, s.n, s.d), empty(s.b, s.k, chunks, s.d)
            for k, turn in launches:
                launch(k, turn, None, ends, decay, None, None)
            start, last = carry(A, ends, decay, start, falling(walks), False)
            end = None
        if output or save_states or chunks == 1:
            for k, turn in launches:
                launch(k, turn, start, end, None, out[:, k] if each and output else out, states)
    return out, last, states
