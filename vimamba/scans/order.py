"""`ScanOrder`, and the registry of scan orders by name.

Tokens lie in memory in raster order; a scan order is the sequence in which each of K routes reads them. Three laws hold
for every order, with x of L rows and y of K routes of L steps:

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
from functools import lru_cache, reduce, wraps
from inspect import signature

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from vimamba.errors import UsageError, bad_argument, unknown_name

__all__ = ['Grid', 'ScanOrder', 'cells', 'create_order', 'list_orders', 'one_route', 'plainly', 'register_order',
           'split_name']  # fmt: skip

Grid = tuple[int, ...]  # (L,) of a sequence, (H, W) of an image or (T, H, W) of a clip, in tokens
_SHAPES = {1: '(L,)', 2: '(H, W)', 3: '(T, H, W)'}


@dataclass(frozen=True, eq=False, repr=False)
class ScanOrder:
    """K routes over the tokens of a grid. It holds no weights and does no arithmetic.

    Orders are shared and cached: treat their tensors as read-only.

    Attributes:
        index: (K, L) int64. Route k reads memory row ``index[k, t]`` at step t; L = cells of the grid + class tokens +
            pads.
        grid: the shape of the tokens in space: (L,), (H, W) or (T, H, W).
        flipped: for each of the K routes, whether `reversed` made it; False by default.
        class_rows: the memory rows of class tokens, which are outside the grid; see `insert`.
        pads: number of rows of zeros after all others, which windows that do not divide the grid read.
        inverse: (K, L) int64. The step at which route k reads row i.

    Raises:
        UsageError: the index is not (K, L) int64, does not fit the grid, or has a route that is not a permutation.

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
        with torch.inference_mode(False):  # a cached order created during inference must serve training too
            index = index.clone(memory_format=torch.contiguous_format)
            rows, inverse = index.sort(dim=1)  # of a permutation: 0 ... L-1, and its inverse
        wrong = (rows != torch.arange(length, device=index.device)).any(1).nonzero()
        if len(wrong):
            expected = f'each of the rows 0 ... {length - 1} once in every route'
            raise bad_argument('index', expected, f'other rows in route {int(wrong[0])}')
        flipped, class_rows = tuple(self.flipped) or (False,) * routes, tuple(self.class_rows)
        self.__dict__.update(index=index, grid=grid, flipped=flipped, class_rows=class_rows, inverse=inverse)  # frozen

    @property
    def routes(self) -> int:
        """K, the number of routes."""
        return self.index.shape[0]

    @property
    def length(self) -> int:
        """L, the number of tokens that each route visits."""
        return self.index.shape[1]

    def reversed(self) -> ScanOrder:
        """The same routes, read backward."""
        return replace(self, index=self.index.flip(1), flipped=tuple(not flag for flag in self.flipped))

    def __or__(self, other: ScanOrder) -> ScanOrder:
        """The routes of both orders; where the numbers of pads differ, the missing pads are read last."""
        if not isinstance(other, ScanOrder):
            return NotImplemented
        if (self.grid, self.class_rows) != (other.grid, other.class_rows):
            mine, theirs = (f'{o.grid} with class rows {o.class_rows}' for o in (self, other))
            raise bad_argument('a | b', f'two orders over the same tokens, {mine}', theirs)
        length = max(self.length, other.length)
        rows = torch.arange(length, device=self.index.device)
        index = [torch.cat((o.index, rows[o.length :].expand(o.routes, -1)), 1) for o in (self, other)]
        pads, flipped = max(self.pads, other.pads), self.flipped + other.flipped
        return replace(self, index=torch.cat(index), flipped=flipped, pads=pads)

    def insert(self, row: int) -> ScanOrder:
        """Inserts a class token at memory row ``row``: the order over L + 1 tokens, rows >= row moved up by one.

        A forward route reads it at step ``row``, a flipped one at the mirrored step ``L - row``, so that `reversed` and
        `insert` commute: Vim's middle class token (arXiv:2401.09417) has row L // 2.

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
        """Reads x along every route: out[k, t] = x[index[k, t]]. The reference of the fused kernels.

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
        # one gather per route: its backward adds in a fixed order on a GPU, unlike that of a single gather
        return torch.stack([x.index_select(dim, route) for route in self.index.to(x.device)], dim - 1)

    def merge(self, y: Tensor, dim: int = -2) -> Tensor:
        """Returns every step to its row and sums over the routes: out[i] = sum_k y[k, inverse[k, i]].

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
        """Whether both have the same routes over the same tokens, on any devices."""
        if not isinstance(other, ScanOrder):
            return NotImplemented
        return self._key() == other._key() and torch.equal(self.index.cpu(), other.index.cpu())

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        return self.grid, self.flipped, self.class_rows, self.pads

    def __repr__(self) -> str:
        more = ''.join(f', {name}={value}' for name in ('class_rows', 'pads') if (value := getattr(self, name)))
        return f'ScanOrder(routes={self.routes}, length={self.length}, grid={self.grid}{more})'


@contextmanager
def plainly() -> Iterator[None]:
    """Builds cacheable CPU tensors outside the caller's default device, inference mode and dispatch modes."""
    with torch.device('cpu'), torch.inference_mode(False), _disable_current_modes():
        yield


