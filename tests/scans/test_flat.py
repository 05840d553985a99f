"""Each flat order is the one that its paper or its name says, and is defined on the grids that it should be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vimamba import scans
from vimamba.errors import UsageError
from vimamba.scans import flat

PLANES = st.tuples(st.integers(1, 24), st.integers(1, 24))
QUICK = settings(deadline=None, max_examples=50)
LINES = ['bidirectional', 'raster']
PLANAR = [name for name in flat.__all__ if name not in (*LINES, 'column')]


def coordinates(order, route=0):
    """(L, 2): the row and the column read at each step."""
    index = order.index[route]
    return torch.stack([index // order.grid[1], index % order.grid[1]], 1)


def is_continuous(order):
    return bool((coordinates(order).diff(dim=0).abs().sum(1) == 1).all())


def test_all_flat_orders_are_registered_and_public():
    assert set(flat.__all__) <= set(scans.list_orders())
    assert set(flat.__all__) <= set(scans.__all__)
    for name in flat.__all__:
        assert getattr(scans, name) is getattr(flat, name)


@pytest.mark.parametrize('name', LINES)
@pytest.mark.parametrize('grid', [(5,), (4, 6), (2, 3, 4)], ids=str)
def test_raster_orders_read_sequences_planes_and_clips(name, grid):
    order = scans.create_order(name, grid)
    tokens = torch.arange(order.length).view(grid).flatten()
    assert order.grid == grid
    assert torch.equal(order.index, torch.stack([tokens, tokens.flip(0)][: order.routes]))


def test_columns_of_a_clip_are_those_of_its_frames():
    plane, clip = scans.column((3, 4)).index, scans.column((2, 3, 4)).index
    assert torch.equal(clip, torch.cat([plane, plane + 12], 1))


@pytest.mark.parametrize('name', PLANAR)
@pytest.mark.parametrize('grid', [(5,), (2, 3, 4), (), (0, 3), (3, -1), (2, 2.5), '46', None], ids=str)
def test_planar_orders_refuse_what_is_no_plane_in_one_line(name, grid):
    with pytest.raises(UsageError) as error:
        scans.create_order(name, grid)
    assert str(error.value) == f"grid: expected (H, W), sizes >= 1, for scan order '{name}', got {grid}"


@given(PLANES)
@QUICK
def test_cross_is_the_cross_scan_of_vmamba(grid):
    # arXiv:2401.10166: x flattened, its transpose flattened, and both flipped
    x = torch.arange(grid[0] * grid[1]).view(grid)
    forth = torch.stack([x.flatten(), x.T.flatten()])
    order = flat.cross(grid)
    assert torch.equal(order.index, torch.cat([forth, forth.flip(1)]))
    assert order.flipped == (False, False, True, True)


@pytest.mark.parametrize('name', ['column', 'snake', 'zigzag', 'hilbert'])
@given(grid=PLANES)
@QUICK
def test_bidirectional_forms_go_forward_and_backward(name, grid):
    forth = scans.create_order(name, grid)
    assert scans.create_order(f'{name}_bidirectional', grid) == forth | forth.reversed()


@given(PLANES)
@QUICK
def test_snake_is_continuous_and_goes_row_after_row(grid):
    order = flat.snake(grid)
    assert is_continuous(order)
    rows = coordinates(order)[:, 0]
    assert torch.equal(rows, rows.sort().values)


def test_zigzag_is_that_of_jpeg():
    # ITU-T T.81, Figure A.6
    assert flat.zigzag((8, 8)).inverse.view(8, 8).tolist() == [
        [0, 1, 5, 6, 14, 15, 27, 28],
        [2, 4, 7, 13, 16, 26, 29, 42],
        [3, 8, 12, 17, 25, 30, 41, 43],
        [9, 11, 18, 24, 31, 40, 44, 53],
        [10, 19, 23, 32, 39, 45, 52, 54],
        [20, 22, 33, 38, 46, 51, 55, 60],
        [21, 34, 37, 47, 50, 56, 59, 61],
        [35, 36, 48, 49, 57, 58, 62, 63],
    ]


@given(PLANES)
@QUICK
def test_zigzag_never_leaves_a_diagonal_before_its_end(grid):
    diagonals = coordinates(flat.zigzag(grid)).sum(1)
    assert torch.equal(diagonals, diagonals.sort().values)
    assert (coordinates(flat.zigzag(grid)).diff(dim=0).abs() <= 1).all()


@pytest.mark.parametrize('height', range(1, 25))
def test_hilbert_goes_to_a_neighbour_in_every_step(height):
    for width in range(1, 49):
        assert is_continuous(flat.hilbert((height, width))), (height, width)


def hilbert_point(step, bits):
    """Hilbert's curve by its definition: the quadrant of each pair of bits, mirrored into place."""
    x = y = 0
    for bit in range(bits):
        quadrant = step >> (2 * bit) & 3
        right, low = quadrant >> 1, (quadrant ^ quadrant >> 1) & 1
        if low == 0:
            if right:
                x, y = 2**bit - 1 - x, 2**bit - 1 - y
            x, y = y, x
        x, y = x + right * 2**bit, y + low * 2**bit
    return [y, x]


@pytest.mark.parametrize('bits', range(6))
def test_hilbert_is_hilbert_s_own_curve_on_powers_of_two(bits):
    points = torch.tensor([hilbert_point(step, bits) for step in range(4**bits)])
    curve = coordinates(flat.hilbert((2**bits, 2**bits)))
    assert torch.equal(curve, points) or torch.equal(curve, points.flip(1))


@pytest.mark.parametrize('grid', [(14, 14), (15, 14), (13, 21), (8, 64), (9, 64), (8, 65)], ids=str)
def test_hilbert_keeps_what_is_near_in_the_sequence_near_in_space(grid):
    # a run of n tokens of a compact curve spans some sqrt(n) cells, of a raster or a snake n or the width
    points = coordinates(flat.hilbert(grid))
    runs = points.unfold(0, 16, 4)  # (runs, 2, 16)
    span = (runs.amax(2) - runs.amin(2) + 1).amax(1).double()
    assert span.mean() <= 6.5
    assert span.max() <= 12


@given(st.integers(1, 8), st.integers(1, 8))
@QUICK
def test_the_segments_of_strided_are_the_four_scans_of_efficient_vmamba(height, width):
    # arXiv:2403.09977: even rows are read by rows, odd rows by columns; even columns first
    x = torch.arange(4 * height * width).view(2 * height, 2 * width)
    scans = [x[::2, ::2].flatten(), x[1::2, ::2].T.flatten(), x[::2, 1::2].flatten(), x[1::2, 1::2].T.flatten()]
    assert torch.equal(flat.strided((2 * height, 2 * width)).index.view(4, -1), torch.stack(scans))


@given(PLANES, st.integers(1, 5))
@QUICK
def test_strided_finishes_a_sub_grid_before_the_next(grid, step):
    phases = coordinates(flat.strided(grid, step)) % step
    sub_grid = phases[:, 1] * step + phases[:, 0]
    assert torch.equal(sub_grid, sub_grid.sort().values)


@pytest.mark.parametrize('step', [0, -2])
def test_a_stride_below_one_is_refused(step):
    with pytest.raises(UsageError, match=f'^step: expected an integer >= 1, got {step}$'):
        flat.strided((4, 4), step)
