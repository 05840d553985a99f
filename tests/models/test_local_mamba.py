"""LocalMamba: searched routes, windows with padding and channel attention.

Promised: every route has its own weights, and its tokens return to their places on any grid, square or not, with
windows that do not divide it; positions of other sizes are the trained ones resized; released files load.
"""

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.official import Case, random_norms, save_detector
from vimamba.errors import UsageError
from vimamba.kernels.selective_scan import selective_scan
from vimamba.layers.rope import RotaryPositions
from vimamba.mixers import Mamba1
from vimamba.models.local_mamba import checkpoint_filter_fn
from vimamba.scans import create_order
from vimamba.scans.schedules import _searched, schedule
from vimamba.testing import assert_parity, relative_l2


@pytest.mark.parametrize('name', ['local_vim_tiny_224', 'local_vmamba_tiny_224'])
def test_the_schedules_are_the_official_lists(name):
    directions = Case(name).info['kwargs']['directions']
    short = '|'.join(' '.join(layer) for layer in directions)
    assert list(_searched(short)) == schedule(name.removesuffix('_224'), len(directions))


def naive_window(height, width, size):
    """Cells by window, row by row in each, and None where a window goes beyond the map."""
    cells = []
    for top in range(0, height, size):
        for left in range(0, width, size):
            for i in range(top, top + size):
                cells += [(i, j) if i < height and j < width else None for j in range(left, left + size)]
    return cells


@pytest.mark.parametrize('size', [2, 7])
@pytest.mark.parametrize('grid', [(4, 4), (5, 9), (1, 3), (8, 7)], ids=str)
def test_windows_read_their_cells_row_by_row(grid, size):
    order = create_order(f'windows{size}', grid)
    cells = naive_window(*grid, size)
    assert order.pads == sum(cell is None for cell in cells)
    for row, cell in zip(order.index[0].tolist(), cells, strict=True):
        assert row >= grid[0] * grid[1] if cell is None else row == cell[0] * grid[1] + cell[1]


def naive_route(name, grid):
    """A route as official code makes it: its own padding only, turned round with it."""
    name, backwards = name.removesuffix('_reversed'), name.endswith('_reversed')
    height, width = grid
    if name.startswith('windows'):
        cells = naive_window(height, width, int(name.removeprefix('windows')))
    else:
        cells = [(i, j) for i in range(height) for j in range(width)]
        cells = sorted(cells, key=lambda cell: cell[::-1]) if name == 'column' else cells
    rows = [None if cell is None else cell[0] * width + cell[1] for cell in cells]
    return rows[::-1] if backwards else rows


@pytest.mark.parametrize('grid', [(4, 4), (3, 5), (7, 2)], ids=str)
def test_the_sequence_mixer_is_the_official_one_on_any_grid(grid):
    torch.manual_seed(0)
    names = ('raster', 'column_reversed', 'windows2', 'windows7_reversed')
    mixer = Mamba1(16, create_order(names, grid), d_state=3, merge='attention').double()
    mixer.reset_parameters()
    tokens = torch.randn(2, grid[0] * grid[1], 16, dtype=torch.float64)
    x, z = mixer.in_proj(tokens).chunk(2, -1)
    out = torch.zeros_like(x)
    for name, own, route in zip(names, mixer.projections, mixer.routes):
        rows = naive_route(name, grid)
        u, gate = (
            torch.stack([torch.zeros_like(t[:, 0]) if row is None else t[:, row] for row in rows], 2) for t in (x, z)
        )
        u = F.silu(own.conv1d(u)[..., : len(rows)])
        dt, B, C = own.x_proj(u.transpose(1, 2)).split(mixer.splits, -1)
        delta = (dt @ own.dt_proj.weight.T).transpose(1, 2)
        weights = -route.A_log.exp(), B.transpose(1, 2), C.transpose(1, 2), own.D, gate, own.dt_proj.bias
        y = selective_scan(u, delta, *weights, True, backend='reference')
        back = torch.zeros_like(x)
        for step, row in enumerate(rows):
            if row is not None:
                back[:, row] = y[..., step]
        out += mixer.attention(back)
    assert relative_l2(mixer(tokens), mixer.out_proj(out)) < 1e-12


def test_rotations_turn_pairs_by_row_and_by_column():
    rope = RotaryPositions(8, (14, 14))
    x = torch.randn(2, 196, 8)
    out = rope(x).view(2, 14, 14, 8)
    x = x.view(2, 14, 14, 8)
    for row, column in ((0, 0), (3, 11), (13, 5)):
        for m, angle in enumerate((row, row / 100, column, column / 100)):
            a, b = x[:, row, column, 2 * m], x[:, row, column, 2 * m + 1]
            cos, sin = torch.tensor(float(angle)).cos(), torch.tensor(float(angle)).sin()
            assert torch.allclose(out[:, row, column, 2 * m], a * cos - b * sin, atol=1e-5)
            assert torch.allclose(out[:, row, column, 2 * m + 1], b * cos + a * sin, atol=1e-5)


