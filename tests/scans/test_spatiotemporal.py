"""Orders over clips: what is next to what in each, and what they are on one frame."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vimamba import scans
from vimamba.errors import UsageError
from vimamba.scans import spatiotemporal

CLIPS = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))


def places(order):
    """(t, y, x) at every step of the first route."""
    _, height, width = order.grid
    index = order.index[0]
    return torch.stack([index // (height * width), index // width % height, index % width], 1)


@given(CLIPS)
@settings(deadline=None, max_examples=50)
def test_spatial_first_is_raster_and_temporal_first_moves_time_fastest(grid):
    assert torch.equal(scans.spatial_first(grid).index, scans.raster(grid).index)
    keys = places(scans.temporal_first(grid)).tolist()
    assert keys == sorted(keys, key=lambda place: (place[1], place[2], place[0]))
    keys = places(scans.temporal_columns(grid)).tolist()
    assert keys == sorted(keys, key=lambda place: (place[2], place[1], place[0]))


@given(CLIPS, st.integers(1, 8))
@settings(deadline=None, max_examples=50)
def test_a_tube_is_temporal_first_in_blocks_of_time(grid, frames):
    keys = places(scans.tube(grid, frames)).tolist()
    assert keys == sorted(keys, key=lambda place: (place[0] // frames, place[1], place[2], place[0]))
    if frames == 1:
        assert torch.equal(scans.tube(grid, 1).index, scans.spatial_first(grid).index)
    if frames >= grid[0]:
        assert torch.equal(scans.tube(grid, frames).index, scans.temporal_first(grid).index)


@pytest.mark.parametrize('name', [*spatiotemporal.__all__, 'tube2', 'tube2_bidirectional'])
def test_a_clip_of_one_frame_is_an_image(name):
    order = scans.create_order(name, (1, 3, 4))
    image = scans.column((3, 4)) if name == 'temporal_columns' else scans.raster((3, 4))
    assert torch.equal(order.index[:1], image.index)
    assert order.routes == 1 + name.endswith('bidirectional')


def test_a_block_of_no_frames_is_refused():
    with pytest.raises(UsageError, match='frames: expected an integer >= 1, got 0'):
        scans.tube((2, 2, 2), 0)


def test_mamba_nds_axes_over_clips_are_its_cycle_of_six():
    """arXiv:2402.05892: (t, h, w), (t, w, h), (w, h, t), each there and then back."""
    cells = torch.arange(24).view(2, 3, 4)
    axes = [cells, cells.permute(0, 2, 1), cells.permute(2, 1, 0)]
    for i, names in enumerate(scans.schedule('axes_3d', 12)):
        (name,) = names
        expected = axes[i % 6 // 2].flatten()
        assert torch.equal(scans.create_order(name, (2, 3, 4)).index[0], expected.flip(0) if i % 2 else expected)
