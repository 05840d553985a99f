"""VMamba, from every layout that its files have.

Promised: files of the first version, of the one-file code and of dense-task backbones load as published; on maps of any
size every token is read by the four routes of the paper; the Mamba-2 mixer is the scan it stands for.
"""

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.cores import on_map
from tests.models.official import Case
from vimamba.errors import UsageError
from vimamba.kernels.selective_scan import selective_scan
from vimamba.layers.channel_attention import ChannelAttention
from vimamba.mixers import SSD, SelectiveScan
from vimamba.models.vmamba import VMamba, checkpoint_filter_fn
from vimamba.scans import create_order
from vimamba.testing import assert_parity, relative_l2

MINI = {'embed_dim': 32, 'depths': (1, 1, 2, 1), 'd_state': 4, 'expand': 2.0}


def first_version(weights):
    """Names of the first files of v0."""
    swaps = {
        '.norm.': '.ln_1.', '.op.': '.self_attention.', 'patch_embed.0.': 'patch_embed.proj.',
        'patch_embed.2.': 'patch_embed.norm.', 'classifier.norm.': 'norm.', 'classifier.head.': 'head.',
    }  # fmt: skip
    renamed = {}
    for key, value in weights.items():
        for new, old in swaps.items():
            if new != '.norm.' or '.blocks.' in key:
                key = key.replace(new, old)
        renamed[key] = value
    return renamed


def one_file(weights):
    """The layout in memory of the one-file vmamba.py."""
    moved = {}
    for key, value in weights.items():
        key = key.replace('.downsample.norm.', '.downsample.1.').replace('.downsample.reduction.', '.downsample.2.')
        if key.endswith(('x_proj_weight', 'dt_projs_weight')):
            key, value = key.replace('_weight', '.weight'), value.flatten(0, 1)
        moved[key] = value
    return moved


def convolutions(weights):
    """1x1 convolutions in place of linear layers."""
    linear = ('in_proj.weight', 'out_proj.weight', 'fc1.weight', 'fc2.weight')
    return {key: value[..., None, None] if key.endswith(linear) else value for key, value in weights.items()}


def data_parallel(weights):
    return {f'module.{key}': value for key, value in weights.items()}


