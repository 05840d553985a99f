"""What a scan order is, and the registry of orders by name.

Tokens lie in memory in raster order; an order says in which order K routes read them. Three laws hold for every
order, x having L rows and y having K routes of L steps:

    (1) every route visits every token once        index[k] is a permutation of 0 ... L-1
    (2) merge(scan(x)) = K x                       bit for bit on integers
    (3) <scan(x), y> = <x, merge(y)>               so each is the other's backward
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, reduce, wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from vimamba.errors import UsageError, bad_argument, unknown_name

__all__ = ['Affine', 'Grid', 'ScanOrder', 'create_order', 'find_affine', 'list_orders', 'register_order']

Grid = tuple[int, ...]  # a sequence (L,), an image (H, W) or a clip (T, H, W), in tokens
_SHAPES = {1: '(L,)', 2: '(H, W)', 3: '(T, H, W)'}


@dataclass(frozen=True)
class Affine:
    """A route that a kernel can compute instead of loading it.

    Step t = q * period + j, with 0 <= j < period, reads row ``start + q * outer + j * inner``; with ``snake``, odd
    lines q are walked backwards: j becomes period - 1 - j.

    >>> Affine(start=0, outer=3, inner=1, period=3, snake=True).rows(6).tolist()
    [0, 1, 2, 5, 4, 3]
    """

    start: int
    outer: int
    inner: int
    period: int
    snake: bool = False

    def rows(self, length: int) -> Tensor:
        """The rows read at steps 0 ... length-1: (length,) int64 on the CPU."""
        t = torch.arange(length, device='cpu')
        q, j = t // self.period, t % self.period
        if self.snake:
            j = torch.where(q % 2 == 1, self.period - 1 - j, j)
        return self.start + q * self.outer + j * self.inner


def find_affine(route: Tensor) -> Affine | None:
    """The law behind a route, or a part of one: (L,) rows. None where there is no such law.

    >>> find_affine(torch.tensor([0, 4, 8, 1, 5, 9]))
    Affine(start=0, outer=1, inner=4, period=3, snake=False)
    >>> find_affine(torch.tensor([0, 1, 4, 8, 5, 2])) is None
    True
    """
    route = route.cpu()
    length, start = len(route), int(route[0])
    if length == 1:
        return Affine(start, 0, 0, 1)
    jumps = route.diff()
    inner = int(jumps[0])
    turns = (jumps != inner).nonzero()
    if len(turns) == 0:
        return Affine(start, 0, inner, length)
    period = int(turns[0]) + 1
    outer = int(route[period]) - start
    candidates = (
        Affine(start, outer, inner, period),
        Affine(start, outer - (period - 1) * inner, inner, period, snake=True),
    )
    return next((law for law in candidates if torch.equal(law.rows(length), route)), None)


@dataclass(frozen=True, eq=False, repr=False)
class ScanOrder:
    """K routes over the tokens of a grid. It holds no weights and does no arithmetic.

    Orders are shared and cached: treat their tensors as read-only.

    Attributes:
        index: (K, L) int64. Route k reads memory row ``index[k, t]`` at step t; L = cells of the grid + class tokens +
            pads.
        grid: the tokens as they lie in space: (L,), (H, W) or (T, H, W).
        flipped: which of the K routes were made by `reversed`; none by default.
        class_rows: the memory rows that are no cell of the grid, see `insert`.
        pads: how many rows behind all others are no tokens but zeros, which windows that do not divide the grid read.
        inverse: (K, L) int64. The step at which route k reads row i.

    Raises:
        UsageError: the index is not (K, L) int64, does not fit the grid, or has a route that is no permutation.

    >>> order = ScanOrder(torch.tensor([[0, 2, 1, 3]]), grid=(2, 2))
    >>> order | order.reversed()
    ScanOrder(routes=2, length=4, grid=(2, 2))
    """

    index: Tensor
    grid: Grid
    flipped: tuple[bool, ...] = ()
    class_rows: tuple[int, ...] = ()
    pads: int = 0
    inverse: Tensor = field(init=False)

    def __post_init__(self) -> None:
        index, grid = self.index, _check_grid(self.grid)
        if index.dtype != torch.int64 or index.ndim != 2 or index.shape[0] == 0:
            raise bad_argument('index', '(K, L) int64 with K >= 1', f'{tuple(index.shape)} {index.dtype}')
        routes, length = index.shape
        if length != math.prod(grid) + len(self.class_rows) + self.pads or self.pads < 0:
            extra = f' and {len(self.class_rows)} class token(s)' if self.class_rows else ''
            extra += f' and {self.pads} pads' if self.pads else ''
            raise bad_argument('index', f'L = {math.prod(grid)} cells of {grid}{extra}', f'L = {length}')
        if len(set(self.class_rows) & set(range(length))) != len(self.class_rows):
            raise bad_argument('class_rows', f'different rows from 0 to {length - 1}', self.class_rows)
        if len(self.flipped) not in (0, routes):
            raise bad_argument('flipped', f'{routes} flags, one for each route', self.flipped)
        with torch.inference_mode(False):  # a cached order made during inference must serve training too
            index = index.clone(memory_format=torch.contiguous_format)
            rows, inverse = index.sort(dim=1)  # of a permutation: 0 ... L-1, and its inverse
        wrong = (rows != torch.arange(length, device=index.device)).any(1).nonzero()
        if len(wrong):
            expected = f'each of the rows 0 ... {length - 1} once in every route'
            raise bad_argument('index', expected, f'other rows in route {int(wrong[0])}')
        for name, value in {
            'index': index,
            'grid': grid,
            'flipped': tuple(self.flipped) or (False,) * routes,
            'class_rows': tuple(self.class_rows),
            'inverse': inverse,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def routes(self) -> int:
        """K, the number of routes."""
        return self.index.shape[0]

    @property
    def length(self) -> int:
        """L, the number of tokens that each route visits."""
        return self.index.shape[1]

    @cached_property
    def affine(self) -> tuple[Affine | None, ...]:
        """For each route the law that computes it, or None: found in the index itself by `find_affine`."""
        return tuple(find_affine(route) for route in self.index)

    def reversed(self) -> ScanOrder:
        """The same routes walked backwards."""
        return replace(self, index=self.index.flip(1), flipped=tuple(not flag for flag in self.flipped))

    def __or__(self, other: ScanOrder) -> ScanOrder:
        """The routes of both; those of the one with fewer pads read the others behind their last step."""
        if not isinstance(other, ScanOrder):
            return NotImplemented
        if (self.grid, self.class_rows) != (other.grid, other.class_rows):
            mine, theirs = (f'{o.grid} with class rows {o.class_rows}' for o in (self, other))
            raise bad_argument('a | b', f'two orders over the same tokens, {mine}', theirs)
        pads = max(self.pads, other.pads)
        index = torch.cat([order._pad(pads).index for order in (self, other)])
        return replace(self, index=index, flipped=(*self.flipped, *other.flipped), pads=pads)

    def _pad(self, pads: int) -> ScanOrder:
        more = torch.arange(self.length, self.length + pads - self.pads, device=self.index.device)
        return replace(self, index=torch.cat((self.index, more.expand(self.routes, -1)), 1), pads=pads)

    def insert(self, row: int) -> ScanOrder:
        """The order over L + 1 tokens where a class token is stored at memory row ``row``: rows >= row move up by one.

        It is read at step ``row`` by a route that goes forth, and at the mirrored step ``L - row`` by a flipped one,
        so that `reversed` and `insert` commute: Vim's middle class token (arXiv:2401.09417) has row L // 2.

        Raises:
            UsageError: ``row`` is not from 0 to the number of tokens.

        >>> ScanOrder(torch.tensor([[0, 2, 1, 3], [3, 1, 2, 0]]), (2, 2), flipped=(False, True)).insert(1).index
        tensor([[0, 1, 3, 2, 4],
                [4, 2, 3, 1, 0]])
        """
        if not 0 <= row <= self.length - self.pads:
            raise bad_argument('row', f'an integer from 0 to {self.length - self.pads}', row)
        moved = self.index + (self.index >= row)
        routes = []
        for route, flag in zip(moved, self.flipped):
            step = self.length - row if flag else row
            routes.append(torch.cat((route[:step], route.new_tensor([row]), route[step:])))
        class_rows = (*(r + (r >= row) for r in self.class_rows), row)
        return replace(self, index=torch.stack(routes), class_rows=class_rows)

    def scan(self, x: Tensor, dim: int = -2) -> Tensor:
        """Reads x along every route: out[k, t] = x[index[k, t]]. The plain reference of the fused kernels.

        Args:
            x: (..., L, D) of any dtype, on any device.
            dim: the dimension of the L tokens counted from the end: -2 for (..., L, D), -1 for (..., D, L).

        Returns:
            (..., K, L, D): the routes come before the tokens.

        >>> bidirectional = ScanOrder(torch.tensor([[0, 1, 2], [2, 1, 0]]), (3,))
        >>> bidirectional.scan(torch.tensor([5, 6, 7]), dim=-1)
        tensor([[5, 6, 7],
                [7, 6, 5]])
        """
        self._check('x', x, dim, {dim: self.length})
        # one gather for each route: unlike one gather for all, its backward adds in a fixed order on a GPU
        return torch.stack([x.index_select(dim, route) for route in self.index.to(x.device)], dim - 1)

    def merge(self, y: Tensor, dim: int = -2) -> Tensor:
        """Puts every step back on its row and sums over the routes: out[i] = sum_k y[k, inverse[k, i]].

        Args:
            y: (..., K, L, D) of any dtype, on any device.
            dim: the dimension of the L steps counted from the end, after that of the K routes.

        Returns:
            (..., L, D): the adjoint of `scan`.

        >>> bidirectional = ScanOrder(torch.tensor([[0, 1, 2], [2, 1, 0]]), (3,))
        >>> bidirectional.merge(torch.tensor([[5, 6, 7], [70, 60, 50]]), dim=-1)
        tensor([55, 66, 77])
        """
        self._check('y', y, dim, {dim - 1: self.routes, dim: self.length})
        rows = zip(y.unbind(dim - 1), self.inverse.to(y.device))
        return torch.stack([route.index_select(dim, inverse) for route, inverse in rows]).sum(0, dtype=y.dtype)

    def _check(self, name: str, x: Tensor, dim: int, sizes: dict[int, int]) -> None:
        if dim >= 0:
            raise bad_argument('dim', 'the dimension of the tokens counted from the end, -1 or -2', dim)
        if x.ndim < -min(sizes) or any(x.shape[d] != size for d, size in sizes.items()):
            wanted = ' and '.join(f'size {size} in dimension {d}' for d, size in sizes.items())
            raise bad_argument(name, wanted, f'shape {tuple(x.shape)}')

    def to(self, device: torch.device | str) -> ScanOrder:
        """The same order with its tensors on ``device``."""
        device = torch.device(device)
        return self if self.index.device == device else replace(self, index=self.index.to(device))

    def __eq__(self, other: object) -> bool:
        """Whether both read the same tokens in the same way, wherever their tensors are."""
        if not isinstance(other, ScanOrder):
            return NotImplemented
        return self._key() == other._key() and torch.equal(self.index.cpu(), other.index.cpu())

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        return self.grid, self.flipped, self.class_rows, self.pads

    def __repr__(self) -> str:
        class_rows = f', class_rows={self.class_rows}' if self.class_rows else ''
        pads = f', pads={self.pads}' if self.pads else ''
        return f'ScanOrder(routes={self.routes}, length={self.length}, grid={self.grid}{class_rows}{pads})'


@contextmanager
def plainly() -> Iterator[None]:
    """What is computed here is remembered: real tensors on the CPU, whatever the caller's default device and modes."""
    tracer: Any = torch._C
    trace = tracer._get_tracing_state()  # of torch.jit.trace, to which a table is a constant
    tracer._set_tracing_state(None)
    try:
        with torch.device('cpu'), torch.inference_mode(False), _disable_current_modes():
            yield
    finally:
        tracer._set_tracing_state(trace)


