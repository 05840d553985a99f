"""What a ScanOrder promises beside its laws: reversing, joining, class tokens, suffixes of names, clear refusals."""

import copy
import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vimamba.errors import UsageError
from vimamba.scans import (
    ScanOrder,
    bidirectional,
    column,
    create_order,
    cross,
    hilbert,
    list_orders,
    raster,
    register_order,
    schedule,
    snake,
    strided,
    tube,
    windows,
    zigzag,
)
from vimamba.scans.order import ORDERS

PLANES = st.tuples(st.integers(1, 10), st.integers(1, 10))
QUICK = settings(deadline=None, max_examples=50)


@st.composite
def permutations(draw):
    """An order of 1 to 3 arbitrary routes over an arbitrary plane, with arbitrary directions."""
    grid = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    routes = draw(st.lists(st.permutations(range(grid[0] * grid[1])), min_size=1, max_size=3))
    flipped = draw(st.tuples(*[st.booleans()] * len(routes)))
    return ScanOrder(torch.tensor(routes), grid, flipped)


# reversing and joining


@given(permutations())
@QUICK
def test_reversing_walks_backwards_and_twice_is_nothing(order):
    back = order.reversed()
    assert torch.equal(back.index, order.index.flip(1))
    assert torch.equal(back.inverse, order.length - 1 - order.inverse)
    assert back.flipped == tuple(not flag for flag in order.flipped)
    assert back.reversed() == order


@given(permutations())
@QUICK
def test_joining_keeps_the_routes_of_both(order):
    both = order | order.reversed()
    assert both.routes == 2 * order.routes
    assert both.length == order.length
    assert torch.equal(both.index, torch.cat([order.index, order.index.flip(1)]))
    assert both.flipped == order.flipped + order.reversed().flipped


@pytest.mark.parametrize('other', [raster((2, 6)), raster((12,)), raster((3, 4)).insert(0)], ids=repr)
def test_orders_over_other_tokens_do_not_join(other):
    with pytest.raises(UsageError, match=r'^a \| b: expected two orders over the same tokens'):
        raster((3, 4)) | other


# class tokens


@given(PLANES, st.data())
@QUICK
def test_vim_s_class_token(grid, data):
    # arXiv:2401.09417: the sequence with its class token at row p, and that same sequence read backwards
    tokens = grid[0] * grid[1]
    p = data.draw(st.integers(0, tokens))
    forth = raster(grid).insert(p)
    assert torch.equal(forth.index, torch.arange(tokens + 1)[None])
    assert bidirectional(grid).insert(p) == forth | forth.reversed()


@given(permutations(), st.data())
@QUICK
def test_a_class_token_moves_nothing_else(order, data):
    p = data.draw(st.integers(0, order.length))
    inserted = order.insert(p)
    assert inserted.length == order.length + 1
    assert inserted.class_rows == (p,)
    assert inserted.flipped == order.flipped
    assert inserted.reversed() == order.reversed().insert(p)
    for route, without, flag in zip(inserted.index, order.index, inserted.flipped):
        assert (route == p).nonzero().item() == (order.length - p if flag else p)
        rest = route[route != p]
        assert torch.equal(rest - (rest > p).long(), without)


@given(st.data())
@QUICK
def test_a_second_class_token_moves_the_first(data):
    order = cross((3, 4))
    first = data.draw(st.integers(0, 12))
    second = data.draw(st.integers(0, 13))
    twice = order.insert(first).insert(second)
    assert twice.class_rows == (first + (first >= second), second)
    x = torch.arange(14)
    cells = [row for row in range(14) if row not in twice.class_rows]
    read = twice.scan(x, dim=-1)
    for k in range(4):
        assert [cells.index(row) for row in read[k].tolist() if row in cells] == order.index[k].tolist()


@pytest.mark.parametrize('row', [-1, 13])
def test_a_class_token_outside_is_refused(row):
    with pytest.raises(UsageError, match=rf'^row: expected an integer from 0 to 12, got {row}$'):
        raster((3, 4)).insert(row)


# the object


def test_an_order_is_immutable_and_keeps_its_own_index():
    index = torch.tensor([[0, 2, 1, 3]])
    order = ScanOrder(index, (2, 2))
    index[0, 0] = 7
    assert order.index.tolist() == [[0, 2, 1, 3]]
    with pytest.raises(dataclasses.FrozenInstanceError):
        order.grid = (4, 1)


def test_equality_and_hash_follow_the_content():
    order = cross((3, 4))
    for same in (copy.deepcopy(order), pickle.loads(pickle.dumps(order)), order.to('cpu')):
        assert same == order
        assert hash(same) == hash(order)
    others = [cross((4, 3)), cross((3, 4)).insert(0), cross((3, 4)).reversed(), raster((3, 4)), 'cross']
    assert all(order != other for other in others)
    assert ScanOrder(order.index, order.grid) != order  # the directions differ