@pytest.mark.parametrize('layout', [dict, first_version, one_file, convolutions, data_parallel])
@pytest.mark.parametrize('wrapper', ['model', 'state_dict', None])
def test_every_published_layout_loads(tmp_path, layout, wrapper):
    case = Case('vmamba_vanilla_tiny_224')
    weights = layout(case.state_dict())
    torch.save({wrapper: weights, 'epoch': 292} if wrapper else weights, tmp_path / 'official.pth')
    overlay = {'file': str(tmp_path / 'official.pth')}
    model = timm.create_model('vmamba_v0_tiny', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    want = timm.create_model('vmamba_v0_tiny')
    want.load_state_dict(checkpoint_filter_fn(case.state_dict(), want))
    for (key, value), expected in zip(model.state_dict().items(), want.state_dict().values()):
        assert torch.equal(value, expected), key


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_the_backbone_of_a_detector_loads_with_its_norms(tmp_path, prefix):
    weights = Case('vmamba_tiny_s1l8_224').state_dict()
    weights = {key: value for key, value in weights.items() if not key.startswith('classifier.')}
    for i in range(4):
        weights |= {f'outnorm{i}.weight': torch.full((96 * 2**i,), 2.0), f'outnorm{i}.bias': torch.zeros(96 * 2**i)}
    weights = {prefix + key: value for key, value in weights.items()}
    if prefix:
        weights['neck.conv.weight'] = torch.ones(1)
    torch.save({'state_dict': weights}, tmp_path / 'backbone.pth')
    overlay = {'file': str(tmp_path / 'backbone.pth')}
    options = {'pretrained': True, 'pretrained_cfg_overlay': overlay, 'features_only': True}
    normed = timm.create_model('vmamba_tiny_s1l8', feature_norm=True, **options).eval()
    with torch.no_grad():
        for out in normed(torch.randn(1, 3, 64, 64)):
            assert torch.allclose(out.std(1, correction=0), torch.tensor(2.0), atol=0.01)
    with pytest.raises(UsageError, match=r'unexpected \(first: feature_norms\.0'):
        timm.create_model('vmamba_tiny_s1l8', **options)
    with pytest.raises(UsageError, match='missing'):
        timm.create_model('vmamba_tiny_s1l8', pretrained=True, pretrained_cfg_overlay=overlay, feature_norm=True)


def test_a_file_of_another_variant_is_refused(tmp_path):
    torch.save({'model': Case('vmamba_tiny_s1l8_224').state_dict()}, tmp_path / 's1l8.pth')
    overlay = {'file': str(tmp_path / 's1l8.pth')}
    with pytest.raises(UsageError, match=r"do not fit 'vmamba_tiny_s2l5': .* of another shape") as error:
        timm.create_model('vmamba_tiny_s2l5', pretrained=True, pretrained_cfg_overlay=overlay)
    assert '\n' not in str(error.value)


def plain_routes(ssm, x, scan):
    """SelectiveScan written plainly: every route's sequence made, scanned and put back on its own."""
    b, height, width, d = x.shape
    order = create_order(scan, (height, width))
    tokens = F.pad(x.reshape(b, -1, d), (0, 0, 0, order.pads))
    out = 0
    for k, route in enumerate(order.index):
        u = tokens[:, route]
        dt, B, C = (u @ ssm.x_proj[k].T).split(ssm.splits, -1)
        sequence = (t.transpose(1, 2) for t in (u, dt @ ssm.dt_proj[k].T))
        weights = -ssm.A_log[k].exp(), B.transpose(1, 2), C.transpose(1, 2), ssm.D[k]
        y = selective_scan(*sequence, *weights, None, ssm.dt_bias[k], True, backend='reference').transpose(1, 2)
        placed = torch.zeros(b, order.length, d, dtype=x.dtype).index_copy(1, route, y)[:, : height * width]
        out = out + (placed if ssm.merge is None else ssm.merge(placed))
    return out.view(b, height, width, d)


@pytest.mark.parametrize('merge', [False, True], ids=['sum', 'merge'])
@pytest.mark.parametrize('scan', ['cross', 'hilbert', ('raster_reversed', 'windows7', 'windows2_reversed')], ids=str)
@pytest.mark.parametrize('grid', [(4, 4), (5, 9), (1, 7), (9, 8)], ids=str)
def test_routes_over_maps_of_any_size(grid, scan, merge):
    torch.manual_seed(0)
    ssm = SelectiveScan(8, create_order(scan, (1, 1)).routes, d_state=3, dt_rank=2)
    ssm.merge = ChannelAttention(8) if merge else None
    ssm.reset_parameters()
    x = torch.randn(2, *grid, 8, requires_grad=True)
    want, got = plain_routes(ssm, x, scan), on_map(ssm, x, scan)
    weight = torch.randn_like(want)
    inputs = [x, *ssm.parameters()]
    assert relative_l2(got, want) < 1e-6
    for a, b in zip(torch.autograd.grad(got, inputs, weight), torch.autograd.grad(want, inputs, weight)):
        assert relative_l2(a, b) < 1e-5


@pytest.mark.parametrize('scan', ['cross', ('raster', 'windows2')], ids=str)
def test_the_mamba2_mixer_is_a_scan_with_one_step_for_a_head(scan):
    torch.manual_seed(0)
    k = create_order(scan, (1, 1)).routes
    ssd = SSD(8, k, d_state=5, headdim=4)
    ssd.reset_parameters()
    ssm = SelectiveScan(8, k, d_state=5, dt_rank=2)
    with torch.no_grad():
        ssd.A_log.normal_()
        ssm.x_proj.copy_(ssd.x_proj)
        ssm.dt_proj.copy_(torch.eye(2).repeat_interleave(4, 0))  # every channel takes its head's
        ssm.dt_bias.copy_(ssd.dt_bias.repeat_interleave(4, 1))
        ssm.A_log.copy_(ssd.A_log.repeat_interleave(4, 1)[..., None])
        ssm.D.copy_(ssd.D.flatten(1))
    x = torch.randn(2, 5, 6, 8)
    assert relative_l2(on_map(ssd, x, scan), on_map(ssm, x, scan)) < 1e-6


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'mixer': 'mamba9'}, "unknown mixer 'mamba9'"),
        ({'stem': 'conv'}, "stem: expected 'overlap' or 'patch'"),
        ({'downsample': 'pool'}, "downsample: expected 'overlap'"),
        ({'scan': 'cros'}, "did you mean 'cross'"),
        ({'scan': ('raster', 'windws3')}, 'scan: unknown scan order'),
        ({'scan': ()}, 'scan: expected'),
        ({'global_pool': 'token'}, 'global_pool: expected'),
        ({'embed_dim': 0}, 'embed_dim: expected'),
        ({'img_size': (3, 4, 5)}, 'img_size: expected'),
        ({'mixer': 'mamba2', 'embed_dim': 24}, 'headdim: expected a divisor'),
    ],
)
def test_a_wrong_argument_is_named(kwargs, message):
    with pytest.raises(UsageError, match=message):
        VMamba(**{'embed_dim': 32, 'depths': (1, 1, 1, 1), **kwargs})


def test_published_files_agree_with_what_ours_compute_at_another_size():
    """The map of a stage is what the naive routes make of it, at a size that no side divides."""
    model = VMamba(**MINI).eval()
    case = Case('vmamba_mini_noz')
    model.load_state_dict(checkpoint_filter_fn(case.state_dict(), model))
    x = torch.randn(1, 3, 75, 53)
    with torch.no_grad():
        want = model.forward_features(x)
        for stage in model.layers:
            for block in stage.blocks:
                ssm = block.mixer.ssm
                ssm.forward = lambda u, routes, ssm=ssm: plain_routes(
                    ssm, u.unflatten(1, routes.grid), routes.names
                ).flatten(1, 2)
        assert want.shape == (1, 3, 2, 256)
        assert_parity(want, model.forward_features(x), 'features')