def cells(grid: Grid) -> Tensor:
    """The memory row of each cell, in the shape of the grid."""
    return torch.arange(math.prod(grid)).view(grid)


def one_route(grid: Grid, rows: Tensor) -> ScanOrder:
    """The order with a single route, which reads ``rows``, flattened."""
    return ScanOrder(rows.reshape(1, -1), grid)


def _bidirectional(order: ScanOrder) -> ScanOrder:
    if len(set(order.flipped)) == 2:
        raise UsageError(f'_bidirectional: this order of {order.routes} routes reads both ways: leave the suffix out')
    return order | order.reversed()


ORDERS: dict[str, Callable[..., ScanOrder]] = {}
_SUFFIXES = {'bidirectional': _bidirectional, 'reversed': ScanOrder.reversed}


def register_order(*ndims: int) -> Callable[[Callable[..., ScanOrder]], Callable[..., ScanOrder]]:
    """Registers a function ``grid -> ScanOrder`` under its name, checks its grid and caches its results.

    A second parameter, an integer with a default, can be set in the name: ``'windows7'`` is ``windows(grid, 7)``.

    Args:
        ndims: the grids that the order is defined on: 1 for (L,), 2 for (H, W), 3 for (T, H, W).

    Raises:
        UsageError: another module has registered the name.

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
        cached = lru_cache(maxsize=32)(plainly()(build))

        @wraps(build)
        def order(grid: Iterable[int], *options: int, **named: int) -> ScanOrder:
            return cached(_check_grid(grid, name, ndims), *options, **named)

        ORDERS[name] = order
        return order

    return decorate


def create_order(scan: str | Sequence[str], grid: Iterable[int]) -> ScanOrder:
    """Creates a scan order by name, or joins the routes of several; the tensors are on the CPU and cached.

    A name is that of a registered order, followed by the size of its parts (``'windows7'``, ``'tube4'``) and by
    suffixes, applied from left to right: ``_bidirectional`` adds the reversed routes, ``_reversed`` reverses all.

    Raises:
        UsageError: an unknown name, or a grid that the order is not defined on.

    >>> create_order('column', (2, 3)).index
    tensor([[0, 3, 1, 4, 2, 5]])
    >>> create_order(['column', 'raster_reversed'], (2, 3)).index
    tensor([[0, 3, 1, 4, 2, 5],
            [5, 4, 3, 2, 1, 0]])
    >>> create_order('windows2_bidirectional', (2, 4)).index
    tensor([[0, 1, 4, 5, 2, 3, 6, 7],
            [7, 6, 3, 2, 5, 4, 1, 0]])
    """
    if not isinstance(scan, str):
        if not scan:
            raise bad_argument('scan', 'the name of a scan order, or several', repr(scan))
        with plainly():
            return reduce(operator.or_, (create_order(name, grid) for name in scan))
    name, size, suffixes = split_name(scan)
    order = ORDERS[name](grid, *size)
    return _derive(ORDERS[name], size, suffixes, order.grid) if suffixes else order


def split_name(scan: str, others: Iterable[str] = (), key: str = '') -> tuple[str, tuple[int, ...], tuple[str, ...]]:
    """Splits a name into the registered order, the size of its parts, if given, and its suffixes.

    Raises:
        UsageError: no such order; the message lists the orders and ``others``, for the argument ``key``.

    >>> split_name('windows7_bidirectional_reversed')
    ('windows', (7,), ('bidirectional', 'reversed'))
    """
    name, suffixes = scan, list[str]()
    while name not in ORDERS and '_' in name and name.rpartition('_')[2] in _SUFFIXES:
        name, _, suffix = name.rpartition('_')
        suffixes.insert(0, suffix)
    base = name if name in ORDERS else name.rstrip('0123456789')
    if base not in ORDERS or (base != name and len(signature(ORDERS[base]).parameters) == 1):
        unknown = unknown_name('scan order', name, [*ORDERS, *others])
        raise UsageError(f'{unknown}; an order takes the suffixes _bidirectional and _reversed', key=key)
    return base, (int(name[len(base) :]),) if base != name else (), tuple(suffixes)


@lru_cache(maxsize=128)
@plainly()
def _derive(build: Callable[..., ScanOrder], size: tuple[int, ...], suffixes: tuple[str, ...], grid: Grid) -> ScanOrder:
    return reduce(lambda order, suffix: _SUFFIXES[suffix](order), suffixes, build(grid, *size))


def list_orders() -> list[str]:
    """The names of the registered orders, sorted; `create_order` says how suffixes derive others from them.

    >>> 'cross' in list_orders()
    True
    """
    return sorted(ORDERS)


def _check_grid(grid: Iterable[int], name: str = '', ndims: tuple[int, ...] = (1, 2, 3)) -> Grid:
    """Returns the grid as a tuple of Python integers."""
    try:
        sizes = tuple(operator.index(size) for size in grid)
    except TypeError:
        sizes = ()
    if len(sizes) not in ndims or min(sizes) < 1:
        shapes = ' or '.join(_SHAPES[n] for n in ndims)
        expected = f'{shapes}, sizes >= 1' + (f", for scan order '{name}'" if name else '')
        raise bad_argument('grid', expected, grid)
    return sizes
