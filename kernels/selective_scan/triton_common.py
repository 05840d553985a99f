"""What the forward and the backward kernel share: routes, the shape of a launch, softplus, reading B and C."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

OPTIONS = {'enable_fp_fusion': True}  # a * h + b as one FMA; said here because Triton 3.10 changes its default
WARPS = 1536  # about three to each of the 528 schedulers of an H200
# sizes that differ from call to call: not worth a compilation each
PLAIN_INTS = ['batch', 'chunks', 'codes', 'groups', 'n0', 'route0', 'route_step', 'routes', 'width']
STEPS = 4  # between two stored states: as many as the backward pass has registers for
STATES = 16  # of d_state, held in registers at a time; more are done in turn

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def exp(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log1p(w) with w = e^-|x|; above 20 it is x, exactly, in float32.

    log1p(w) / w on [0, 1] is a polynomial of degree 7, off by at most 3e-7: shorter than a logarithm, and right for
    small w, where log(1 + w) has lost its digits.
    """
    w = exp(-tl.abs(x))
    p = w * -0.008539096 + 0.04408924
    p = p * w - 0.10768117
    p = p * w + 0.17745204
    p = p * w - 0.2449545
    p = p * w + 0.33275478
    p = p * w - 0.49997405
    p = p * w + 0.9999998
    return tl.maximum(x, 0.0) + p * w


@triton.jit
def sigmoid(x):
    """The inverse square root, squared: a division takes three instructions more, for divisors that do not occur."""
    root = tl.rsqrt(1.0 + exp(-x))
    return root * root


@triton.jit
def first_row(position, width, length, rows, ORDER: tl.constexpr):
    """Token at a position of a route: that of the row or column order, or by a table."""
    position = tl.minimum(position, length - 1)
    if ORDER == 'table':
        row = tl.load(rows + position)
    else:
        height = length // width
        row = (position % height) * width + position // height
    return row


@triton.jit
def next_row(row, position, width, length, sign, rows, ORDER: tl.constexpr):
    """Token at the position after (before, if sign < 0) one whose token is row, without a division.

    Walking a (height, width) grid by columns adds width to the token and wraps modulo length - 1; by rows, width is 1.
    Positions from length on stand still, so that what is read there is some token of the route.
    """
    if ORDER == 'table':
        row = first_row(position + sign, width, length, rows, ORDER)
    else:
        following = row + sign * width
        following = tl.where(following >= length, following - (length - 1), following)
        following = tl.where(following < 0, following + (length - 1), following)
        row = tl.where(position < length, tl.minimum(following, length - 1), row)
    return row


@triton.jit
def block_token(block, length, T: tl.constexpr, ORDER: tl.constexpr):
    """Token of the first step of a block of a route that goes forth or back, one token after the other.

    The last block is moved back onto tokens that there are; its steps before block * T are another's, and do nothing.
    """
    token = tl.minimum(block * T, length - T)
    if ORDER == 'back':
        token += T - 1
    return token


@triton.jit
def at_block(ptr, token, stride: tl.constexpr, ORDER: tl.constexpr, INDEX: tl.constexpr):
    """Where `at_step` counts from: the first token of a block where the others are at constant distances."""
    if ORDER == 'forth' or ORDER == 'back':
        ptr += token.to(INDEX) * stride
    return ptr


@triton.jit
def at_step(ptr, row, t: tl.constexpr, stride: tl.constexpr, ORDER: tl.constexpr, INDEX: tl.constexpr):
    """The row of step t of a block: a constant away in a load where the compiler knows the walk."""
    if ORDER == 'forth':
        ptr += t * stride
    elif ORDER == 'back':
        ptr -= t * stride
    else:
        ptr += row.to(INDEX) * stride
    return ptr