ORDERS: dict[str, Callable[..., ScanOrder]] = {}


def register_order(*ndims: int) -> Callable[[Callable[..., ScanOrder]], Callable[..., ScanOrder]]:
    """Decorates ``grid -> ScanOrder`` so that it is known by its name, checks its grid and remembers its results.

    Args:
        ndims: the grids that the order makes sense for: 1 for (L,), 2 for (H, W), 3 for (T, H, W).

    Raises:
        UsageError: another module has registered that name.

    >>> @register_order(2)
    ... def backwards(grid):
    ...     '''From the last cell to the first.'''
    ...     return create_order('raster', grid).reversed()
    >>> create_order('backwards', (1, 3)).index
    tensor([[2, 1, 0]])
    >>> del ORDERS['backwards']
    """

    def decorate(build: Callable[..., ScanOrder]) -> Callable[..., ScanOrder]:
        name = build.__name__
        if name in ORDERS and ORDERS[name].__module__ != build.__module__:
            raise UsageError(f'scan order {name!r} is registered by {ORDERS[name].__module__}: choose another name')

        @lru_cache(maxsize=32)
        def cached(grid: Grid, *options: int, **named: int) -> ScanOrder:
            with plainly():
                return build(grid, *options, **named)

        @wraps(build)
        def order(grid: Iterable[int], *options: int, **named: int) -> ScanOrder:
            return cached(_check_grid(grid, name, ndims), *options, **named)

        ORDERS[name] = order
        return order

    return decorate