def test_repr_is_one_short_line():
    assert repr(cross((224, 224))) == 'ScanOrder(routes=4, length=50176, grid=(224, 224))'
    assert repr(raster((2, 2)).insert(2)) == 'ScanOrder(routes=1, length=5, grid=(2, 2), class_rows=(2,))'


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_an_order_moves_to_a_device_and_serves_tensors_of_any():
    order = hilbert((5, 6)).to('cuda')
    assert order.index.is_cuda
    assert order.inverse.is_cuda
    assert order == hilbert((5, 6))
    x = torch.arange(60, device='cuda').view(30, 2)
    assert torch.equal(cross((5, 6)).merge(cross((5, 6)).scan(x)), 4 * x)


@pytest.mark.parametrize('name', list_orders())
def test_an_order_first_made_on_meta_in_inference_serves_training(name):
    # the cache outlives the context in which the order was asked for
    with torch.device('meta'), torch.inference_mode():
        order = next(create_order(name, grid) for grid in [(29, 31), (6, 7, 8), (997,)] if accepts(name, grid))
    assert order.index.device.type == order.inverse.device.type == 'cpu'
    x = torch.ones(order.length, 2, requires_grad=True)
    order.merge(order.scan(x)).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, order.routes))


def accepts(name, grid):
    try:
        create_order(name, grid)
    except UsageError:
        return False
    return True


def test_an_order_made_by_hand_in_inference_serves_training():
    with torch.inference_mode():
        order = ScanOrder(torch.tensor([[1, 0]]), (2,))
    x = torch.ones(2, 1, requires_grad=True)
    order.scan(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 1))


def test_scan_and_merge_compile_into_one_graph():
    order = snake((3, 4)) | zigzag((3, 4))
    compiled = torch.compile(lambda x: order.merge(order.scan(x).cumsum(-2)), fullgraph=True, backend='eager')
    x = torch.arange(24).view(12, 2)
    assert torch.equal(compiled(x), order.merge(order.scan(x).cumsum(-2)))


# refusals


@pytest.mark.parametrize(
    ('index', 'grid', 'message'),
    [
        (torch.zeros(1, 4), (2, 2), r'^index: expected \(K, L\) int64 .* torch\.float32$'),
        (torch.arange(4), (2, 2), r'^index: expected \(K, L\) int64 .* got \(4,\)'),
        (torch.zeros(0, 4, dtype=torch.int64), (2, 2), r'^index: expected \(K, L\) int64 with K >= 1'),
        (torch.arange(4)[None], (2, 3), r'^index: expected L = 6 cells of \(2, 3\), got L = 4$'),
        (torch.tensor([[0, 1, 2], [0, 2, 2]]), (3,), r'^index: expected each of the rows 0 \.\.\. 2 once .* route 1$'),
        (torch.tensor([[1, 2, 3]]), (3,), r'^index: expected each of the rows 0 \.\.\. 2 once .* route 0$'),
        (torch.tensor([[0, -1]]), (2,), r'^index: expected each of the rows 0 \.\.\. 1 once .* route 0$'),
        (torch.arange(4)[None], (4, 0), r'^grid: expected .*sizes >= 1, got \(4, 0\)$'),
        (torch.arange(4)[None], (1, 1, 1, 4), r'^grid: expected'),
        (torch.arange(4)[None], 4, r'^grid: expected .* got 4$'),
    ],
)
def test_an_index_that_is_no_order_is_refused(index, grid, message):
    with pytest.raises(UsageError, match=message):
        ScanOrder(index, grid)


def test_flags_and_class_rows_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r'^flipped: expected 1 flags, one for each route, got \(True, False\)$'):
        ScanOrder(torch.arange(4)[None], (2, 2), flipped=(True, False))
    with pytest.raises(UsageError, match=r'^index: expected L = 4 cells of \(2, 2\) and 1 class token'):
        ScanOrder(torch.arange(4)[None], (2, 2), class_rows=(0,))
    for rows in [(6, 0), (1, 1), (-1, 0)]:
        with pytest.raises(UsageError, match=r'^class_rows: expected different rows from 0 to 5'):
            ScanOrder(torch.arange(6)[None], (2, 2), class_rows=rows)


def test_tensors_of_another_size_are_refused():
    order = cross((3, 4))
    with pytest.raises(UsageError, match=r'^x: expected size 12 in dimension -2, got shape \(2, 11, 3\)$'):
        order.scan(torch.zeros(2, 11, 3))
    with pytest.raises(UsageError, match=r'^y: expected size 4 in dimension -3 and size 12 in dimension -2'):
        order.merge(torch.zeros(2, 12, 3))
    with pytest.raises(UsageError, match=r'^y: expected .* got shape \(12, 3\)$'):
        order.merge(torch.zeros(12, 3))
    with pytest.raises(UsageError, match=r'^dim: expected .* counted from the end, -1 or -2, got 0$'):
        order.scan(torch.zeros(12, 3), dim=0)


