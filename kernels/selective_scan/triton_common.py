"""Shared by the forward and backward kernels: routes, launch sizes, softplus, loads of B and C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vimamba.kernels.routes import route_rows

from .scan import Scan

OPTIONS = {'enable_fp_fusion': True}  # a * h + b as one FMA; explicit because Triton 3.10 changes its default
WARPS = 1536  # about three for each of the 528 schedulers of an H200
# not specialised: these sizes differ from call to call
PLAIN_INTS = ['batch', 'chunks', 'codes', 'groups', 'inverse', 'n0', 'route', 'routes', 'width']
STEPS = 4  # between two stored states, limited by the registers of the backward pass
STATES = 16  # states in registers at a time; a larger d_state takes several launches

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def softplus(x, EXACT: tl.constexpr):
    """log2(1 + 2^x) = max(x, 0) + log2(1 + w) with w = 2^-|x|.

    log2(1 + w) / w on [0, 1] is a polynomial, so that small w keeps its digits, which log2(1 + w) has lost (lg2.approx
    may be off by 2^-22 there, 2 % of a step size of 1e-5). The relative error of the polynomial bounds that of the step
    size, whatever x is: degree 7, 3.3e-7 in float32, if EXACT; degree 6, 1.4e-6, for 16-bit deltas. A step size acts
    through d_t B_t u_t, where u and B are rounded by up to 2^-12 (float16) or 2^-9 (bfloat16), 170 and 1400 times more,
    and through exp(d_t A), which it moves by less than half of its own relative error.
    """
    w = tl.exp2(-tl.abs(x))
    if EXACT:
        p = w * -0.0123194763 + 0.0636079013
        p = p * w - 0.155351877
        p = p * w + 0.256009728
        p = p * w - 0.353394836
        p = p * w + 0.480063707
        p = p * w - 0.721310079
        p = p * w + 1.44269478
    else:
        p = w * 0.0204011835 - 0.0957975462
        p = p * w + 0.215284541
        p = p * w - 0.339089036
        p = p * w + 0.477668375
        p = p * w - 0.721159458
        p = p * w + 1.44269323
    return tl.maximum(x, 0.0) + p * w


@triton.jit
def sigmoid(x):
    """1 / (1 + 2^-x) by the inverse square root, squared: a division takes three instructions more."""
    root = tl.rsqrt(1.0 + tl.exp2(-x))
    return root * root


@triton.jit
def at_channels(ptr, offset, c, pair, stride, WORDS: tl.constexpr):
    """Pointers to the channels of a row; with WORDS, to pairs of channels as 32-bit words."""
    if WORDS:
        ptr = ptr.to(tl.pointer_type(tl.int32)) + offset // 2 + pair
    else:
        ptr += offset + c.to(tl.int64) * stride
    return ptr


@triton.jit
def load_channels(ptr, live, own, other: tl.constexpr):
    """Loads a row in float32, ``other`` where not ``own``. A shift and a mask split words of bfloat16."""
    if ptr.dtype.element_ty == tl.int32:
        word = tl.load(ptr, mask=own, other=-8323200 if other < 0 else 0)  # twice -inf
        pair = tl.join((word << 16).to(tl.float32, bitcast=True), (word & -65536).to(tl.float32, bitcast=True))
        value = tl.reshape(pair, [2 * word.shape[0]])
    else:
        value = tl.load(ptr, mask=live & own, other=other).to(tl.float32)
    return value


@triton.jit
def argument(delta, shift):
    """log2(e) (delta + bias), the argument of softplus in base 2. shift is log2(e) bias."""
    return delta * LOG2E + shift


@triton.jit
def step_size(delta, shift, SOFTPLUS: tl.constexpr, EXACT: tl.constexpr):
    """log2(e) d_t from delta. Steps of other blocks are loaded as -inf, which gives 0."""
    x = argument(delta, shift)
    if SOFTPLUS:
        dt = softplus(x, EXACT)
    else:
        dt = tl.where(x == float('-inf'), 0.0, x)
    return dt


@triton.jit
def step_slope(argument, SOFTPLUS: tl.constexpr):
    """Derivative of `step_size`; 0 for steps of other blocks."""
    if SOFTPLUS:
        slope = sigmoid(argument)
    else:
        slope = tl.where(argument == float('-inf'), 0.0, 1.0)
    return slope


@triton.jit
def block_start(block, length, T: tl.constexpr, SIGN: tl.constexpr):
    """Position of the first step of a block, walked forwards or (SIGN -1) backwards.

    The last block is moved back to end at the last position. Its steps before block * T belong to another block.
    """
    position = tl.minimum(block * T, length - T)
    if SIGN < 0:
        position += T - 1
    return position


@triton.jit
def token_at(position, rows, width, inverse, length, ORDER: tl.constexpr):
    """Token at a position of a route: in memory order, down the columns of a grid, or by a table.

    inverse is 2^32 / height, rounded up, so that position // height is a product (exact: see `_walk`).
    """
    if ORDER == 'columns':
        token = position * width + tl.umulhi(position, inverse) * (1 - length)
    elif ORDER == 'table':
        token = tl.load(rows + position)
    else:
        token = position
    return token


@triton.jit
def tokens_of(start, rows, width, inverse, length, ORDER: tl.constexpr, T: tl.constexpr, SIGN: tl.constexpr):
    """Tokens of the T steps of a block that starts at a position."""
    tokens = ()
    for t in tl.static_range(T):
        tokens += (token_at(start + SIGN * t, rows, width, inverse, length, ORDER),)
    return tokens


@triton.jit
def at_block(ptr, start, stride: tl.constexpr, ORDER: tl.constexpr, INDEX: tl.constexpr):
    """Base pointer of `at_step`: the first token of a block, if the others lie at constant distances."""
    if ORDER == 'rows':
        ptr += start.to(INDEX) * stride
    return ptr


@triton.jit
def at_step(
    ptr, token, t: tl.constexpr, stride: tl.constexpr, ORDER: tl.constexpr, SIGN: tl.constexpr, INDEX: tl.constexpr
):
    """Pointer to step t of a block: at a constant offset, or at its token."""
    if ORDER == 'rows':
        ptr += SIGN * t * stride
    else:
        ptr += token.to(tl.int64) * stride
    return ptr


@triton.jit
def load_states(ptr, stride_n, N: tl.constexpr, PACK: tl.constexpr):
    """Loads N scalars of a row of B or C as a tuple, in float32; PACK adjacent ones per 64-bit word."""
    values = ()
    if PACK == 1:
        for n in tl.static_range(N):
            values += (tl.load(ptr + tl.full((), n, tl.int64) * stride_n).to(tl.float32),)
    else:
        dtype: tl.constexpr = ptr.dtype.element_ty
        words = ptr.to(tl.pointer_type(tl.int64))
        for w in tl.static_range(N // PACK):
            word = tl.load(words + w)
            for half in tl.static_range(2):
                part = (word >> (32 * half)).to(tl.int32)
                if dtype == tl.float32:
                    values += (part.to(tl.float32, bitcast=True),)
                elif dtype == tl.bfloat16:
                    values += ((part << 16).to(tl.float32, bitcast=True),)
                    values += ((part & -65536).to(tl.float32, bitcast=True),)
                else:
                    values += (part.to(tl.int16).to(dtype, bitcast=True).to(tl.float32),)
                    values += ((part >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32),)
    return values


@triton.jit
def scale(values, factor: tl.constexpr):
    scaled = ()
    for n in tl.static_range(len(values)):
        scaled += (values[n] * factor,)
    return scaled


@triton.jit
def locate(batch, channels, groups, BLOCK: tl.constexpr, EVEN_D: tl.constexpr):
    """Batch item, chunk, group, channels of this program and pairs of them; live masks channels past the group."""
    per_group = channels // groups
    blocks = (per_group + BLOCK - 1) // BLOCK
    pid = tl.program_id(0).to(tl.int64)
    block = (pid % blocks).to(tl.int32)
    within = block * BLOCK + tl.arange(0, BLOCK)
    pid = pid // blocks
    g = pid % groups
    pid = pid // groups
    b = pid % batch
    j = (pid // batch).to(tl.int32)
    live = tl.full([BLOCK], 1, tl.int1)
    pair = (g.to(tl.int32) * blocks + block) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    if EVEN_D:  # the same channels; the compiler sees a multiple of BLOCK and loads neighbours at once
        c = (g.to(tl.int32) * blocks) * BLOCK + within
    else:
        c = g.to(tl.int32) * per_group + within
        live = live & (within < per_group)
    return b, j, g, c, pair, live


@triton.jit
def so_far(acc, live, more: tl.constexpr):
    """The sum of the launches before, if there are ``more``: the first addend, so that the others are FMAs.

    The same thread always sums a channel of a token, one route after the other: no atomics, and a fixed order.
    """
    value = 0.0
    if acc is not None and more:
        value = tl.load(acc, mask=live, other=0.0)
    return value


@triton.jit
def deliver(out, acc, value, keep, final: tl.constexpr):
    """Stores a value or, if later launches add to it (not ``final``), the float32 sum in acc."""
    if acc is None or final:
        tl.store(out, value.to(out.dtype.element_ty), mask=keep)
    else:
        tl.store(acc, value, mask=keep)


class Walk(NamedTuple):
    """One route: order ('rows', 'columns' or 'table'), direction (1 or -1), and the arguments of `token_at`."""

    order: str
    sign: int
    rows: Tensor | None = None
    width: int = 1
    inverse: int = 0


def walks_of(steps: Sequence[int], table: Tensor | None, length: int, device: torch.device) -> list[Walk]:
    """The walk of each route, from a table (k, l) or from the steps (see `vimamba.kernels.routes`)."""
    return [_walk(step, None if table is None else table[k], length, device) for k, step in enumerate(steps)]


def _walk(step: int, rows: Tensor | None, length: int, device: torch.device) -> Walk:
    width, sign = abs(step), 1 if step > 0 else -1
    height = length // width
    if rows is None and length >= STEPS:
        if width == 1:
            return Walk('rows', sign)
        if height * width == length and 2 < height < 2**32 / length:  # inverse < 2^31; its error times l < 2^32
            return Walk('columns', sign, None, width, triton.cdiv(2**32, height))
    rows = route_rows(step, length, device).int() if rows is None else rows.contiguous()
    before = max(STEPS - length, 0)  # positions that a block longer than l is moved back to: tokens of other blocks
    return Walk('table', 1, torch.nn.functional.pad(rows, (before, 0))[before:])


def falling(walks: list[Walk]) -> int:
    """Bit mask of the routes that visit the chunks of l in descending order."""
    return sum((walk.sign < 0) << k for k, walk in enumerate(walks))


@dataclass(frozen=True)
class Plan:
    """Layout of a scan: channels of a program (one warp), steps between two stored states, chunks of l.

    The last digits of a result depend on the chunks; those of the gradients of B and C also on the channels.
    """

    block: int
    steps: int
    chunks: int


class Shape(NamedTuple):
    """Sizes of one call: batch, routes, groups, channels, steps, states."""

    b: int
    k: int
    groups: int
    d: int
    l: int
    n: int

    def blocks(self, block: int) -> int:
        return self.groups * triton.cdiv(self.d // self.groups, block)


def shape_of(s: Scan) -> Shape:
    (k, d, n), b, l = s.A.shape, s.u.shape[0], s.u.shape[-1]
    return Shape(b, k, s.B.shape[2], d, l, n)


def plan(s: Shape, backward: bool, pairs: bool = True) -> Plan:
    """Chooses a layout from the sizes alone, so that a result depends neither on the machine nor on earlier calls.

    The channels of a thread share the loads of B and C and, in the backward pass, the sums over channels: two if there
    are enough warps, four for small N. If one channel gives fewer than half of the warps, l is split into chunks, which
    takes another pass over the operands of the state. Without ``pairs``, as for float32 in the backward pass, registers
    do not suffice for a second channel with large N.
    """
    group = s.d // s.groups
    full = backward and s.n > 4  # registers for two warps per scheduler only
    widest = 128 if s.n <= 4 else 64 if pairs or not backward else 32
    blocks = [block for block in (128, 64) if block <= widest and group % block == 0] + [32]
    enough = WARPS // 2 if full else WARPS
    block = next((block for block in blocks if s.b * s.blocks(block) >= enough), 32)
    chunks = 1
    if 0 < 2 * s.b * s.blocks(block) < WARPS:
        block = 64 if 64 in blocks else 32
        wanted = WARPS * 2 // 3 if full else WARPS
        chunks = max(1, min(triton.cdiv(wanted, s.b * s.blocks(block)), s.l // 64))
    return Plan(block, STEPS, chunks)


def state_blocks(n: int) -> list[tuple[int, int]]:
    """First state and number of states of each turn."""
    return [(n0, min(STATES, n - n0)) for n0 in range(0, n, STATES)]


def strides(t: Tensor) -> tuple[int, ...]:
    """Strides over (b, k, d, l) of a tensor that may have no routes."""
    return t.stride() if t.ndim == 4 else (t.stride(0), 0, *t.stride()[1:])


def pack(n: int, *tensors: Tensor) -> int:
    """Adjacent states of B and C per 64-bit load; 1 if they are not adjacent or not aligned."""
    size = tensors[0].element_size()
    fits = n * size % 8 == 0 and all(
        t.element_size() == size
        and t.stride(-2) == 1
        and t.data_ptr() % 8 == 0
        and all(stride * size % 8 == 0 for stride in (*t.stride()[:-2], t.stride(-1)))
        for t in tensors
    )
    return 8 // size if fits else 1


def words(s: Shape, block: int, *tensors: Tensor | None) -> bool:
    """Whether two channels of each tensor form an aligned 32-bit word of bfloat16 in every program."""
    return s.d // s.groups % block == 0 and all(
        t.dtype == torch.bfloat16
        and t.stride(-2) == 1
        and t.data_ptr() % 4 == 0
        and all(stride % 2 == 0 for stride in (*t.stride()[:-2], t.stride(-1)))
        for t in tensors
        if t is not None
    )


def index_type(s: Shape, *tensors: Tensor | None) -> tl.dtype:
    """int32 where an offset along l stays below 2^31 within a batch item; offsets across items are always int64."""
    far = max([s.d * s.l] + [t.stride(-1) * s.l for t in tensors if t is not None])
    return tl.int64 if far >= 2**31 else tl.int32
