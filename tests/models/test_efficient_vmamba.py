"""EfficientVMamba: sub-grids on maps of any size.

Promised: every token is read once, by the sub-grid that the paper gives it, with zeros where sides are odd; released
files load with their prefix and with the names of old ones.
"""

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.cores import on_map
from tests.models.official import Case, random_norms, save_detector
from vimamba.kernels.selective_scan import selective_scan
from vimamba.mixers import StridedScan
from vimamba.scans import create_order
from vimamba.testing import assert_parity, relative_l2

CASE = Case('efficient_vmamba_tiny_224')


@pytest.mark.parametrize('step', [1, 2, 3])
@pytest.mark.parametrize('grid', [(4, 6), (5, 7), (1, 4)], ids=str)
def test_sub_grids_are_scanned_on_their_own(grid, step):
    torch.manual_seed(0)
    ssm = StridedScan(8, 1, step, d_state=3, dt_rank=2)
    ssm.reset_parameters()
    x = torch.randn(2, *grid, 8)
    padded = F.pad(x, (0, 0, 0, -grid[1] % step, 0, -grid[0] % step))
    want = torch.zeros_like(padded)
    for k in range(step * step):
        row, column = k % step, k // step
        part = padded[:, row::step, column::step]
        part = part.transpose(1, 2) if row % 2 else part
        u = part.flatten(1, 2)
        dt, B, C = (u @ ssm.x_proj[k].T).split(ssm.splits, -1)
        sequence = (t.transpose(1, 2) for t in (u, dt @ ssm.dt_proj[k].T))
        weights = -ssm.A_log[k].exp(), B.transpose(1, 2), C.transpose(1, 2), ssm.D[k]
        y = selective_scan(*sequence, *weights, None, ssm.dt_bias[k], True, backend='reference')
        y = y.transpose(1, 2).view(part.shape)
        want[:, row::step, column::step] = y.transpose(1, 2) if row % 2 else y
    assert relative_l2(on_map(ssm, x, 'raster'), want[:, : grid[0], : grid[1]]) < 1e-6


def test_the_sub_grids_are_the_segments_of_the_strided_order():
    rows = torch.arange(4 * 6).view(4, 6)
    segments = [rows[k % 2 :: 2, k // 2 :: 2] for k in range(4)]
    segments = [(part.T if k % 2 else part).flatten() for k, part in enumerate(segments)]
    assert torch.equal(create_order('strided', (4, 6)).index.view(4, -1), torch.stack(segments))


def old_names(weights):
    swaps = {
        '.norm.': '.ln_1.', '.op.': '.self_attention.', 'patch_embed.0.': 'patch_embed.proj.',
        'patch_embed.2.': 'patch_embed.norm.', 'classifier.norm.': 'norm.', 'classifier.head.': 'head.',
    }  # fmt: skip
    renamed = {}
    for key, value in weights.items():
        for new, old in swaps.items():
            if new != '.norm.' or ('.blocks.' in key and '.se.' not in key):
                key = key.replace(new, old)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize('prefix', ['', 'module.', 'module.module.'])
@pytest.mark.parametrize('names', [dict, old_names])
def test_released_files_load(tmp_path, prefix, names):
    weights = {prefix + key: value for key, value in names(CASE.state_dict()).items()}
    torch.save({'state_dict': weights, 'epoch': 300}, tmp_path / 'tiny.ckpt')
    overlay = {'file': str(tmp_path / 'tiny.ckpt')}
    model = timm.create_model('efficient_vmamba_tiny', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        assert_parity(model(CASE.input()), CASE.outputs['logits'], 'logits')


def test_the_backbone_of_a_detector_gives_the_official_maps(tmp_path):
    weights = {key: value for key, value in CASE.state_dict().items() if not key.startswith('classifier.')}
    norms = random_norms([48, 96, 192, 384])
    load = {'pretrained': True, 'features_only': True}
    overlay = {'file': save_detector(tmp_path / 'det.pth', {**weights, **norms})}
    model = timm.create_model('efficient_vmamba_tiny', feature_norm=True, pretrained_cfg_overlay=overlay, **load)
    overlay = {'file': save_detector(tmp_path / 'bare.pth', weights)}
    plain = timm.create_model('efficient_vmamba_tiny', pretrained_cfg_overlay=overlay, **load).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for i, (got, feature) in enumerate(zip(model.eval()(x), plain(x), strict=True)):
            norm = norms[f'outnorm{i}.weight'], norms[f'outnorm{i}.bias']
            want = F.layer_norm(feature.permute(0, 2, 3, 1), feature.shape[1:2], *norm)
            assert relative_l2(got, want.permute(0, 3, 1, 2)) < 1e-6