def create_order(scan: str | Sequence[str], grid: Iterable[int]) -> ScanOrder:
    """The registered order of that name over ``grid``, or the routes of several; its tensors are on the CPU.

    ``'<name>_reversed'`` walks the routes of an order backwards. A name gives the same object every time.

    Raises:
        UsageError: an unknown name, or a grid that the order is not defined on.

    >>> create_order('column', (2, 3)).index
    tensor([[0, 3, 1, 4, 2, 5]])
    >>> create_order(['column', 'raster_reversed'], (2, 3)).index
    tensor([[0, 3, 1, 4, 2, 5],
            [5, 4, 3, 2, 1, 0]])
    """
    if not isinstance(scan, str):
        if not scan:
            raise bad_argument('scan', 'the name of a scan order, or several', repr(scan))
        with plainly():
            return reduce(operator.or_, (create_order(name, grid) for name in scan))
    if scan in ORDERS:
        return ORDERS[scan](grid)
    forth = scan.removesuffix('_reversed')
    if forth not in ORDERS:
        raise unknown_name('scan order', scan, ORDERS)
    return _reversed(forth, _check_grid(grid))


@lru_cache(maxsize=32)
def _reversed(name: str, grid: Grid) -> ScanOrder:
    with plainly():
        return ORDERS[name](grid).reversed()


def list_orders() -> list[str]:
    """The names of the registered orders, sorted.

    >>> 'cross' in list_orders()
    True
    """
    return sorted(ORDERS)


def _check_grid(grid: Iterable[int], name: str = '', ndims: tuple[int, ...] = (1, 2, 3)) -> Grid:
    """The grid as a tuple of Python integers, or a `UsageError`."""
    try:
        sizes = tuple(operator.index(size) for size in grid)
    except TypeError:
        sizes = ()
    if len(sizes) not in ndims or min(sizes) < 1:
        shapes = ' or '.join(_SHAPES[n] for n in ndims)
        expected = f'{shapes}, sizes >= 1' + (f", for scan order '{name}'" if name else '')
        raise bad_argument('grid', expected, grid)
    return sizes