def test_positions_of_another_size_are_the_trained_ones_resized(tmp_path):
    case = Case('local_vim_tiny_224')
    torch.save({'state_dict': case.state_dict()}, tmp_path / 'local.ckpt')
    overlay = {'file': str(tmp_path / 'local.ckpt')}
    model = timm.create_model('local_vim_tiny', pretrained=True, pretrained_cfg_overlay=overlay, img_size=(200, 300))
    assert model.patch_embed.grid_size == (13, 19)  # padded to whole patches
    trained = timm.create_model('local_vim_tiny')
    for ours, table in (
        (model.pos_embed, case.state_dict()['pos_embed']), (model.rope.cos, trained.rope.cos),
        (model.rope.sin, trained.rope.sin),
    ):  # fmt: skip
        want = F.interpolate(table.view(1, 14, 14, 192).permute(0, 3, 1, 2), (13, 19), mode='bicubic')
        assert torch.allclose(ours, want.flatten(2).transpose(1, 2), atol=1e-6)
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(1, 3, 200, 300))).all()


def test_the_released_pyramid_loads_from_its_wrapper(tmp_path):
    case = Case('local_vmamba_tiny_224')
    torch.save({'state_dict': case.state_dict()}, tmp_path / 'local.ckpt')
    overlay = {'file': str(tmp_path / 'local.ckpt')}
    model = timm.create_model('local_vmamba_tiny', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        assert_parity(model(case.input()), case.outputs['logits'], 'logits')


@pytest.mark.parametrize('blocks', [(4, 9, 14, 19), (19,)], ids=['segmentation', 'detection'])
def test_the_backbone_of_a_detector_gives_the_official_maps(tmp_path, blocks):
    """What the mixer of a block gives, not the sum, behind a LayerNorm; no final norm, no head, norms with biases."""
    weights, grid = Case('local_vim_tiny_224').state_dict(), (3, 4)
    weights = {key: value for key, value in weights.items() if not key.startswith(('head.', 'norm_f.'))}
    weights |= {f'layers.{i}.norm.bias': 0.1 * torch.randn(192) for i in range(20)}
    weights |= {'pos_embed': torch.randn(1, 12, 192), 'rope.freqs_cos': torch.ones(12, 192)}
    norms = random_norms([192] * len(blocks), 'outnorm_{}')
    file = save_detector(tmp_path / 'seg.pth', {**weights, **norms})
    options = {'img_size': (48, 64), 'norm': 'layer'}
    load = {'pretrained': True, 'pretrained_cfg_overlay': {'file': file}, 'features_only': True, 'feature_norm': True}
    model = timm.create_model('local_vim_tiny', out_indices=blocks, **load, **options).eval()

    plain = timm.create_model('local_vim_tiny', **options).eval()
    own = checkpoint_filter_fn(weights, plain)
    assert plain.load_state_dict(own, strict=False).unexpected_keys == []
    added = {}
    for i, block in enumerate(plain.blocks):
        block.mixer.register_forward_hook(lambda m, args, out, i=i: added.update({i: out}))
    x = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        plain(x)
        for j, (got, i) in enumerate(zip(model(x), blocks, strict=True)):
            want = F.layer_norm(added[i], [192], norms[f'outnorm_{j}.weight'], norms[f'outnorm_{j}.bias'])
            assert relative_l2(got, want.transpose(1, 2).unflatten(2, grid)) < 1e-6
    with pytest.raises(UsageError, match='out_indices: expected'):
        timm.create_model('local_vim_tiny', out_indices=(1, 2, 3), **load, **options)


def test_the_backbone_of_a_pyramid_loads_with_its_norms(tmp_path):
    weights = Case('local_vmamba_tiny_224').state_dict()
    weights = {key: value for key, value in weights.items() if not key.startswith('classifier.')}
    norms = random_norms([96, 192, 384, 768])
    load = {'pretrained': True, 'features_only': True}
    file = save_detector(tmp_path / 'det.pth', {**weights, **norms})
    overlay = {'file': file}
    model = timm.create_model('local_vmamba_tiny', pretrained_cfg_overlay=overlay, feature_norm=True, **load).eval()
    overlay = {'file': save_detector(tmp_path / 'bare.pth', weights)}
    plain = timm.create_model('local_vmamba_tiny', pretrained_cfg_overlay=overlay, **load).eval()
    x = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        for i, (got, feature) in enumerate(zip(model(x), plain(x), strict=True)):
            norm = norms[f'outnorm{i}.weight'], norms[f'outnorm{i}.bias']
            want = F.layer_norm(feature.permute(0, 2, 3, 1), feature.shape[1:2], *norm).permute(0, 3, 1, 2)
            assert relative_l2(got, want) < 1e-6


def test_a_classifier_starts_the_backbone_of_dense_tasks():
    """Which has LayerNorms instead: their weights are those of the RMS norms, and their biases start at 0."""
    classifier = timm.create_model('test_local_vim')
    for block in classifier.blocks:
        torch.nn.init.uniform_(block.norm.weight)
    overlay = {'state_dict': {'state_dict': classifier.state_dict()}}
    options = {'norm': 'layer', 'feature_norm': True, 'features_only': True, 'out_indices': (0, 1, 2, 3)}
    backbone = timm.create_model('test_local_vim', pretrained=True, pretrained_cfg_overlay=overlay, **options).model
    for own, official in zip(backbone.blocks, classifier.blocks, strict=True):
        assert isinstance(own.norm, torch.nn.LayerNorm)
        assert torch.equal(own.norm.weight, official.norm.weight)
        assert not own.norm.bias.any()
        assert torch.equal(own.mixer.out_proj.weight, official.mixer.out_proj.weight)
