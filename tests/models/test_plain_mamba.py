"""PlainMamba: snakes and directions on maps of any size.

Promised: routes and step codes are the paper's on any grid; delta, B and C stay in memory order as in official code;
positions of other sizes are the trained ones resized; files with buffers of averages load.
"""

import itertools

import pytest
import timm
import timm.optim
import torch
import torch.nn.functional as F

from tests.models.cores import on_map
from tests.models.official import Case, random_norms, save_detector
from vimamba.kernels.selective_scan import selective_scan
from vimamba.mixers import DirectionalScan
from vimamba.mixers.plain_mamba import SNAKES, find_directions
from vimamba.models.plain_mamba import checkpoint_filter_fn
from vimamba.scans import create_order
from vimamba.testing import assert_parity, relative_l2

CASE = Case('plain_mamba_l1_224')


def naive_snakes(height, width):
    """The four paths as lists of cells, walked step by step."""
    rows = [(i, j if i % 2 == 0 else width - 1 - j) for i in range(height) for j in range(width)]
    columns = [(i if j % 2 == 0 else height - 1 - i, j) for j in range(width) for i in range(height)]
    return [rows, rows[::-1], columns, columns[::-1]]


CODES = {(0, 1): 1, (0, -1): 2, (-1, 0): 3, (1, 0): 4}


@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (4, 3), (1, 4), (5, 1)], ids=str)
def test_snakes_and_their_directions(grid):
    order = create_order(SNAKES, grid)
    for route, codes, cells in zip(order.index, find_directions(order), naive_snakes(*grid), strict=True):
        assert route.tolist() == [i * grid[1] + j for i, j in cells]
        moves = [CODES[b[0] - a[0], b[1] - a[1]] for a, b in itertools.pairwise(cells)]
        assert codes.tolist() == [0, *moves]


@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (6, 3)], ids=str)
def test_only_the_input_follows_the_route(grid):
    torch.manual_seed(0)
    ssm = DirectionalScan(8, 4, d_model=32, d_state=3).double()
    ssm.reset_parameters()
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    tokens = x.flatten(1, 2)
    dt, B, C = (tokens @ ssm.x_proj.T).split(ssm.splits, -1)
    delta = dt @ ssm.dt_proj.T + ssm.dt_bias
    want = torch.zeros_like(tokens)
    for cells in naive_snakes(*grid):
        rows = [i * grid[1] + j for i, j in cells]
        codes = [0, *(CODES[b[0] - a[0], b[1] - a[1]] for a, b in itertools.pairwise(cells))]
        sequence = (t.transpose(1, 2) for t in (tokens[:, rows], delta))
        weights = -ssm.A_log.exp(), (B + ssm.directions[codes]).transpose(1, 2), C.transpose(1, 2), ssm.D
        y = selective_scan(*sequence, *weights, None, ssm.dt_bias, True, backend='reference')
        want[:, rows] += y.transpose(1, 2)
    assert relative_l2(on_map(ssm, x, SNAKES), want.view_as(x)) < 1e-12


def test_positions_of_another_size_are_the_trained_ones_resized():
    model = timm.create_model('plain_mamba_l1').eval()
    model.load_state_dict(checkpoint_filter_fn(CASE.state_dict(), model))
    table = CASE.state_dict()['backbone.pos_embed'].view(1, 14, 14, 192).permute(0, 3, 1, 2)
    want = F.interpolate(table, (16, 13), mode='bicubic').permute(0, 2, 3, 1)
    assert torch.allclose(model.stem[2](torch.zeros(1, 16, 13, 192)), want, atol=1e-6)
    larger = timm.create_model('plain_mamba_l1', img_size=(256, 200)).eval()  # its table is resized once, on loading
    larger.load_state_dict(checkpoint_filter_fn(CASE.state_dict(), larger))
    x = torch.randn(1, 3, 256, 200)
    with torch.no_grad():
        assert relative_l2(larger(x), model(x)) < 1e-5


def test_a_file_with_averages_beside_the_weights_loads(tmp_path):
    weights = CASE.state_dict()
    averages = {f'ema_{key.replace(".", "_")}': torch.zeros_like(value) for key, value in weights.items()}
    torch.save({'meta': {'epoch': 300}, 'state_dict': {**weights, **averages}}, tmp_path / 'l1.pth')
    overlay = {'file': str(tmp_path / 'l1.pth')}
    model = timm.create_model('plain_mamba_l1', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        assert_parity(model(CASE.input()), CASE.outputs['logits'], 'logits')


def test_the_backbone_of_official_segmentation_gives_its_maps(tmp_path):
    """A norm for the map of each chosen layer but the last, whose norm is the final one."""
    layers, width = (5, 11, 17, 23), 192
    names = {key: value for key, value in CASE.state_dict().items() if key.startswith('backbone.')}
    weights = {key.removeprefix('backbone.'): value for key, value in names.items()}
    norms = {i: random_norms([width], f'norm_layer{i}') for i in layers[:-1]}
    extra = {key: value for norm in norms.values() for key, value in norm.items()}
    file = save_detector(tmp_path / 'seg.pth', {**weights, **extra})
    load = {'pretrained': True, 'pretrained_cfg_overlay': {'file': file}, 'features_only': True}
    model = timm.create_model('plain_mamba_l1', feature_norm=True, out_indices=layers, **load).eval()
    file = save_detector(tmp_path / 'bare.pth', weights)
    load['pretrained_cfg_overlay'] = {'file': file}
    plain = timm.create_model('plain_mamba_l1', out_indices=layers, **load).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for i, got, feature in zip(layers, model(x), plain(x), strict=True):
            norm = norms.get(i) or {key: weights[f'ln1.{key}'] for key in ('weight', 'bias')}
            want = F.layer_norm(feature.permute(0, 2, 3, 1), [width], *norm.values(), eps=1e-6)
            assert relative_l2(got, want.permute(0, 3, 1, 2)) < 1e-6


def test_the_weights_that_the_authors_do_not_decay_are_not_decayed():
    """Positions, A_log, D, directions, norms and biases: ``paramwise_cfg`` of the official configurations."""
    model = timm.create_model('test_plain_mamba')
    optimizer = timm.optim.create_optimizer_v2(model, 'adamw', lr=1.0, weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group['weight_decay'] for p in group['params']}
    assert decayed == {
        name
        for name, p in model.named_parameters()
        if p.ndim > 1 and not name.endswith(('table', 'A_log', 'directions'))
    }
    assert any(name.endswith('x_proj') for name in decayed)
    assert any(name.endswith('directions') for name in names.values())
