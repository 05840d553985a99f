"""The three laws of a scan order, for every registered order and derived names, on sequences, planes and clips.

(1) Every route visits every token once. (2) merge(scan(x)) = K x, bit for bit on integers. (3) merge is the adjoint
of scan, and each is the other's backward. An order registered anywhere is held to them without a line here.
"""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vimamba.errors import UsageError
from vimamba.scans import create_order, list_orders

SAMPLES = {1: (6,), 2: (4, 6), 3: (2, 3, 4)}


def defined(name, grid):
    try:
        create_order(name, grid)
    except UsageError:
        return False
    return True


DERIVED = ['column_bidirectional', 'snake_bidirectional', 'zigzag_bidirectional', 'hilbert_bidirectional', 'windows2',
           'windows7', 'tube2', 'tube4', 'spatial_first_bidirectional', 'temporal_first_bidirectional',
           'tube2_bidirectional', 'windows3_bidirectional_reversed', 'strided3_reversed', 'cross_reversed']  # fmt: skip
NAMES = [*list_orders(), *DERIVED]
CASES = [(name, ndim) for name in NAMES for ndim, grid in SAMPLES.items() if defined(name, grid)]
LAW = pytest.mark.parametrize(('name', 'ndim'), CASES)


def grids(ndim):
    """Square, non-square, 1-wide and single-cell grids."""
    wide = 12 if ndim < 3 else 5
    any_size = st.tuples(*[st.integers(1, wide)] * ndim)
    square = st.integers(1, wide).map(lambda n: (n,) * ndim)
    thin = st.tuples(st.integers(0, ndim - 1), st.integers(1, 40)).map(
        lambda where: tuple(where[1] if d == where[0] else 1 for d in range(ndim))
    )
    return st.one_of(any_size, square, thin, st.just((1,) * ndim))


def integers(shape, seed, high=100):
    return torch.randint(-high, high, shape, generator=torch.Generator().manual_seed(seed))


def test_every_order_has_a_case():
    assert {name for name, _ in CASES} == set(NAMES)


@LAW
@given(st.data())
@settings(deadline=None, max_examples=30)
def test_every_route_visits_every_token_once(name, ndim, data):
    order = create_order(name, data.draw(grids(ndim)))
    tokens = torch.arange(order.length)
    for route, inverse in zip(order.index, order.inverse):
        assert torch.equal(route.sort().values, tokens)
        assert torch.equal(route[inverse], tokens)
        assert torch.equal(inverse[route], tokens)


@LAW
@given(st.data(), st.integers(0, 2**31), st.sampled_from([torch.int64, torch.int32, torch.int8]))
@settings(deadline=None, max_examples=30)
def test_merging_a_scan_gives_every_token_once_per_route(name, ndim, data, seed, dtype):
    order = create_order(name, data.draw(grids(ndim)))
    x = integers((2, order.length, 3), seed).to(dtype)
    y = order.scan(x)
    assert y.shape == (2, order.routes, order.length, 3)
    assert torch.equal(y[:, -1, 0], x[:, order.index[-1, 0]])
    merged = order.merge(y)
    assert merged.dtype == dtype
    assert torch.equal(merged, order.routes * x)


@LAW
@given(st.data(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_merge_is_the_adjoint_of_scan_and_each_is_the_other_s_backward(name, ndim, data, seed):
    order = create_order(name, data.draw(grids(ndim)))
    # integers below 100 in float64: every sum is exact, so equal means equal
    x = integers((2, order.length, 3), seed).double().requires_grad_()
    y = integers((2, order.routes, order.length, 3), seed + 1).double().requires_grad_()
    scanned, merged = order.scan(x), order.merge(y)
    assert (scanned * y).sum() == (x * merged).sum()
    assert torch.equal(torch.autograd.grad(scanned, x, y)[0], merged)
    assert torch.equal(torch.autograd.grad(merged, y, x)[0], scanned)


@LAW
def test_both_pass_gradcheck(name, ndim):
    order = create_order(name, (2,) * ndim)
    x = torch.randn(order.length, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(order.scan, x)
    assert torch.autograd.gradcheck(order.merge, order.scan(x).detach().requires_grad_())


@given(shape=st.lists(st.integers(0, 3), max_size=3), seed=st.integers(0, 2**31))
@example(shape=[], seed=0)
@settings(deadline=None, max_examples=30)
def test_any_leading_dimensions_and_either_layout(shape, seed):
    order = create_order('cross', (3, 4))
    x = integers((*shape, 12, 5), seed)
    y = order.scan(x)
    assert y.shape == (*shape, 4, 12, 5)
    y_first = y.movedim(-1, -3)  # (..., D, K, L), strided
    assert torch.equal(order.scan(x.mT, dim=-1), y_first)
    assert torch.equal(order.merge(y_first, dim=-1).mT, order.merge(y))