# the registry


def test_an_order_is_made_once_per_grid():
    assert create_order('hilbert', (5, 6)) is create_order('hilbert', [5, 6]) is hilbert(torch.Size((5, 6)))
    assert create_order('hilbert_reversed', (5, 6)) is create_order('hilbert_reversed', [5, 6])
    assert strided((6, 6)) != strided((6, 6), step=3)


@pytest.mark.parametrize(
    ('name', 'nearest'),
    [
        ('hilbrt', 'hilbert'),
        ('hilbrt_bidirectional', 'hilbert'),
        ('windws7_reversed', 'windows'),
        ('raster7', 'raster'),
        ('raster_revrsed', 'raster'),
        ('snake_colum', 'snake_column'),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    said = rf"unknown scan order '.+': did you mean '{nearest}'\? known: .*_bidirectional and _reversed"
    with pytest.raises(UsageError, match=said):
        create_order(name, (4, 4))
    with pytest.raises(UsageError, match=said):
        schedule(name, 2)


@pytest.mark.parametrize('name', ['', '_reversed', 'reversed', '7', 'windows7_', 'windows_7', 'windows-7', '_'])
def test_what_is_not_a_name_is_refused(name):
    with pytest.raises(UsageError, match=r'^unknown scan order'):
        create_order(name, (4, 4))


def test_sizes_and_suffixes_are_applied_from_left_to_right():
    grid = (5, 6)
    assert create_order('windows3', grid) == windows(grid, 3)
    assert create_order('strided3', grid) == strided(grid, 3)
    assert create_order('tube2', (5, 1, 2)) == tube((5, 1, 2), 2)
    both = create_order('windows2_bidirectional', grid)
    assert both == windows(grid, 2) | windows(grid, 2).reversed()
    assert create_order('windows2_bidirectional_reversed', grid) == both.reversed()
    back = hilbert(grid).reversed()
    assert create_order('hilbert_reversed_bidirectional', grid) == back | hilbert(grid)
    assert create_order('bidirectional', grid) == create_order('raster_bidirectional', grid)
    assert create_order('cross_reversed', grid) == cross(grid).reversed()
    assert schedule('windows2_bidirectional_reversed', 2) == ['windows2_bidirectional_reversed'] * 2


def test_names_that_make_no_sense_are_refused():
    for name in ('cross_bidirectional', 'hilbert_bidirectional_bidirectional'):
        with pytest.raises(UsageError, match=r'^_bidirectional: .* leave the suffix out$'):
            create_order(name, (4, 4))
    with pytest.raises(UsageError, match=r'^size: expected an integer >= 1, got 0$'):
        create_order('windows0', (4, 4))


def test_a_registered_name_wins_over_a_suffix(monkeypatch):
    monkeypatch.setattr('vimamba.scans.order.ORDERS', dict(ORDERS))

    @register_order(2)
    def row2_reversed(grid):
        return raster(grid)

    assert create_order('row2_reversed', (2, 3)) == raster((2, 3))
    assert create_order('row2_reversed_bidirectional', (2, 3)) == create_order('bidirectional', (2, 3))


def test_a_registered_order_is_known_by_its_name(monkeypatch):
    monkeypatch.setattr('vimamba.scans.order.ORDERS', dict(ORDERS))
    built = []

    @register_order(1)
    def last_first(grid):
        """The last token, then the others."""
        built.append(grid)
        return ScanOrder(torch.arange(grid[0]).roll(1)[None], grid)

    assert 'last_first' in list_orders()
    assert create_order('last_first', [3]).index.tolist() == [[2, 0, 1]]
    assert last_first((3,)) is create_order('last_first', (3,))
    assert built == [(3,)]
    assert last_first.__doc__ == 'The last token, then the others.'
    with pytest.raises(
        UsageError, match=r"^grid: expected \(L,\), sizes >= 1, for scan order 'last_first', got \(3, 3\)"
    ):
        last_first((3, 3))


def test_a_name_of_another_module_cannot_be_taken(monkeypatch):
    monkeypatch.setattr('vimamba.scans.order.ORDERS', dict(ORDERS))
    with pytest.raises(UsageError, match=r"^scan order 'raster' is registered by vimamba\.scans\.flat"):

        @register_order(2)
        def raster(grid):
            return column(grid)

    assert create_order('raster', (2, 2)).index.tolist() == [[0, 1, 2, 3]]
