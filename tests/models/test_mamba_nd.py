"""Mamba-ND in two dimensions, with true columns on grids that are not square.

Promised: blocks read rows, then columns, each in both directions, on any grid; merging takes the four tokens of a
square, with zeros where sides are odd; positions of other sizes are the trained ones resized.
"""

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.official import Case
from vimamba.mixers import Mamba1, MapScan
from vimamba.models.mamba_nd import MambaND, Merging
from vimamba.scans import create_order
from vimamba.testing import assert_parity, relative_l2

CASE = Case('mamba_nd_2d_small_224')


def test_blocks_alternate_between_axes_and_ways():
    model = timm.create_model('mamba_nd_2d_small', device='meta')
    scans = [list(module.names) for module in model.modules() if isinstance(module, MapScan)]
    assert scans == [['raster'], ['raster_reversed'], ['column'], ['column_reversed']] * 6
    assert [info['reduction'] for info in model.feature_info] == [8] * 10 + [16] * 14


@pytest.mark.parametrize('scan', ['raster', 'column_reversed', ('column', 'raster_reversed'), 'windows2'], ids=str)
@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (5, 2)], ids=str)
def test_reading_columns_is_reading_the_transposed_map_by_rows(grid, scan):
    torch.manual_seed(0)
    mixer = Mamba1(16, MapScan(scan), d_state=3, merge='sum').double()
    mixer.reset_parameters()
    x = torch.randn(2, *grid, 16, dtype=torch.float64)
    order = create_order(scan, grid)
    xz = F.pad(mixer.in_proj(x.flatten(1, 2)), (0, 0, 0, order.pads))
    want = torch.zeros_like(xz[..., :32])
    for k, route in enumerate(order.index):  # a one-way block in memory order, on tokens laid out in scan order
        block = Mamba1(16, create_order('raster', (order.length,)), d_state=3).double()
        block.projections, block.routes = mixer.projections[k : k + 1], mixer.routes[k : k + 1]
        block.in_proj = block.out_proj = torch.nn.Identity()
        want[:, route] += block(xz[:, route])
    want = mixer.out_proj(want[:, : grid[0] * grid[1]]).view_as(x)
    assert relative_l2(mixer(x), want) < 1e-12


@pytest.mark.parametrize('grid', [(4, 6), (5, 3), (1, 1)], ids=str)
def test_merging_takes_squares_channel_by_channel(grid):
    torch.manual_seed(0)
    merging = Merging(4)
    x = torch.randn(2, *grid, 4)
    image = F.pad(x, (0, 0, 0, grid[1] % 2, 0, grid[0] % 2)).permute(0, 3, 1, 2)
    squares = F.unfold(image, 2, stride=2).transpose(1, 2)  # channel first, then row, then column
    want = merging.reduction(merging.norm(squares))
    height, width = (side + side % 2 for side in grid)
    assert torch.allclose(merging(x), want.view(2, height // 2, width // 2, 4), atol=1e-6)


def test_steps_start_where_mamba_starts_them():
    model = MambaND(embed_dim=32, depth=2, merge_at=None)
    for module in model.modules():
        if isinstance(module, Mamba1):
            dt = F.softplus(module.projections[0].dt_proj.bias)
            assert ((dt > 0.9e-3) & (dt < 0.11)).all()


def test_weights_of_ours_come_out_of_a_detector(tmp_path):
    model = timm.create_model('test_mamba_nd_2d')
    torch.save({f'backbone.{key}': value for key, value in model.state_dict().items()}, tmp_path / 'detector.pth')
    file = {'pretrained': True, 'pretrained_cfg_overlay': {'file': str(tmp_path / 'detector.pth')}}
    again = timm.create_model('test_mamba_nd_2d', **file).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_a_file_in_its_wrapper_serves_another_size(tmp_path):
    torch.save({'meta': {}, 'state_dict': CASE.state_dict(), 'ema_state_dict': {}}, tmp_path / 'mamba2d_s.pth')
    overlay = {'file': str(tmp_path / 'mamba2d_s.pth')}
    fixed = timm.create_model('mamba_nd_2d_small', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    larger = timm.create_model(
        'mamba_nd_2d_small', pretrained=True, pretrained_cfg_overlay=overlay, img_size=(64, 104)
    ).eval()
    x = torch.randn(1, 3, 64, 104)
    with torch.no_grad():
        assert_parity(fixed(CASE.input()), CASE.outputs['logits'], 'logits')
        assert relative_l2(larger(x), fixed(x)) < 1e-5