@triton.jit
def load_states(ptr, stride_n, N: tl.constexpr, PACK: tl.constexpr):
    """N scalars of a row of B or C as a tuple, in float32; PACK of them to a 64-bit word where they are adjacent."""
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
def locate(batch, channels, groups, chunks, BLOCK: tl.constexpr, EVEN_D: tl.constexpr):
    """Batch item, chunk, slot (of a route), group and channels of this program; live masks channels past the group."""
    per_group = channels // groups
    blocks = (per_group + BLOCK - 1) // BLOCK
    pid = tl.program_id(0).to(tl.int64)
    within = (pid % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    pid = pid // blocks
    g = pid % groups
    pid = pid // groups
    b = pid % batch
    pid = pid // batch
    j = (pid % chunks).to(tl.int32)
    slot = (pid // chunks).to(tl.int32)
    live = tl.full([BLOCK], 1, tl.int1)
    if EVEN_D:  # the same channel, seen by the compiler to start at a multiple of BLOCK: neighbours in one load
        c = (g.to(tl.int32) * blocks) * BLOCK + within
    else:
        c = g.to(tl.int32) * per_group + within
        live = live & (within < per_group)
    return b, j, slot, g, c, live


@triton.jit
def accumulate(out, acc, value, keep, more, final):
    """Writes value to out, or adds it (if more) to the float32 sums in acc, which go to out with the final addend.

    A token's channel is always summed by the same thread, route after route: no atomics, one fixed order.
    """
    if acc is None:
        tl.store(out, value.to(out.dtype.element_ty), mask=keep)
    elif isinstance(final, tl.constexpr):
        if more:
            value += tl.load(acc, mask=keep, other=0.0)
        if final:
            tl.store(out, value.to(out.dtype.element_ty), mask=keep)
        else:
            tl.store(acc, value, mask=keep)
    else:
        value += tl.load(acc, mask=keep & more, other=0.0)
        tl.store(acc, value, mask=keep & (final == 0))
        tl.store(out, value.to(out.dtype.element_ty), mask=keep & final)


@dataclass(frozen=True)
class Routes:
    """K walks over the same l tokens: by rows or by columns of a grid, or by a table, forth or back.

    Args:
        reverse: for each route, walk it from its end.
        columns: for each route, walk the grid column by column; by default none does.
        width: of the grid, in tokens (only columns need it).
        table: int32 (K, l), the token at each position of each route; it takes the place of columns.
    """

    reverse: tuple[bool, ...]
    columns: tuple[bool, ...] = ()
    width: int = 1
    table: Tensor | None = None

    def order(self, k: int, steps: int, length: int) -> str:
        """How route k is walked in blocks of so many steps: forth or back where whole blocks are neighbours."""
        if self.straight and length >= steps:
            return 'back' if self.reverse[k] else 'forth'
        return 'affine' if self.table is None else 'table'

    @property
    def codes(self) -> int:
        columns = self.columns or (False,) * len(self.reverse)
        return sum((int(r) + 2 * int(c)) << (2 * k) for k, (r, c) in enumerate(zip(self.reverse, columns)))

    @property
    def straight(self) -> bool:
        """Every walk is known to the compiler, and so is a launch of its own."""
        return self.table is None and not any(self.columns)

    def apart(self) -> list[tuple[int, tuple[int, int, int]]]:
        """Launches in which no route waits for another, as (routes side by side, group)."""
        k = len(self.reverse)
        return [(1, (i, 1, 1)) for i in range(k)] if self.straight else [(k, (0, 1, 1))]

    def groups(self, chunks: int) -> list[tuple[int, int, int]]:
        """Routes of each launch as (first, step, count): those whose walk is known to the compiler one by one.

        Others are taken in turn by the same program, where l is split those that meet any chunk at the same time.
        """
        if self.straight:
            return [(k, 1, 1) for k in range(len(self.reverse))]
        if chunks == 1:
            return [(0, 1, len(self.reverse))]
        columns = self.columns or (False,) * len(self.reverse)
        todo, groups = list(range(len(self.reverse))), []
        while todo:
            k = todo.pop(0)
            twin = [i for i in todo if self.table is None and columns[i] == columns[k]][:1]
            groups.append((k, twin[0] - k, 2) if twin else (k, 1, 1))
            todo = [i for i in todo if i not in twin]
        return groups


@dataclass(frozen=True)
class Plan:
    """How a scan is laid out: channels of a program (one warp), steps between two stored states, chunks of l.

    A result depends on the chunks, and the gradients of B and C on the channels of a program: in their last digits.
    """

    block: int
    steps: int
    chunks: int


@dataclass(frozen=True)
class Shape:
    """Sizes of one call: batch, routes, groups, channels, steps, states."""

    b: int
    k: int
    groups: int
    d: int
    l: int
    n: int

    def blocks(self, block: int) -> int:
        return self.groups * triton.cdiv(self.d // self.groups, block)


def plan(s: Shape, backward: bool, pairs: bool = True) -> Plan:
    """Layout from the sizes alone, so that a result never depends on the machine or on what ran before.

    Channels of a thread share the loads of B and C and, backward, the sums over channels: two where there are warps
    enough, four where N is small. If not even half of the warps are to be had with one, l is split into chunks, at the
    price of one more pass over what the state depends on. Without pairs, as where the backward pass has to look up its
    walk or reads float32, there are no registers for a second channel beside large N.
    """
    group = s.d // s.groups
    full = backward and s.n > 4  # of registers: two warps to a scheduler
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
    """How many neighbouring states of B and of C a 64-bit load brings; 1 where they do not lie so."""
    size = tensors[0].element_size()
    fits = n * size % 8 == 0 and all(
        t.element_size() == size
        and t.stride(-2) == 1
        and t.data_ptr() % 8 == 0
        and all(stride * size % 8 == 0 for stride in (*t.stride()[:-2], t.stride(-1)))
        for t in tensors
    )
    return 8 // size if fits else 1


def index_type(s: Shape, *tensors: Tensor | None) -> tl.dtype:
    """int32 where an offset along l stays below 2^31 within a batch item; offsets across items are always int64."""
    far = max([s.d * s.l] + [t.stride(-1) * s.l for t in tensors if t is not None])
    return tl.int64 if far >= 2**31 else tl.int32
