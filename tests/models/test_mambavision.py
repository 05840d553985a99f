"""MambaVision at any size, from official files.

Promised: official files load as published and log once that they are not for commercial use; maps of any size are cut
into windows, padded with zeros, which do not see each other; the mixer is its equation for every scan order.
"""

import argparse
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import vimamba  # noqa: F401  (registers the models)
from tests.models.official import Case
from vimamba.errors import UsageError
from vimamba.kernels.selective_scan import selective_scan
from vimamba.mixers import ConcatMixer
from vimamba.models import _builder as builder
from vimamba.models.mambavision import MambaVision, WindowStage
from vimamba.scans import create_order
from vimamba.testing import assert_parity, relative_l2

MINI = {'stem_dim': 16, 'embed_dim': 32, 'depths': (1, 1, 3, 2), 'num_heads': (8, 16), 'window_size': (4, 2)}
OFFICIAL = Case('mambavision_mini_layerscale')


def mini(**kwargs):
    torch.manual_seed(0)
    small = {'stem_dim': 4, 'embed_dim': 8, 'depths': (1, 1, 2, 2), 'num_heads': (2, 4), 'window_size': (3, 2)}
    return MambaVision(**{**small, 'num_classes': 5, **kwargs})


@pytest.mark.parametrize('name', timm.list_models('mambavision_*'))
def test_windows_cover_the_maps(name):
    model = timm.create_model(name, device='meta').eval()
    size = model.pretrained_cfg['input_size']
    assert [stage.window_size for stage in model.layers[2:]] == [size[1] // 16, size[1] // 32]
    assert model(torch.empty(2, *size, device='meta')).shape == (2, 1000)


def official_file(tmp_path, kind):
    weights = OFFICIAL.state_dict()
    if kind == 'safetensors':
        save_file({f'model.{key}': value for key, value in weights.items()}, tmp_path / 'model.safetensors')
        return str(tmp_path / 'model.safetensors')
    if kind == 'module':
        weights = {f'module.{key}': value for key, value in weights.items()}
    if kind == 'encoder':
        weights = {**{f'encoder.{key}': value for key, value in weights.items()}, 'teacher.weight': torch.ones(1)}
    average = {key: torch.zeros_like(value) for key, value in weights.items()}
    content = {'state_dict': weights, 'state_dict_ema': average, 'args': argparse.Namespace(lr=5e-3), 'epoch': 309}
    torch.save(weights if kind == 'bare' else content, tmp_path / 'official.pth.tar')
    return str(tmp_path / 'official.pth.tar')


def load(file, **kwargs):
    options = {**MINI, 'layer_scale': 1e-5, **kwargs}
    return timm.create_model('mambavision_tiny', pretrained=True, pretrained_cfg_overlay={'file': file}, **options)


@pytest.mark.parametrize('kind', ['state_dict', 'module', 'encoder', 'bare', 'safetensors'])
def test_an_official_file_loads_as_published(tmp_path, kind):
    model = load(official_file(tmp_path, kind)).eval()
    with torch.no_grad():
        assert_parity(model(OFFICIAL.input()), OFFICIAL.outputs['logits'], 'logits')


@pytest.mark.parametrize(
    'kwargs', [{'num_classes': 7}, {'in_chans': 1}, {'img_size': (40, 72)}, {'features_only': True}]
)
def test_an_official_file_serves_other_heads_channels_and_sizes(tmp_path, kwargs):
    model = load(official_file(tmp_path, 'state_dict'), **kwargs).eval()
    x = torch.randn(1, kwargs.get('in_chans', 3), *kwargs.get('img_size', (96, 64)))
    with torch.no_grad():
        out = model(x)
    if 'features_only' in kwargs:
        assert [tuple(f.shape[1:]) for f in out] == [(32, 24, 16), (64, 12, 8), (128, 6, 4), (256, 3, 2)]
    else:
        assert out.shape == (1, kwargs.get('num_classes', 1000))
        assert torch.isfinite(out).all()
    if 'img_size' in kwargs:
        assert timm.models.get_model_input_config(model)['input_size'] == (3, 40, 72)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_the_backbone_of_a_detector_loads_with_its_norms(tmp_path, prefix):
    """Such files have no final norm and no head, and a norm for the map of each stage."""
    weights = {key: value for key, value in OFFICIAL.state_dict().items() if not key.startswith(('norm.', 'head.'))}
    norms = [(torch.randn(32 << i), torch.randn(32 << i)) for i in range(4)]
    for i, norm in enumerate(norms):
        weights |= dict(zip((f'outnorm{i}.weight', f'outnorm{i}.bias'), norm))
    rest = {'neck.conv.weight': torch.ones(1)} if prefix else {}
    content = {**{prefix + key: value for key, value in weights.items()}, **rest}
    torch.save({'state_dict': content}, tmp_path / 'det.pth')
    model = load(str(tmp_path / 'det.pth'), features_only=True, feature_norm=True).eval()
    plain = load(official_file(tmp_path, 'state_dict'), features_only=True).eval()
    x = torch.randn(1, 3, 97, 71)
    with torch.no_grad():
        for got, feature, norm in zip(model(x), plain(x), norms, strict=True):
            want = F.layer_norm(feature.permute(0, 2, 3, 1), feature.shape[1:2], *norm).permute(0, 3, 1, 2)
            assert relative_l2(got, want) < 1e-6


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'layer_scale': None}, r'unexpected \(first: layers.2.blocks.0.ls.gamma'),
        ({'embed_dim': 16}, 'of another shape'),
    ],
)
def test_a_file_of_another_model_is_refused(tmp_path, kwargs, message):
    with pytest.raises(UsageError, match=message):
        load(official_file(tmp_path, 'state_dict'), **kwargs)


@pytest.mark.parametrize('gone', ['levels.2.blocks.0.mixer.conv1d_z.weight', 'norm.running_mean'])
def test_a_file_with_too_little_in_it_is_refused(tmp_path, gone):
    torch.save({key: value for key, value in OFFICIAL.state_dict().items() if key != gone}, tmp_path / 'short.pth')
    with pytest.raises(UsageError, match=r"short.pth: these weights do not fit 'mambavision_tiny'"):
        load(str(tmp_path / 'short.pth'))


def test_weights_say_once_that_they_are_not_for_commercial_use(tmp_path, caplog):
    builder._log_licence.cache_clear()
    timm.create_model('mambavision_tiny', device='meta')
    assert not caplog.messages
    for _ in range(2):
        load(official_file(tmp_path, 'state_dict'))
    assert [record.name for record in caplog.records] == ['vimamba']
    assert 'mambavision_tiny' in caplog.messages[0]
    assert 'cc-by-nc-sa-4.0' in caplog.messages[0]


class Kept(nn.Module):
    def forward(self, x):
        self.x = x
        return x


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 3), channels=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 9),
    size=st.integers(1, 5),
)  # fmt: skip
def test_windows_hold_the_map_and_zeros_and_give_it_back(batch, channels, height, width, size):
    x = torch.arange(1.0, batch * channels * height * width + 1).view(batch, height, width, channels)
    stage = WindowStage(nn.Identity(), [(block := Kept())], size)
    assert torch.equal(stage(x), x)
    tokens = block.x
    rows, columns = math.ceil(height / size), math.ceil(width / size)
    assert tokens.shape == (batch * rows * columns, size * size, channels)
    for window, content in enumerate(tokens):
        image, row, column = window // (rows * columns), window // columns % rows, window % columns
        cut = x[image, row * size : (row + 1) * size, column * size : (column + 1) * size]
        expected = torch.zeros(size, size, channels)
        expected[: cut.shape[0], : cut.shape[1]] = cut
        assert torch.equal(content.view(size, size, channels), expected)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 110), width=st.integers(1, 110))
def test_any_image_size(height, width):
    model = mini()
    x = torch.randn(2, 3, height, width)
    out = model(x)
    assert out.shape == (2, 5)
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    maps = model.eval().forward_intermediates(x, intermediates_only=True)
    grids = [(math.ceil(height / s), math.ceil(width / s)) for s in (4, 8, 16, 32)]
    assert [tuple(m.shape) for m in maps] == [(2, 8 << i, *grid) for i, grid in enumerate(grids)]


def test_windows_do_not_see_each_other_and_larger_ones_do():
    model = mini().eval()
    stage, x = model.layers[2], torch.randn(1, 12, 12, 16)
    other = x.clone()
    other[:, 8:, 8:] += 1  # changes pixels 4 and 5 of the 6 x 6 map, in the last of the windows of 3
    with torch.no_grad():
        changed = stage(x) != stage(other)
        assert changed[:, 3:, 3:].any()
        assert not changed[:, :3].any()
        assert not changed[:, :, :3].any()
        model.set_input_size((96, 96), window_size=(6, 3))
        assert (stage(x) != stage(other))[:, :3, :3].any()


@pytest.mark.parametrize('scan', ['raster', 'column', 'hilbert', 'bidirectional', 'cross'])
def test_the_mixer_is_its_equation(scan):
    torch.manual_seed(0)
    order = create_order(scan, (4, 4))
    mixer = ConcatMixer(16, order, d_state=3).double()
    mixer.reset_parameters()
    tokens = torch.randn(2, 16, 16, dtype=torch.float64)
    xz = F.pad(mixer.in_proj(tokens), (0, 0, 1, 1))
    taps = mixer.conv1d.weight[:, 0].unbind(1)
    xz = F.silu(sum(tap * xz[:, j : j + 16] for j, tap in enumerate(taps)))  # symmetric: the middle tap is the token's
    x, z = xz[..., :8], xz[..., 8:]
    projected = mixer.x_proj(x)
    delta = projected[..., :1] @ mixer.dt_proj.weight.T + 2 * mixer.dt_proj.bias
    y = torch.zeros_like(x)
    for route in order.index:
        u, dt, B, C = (t[:, route].transpose(1, 2) for t in (x, delta, projected[..., 1:4], projected[..., 4:]))
        out = selective_scan(u, dt, -mixer.A_log.exp(), B, C, mixer.D, delta_softplus=True, backend='reference')
        y[:, route] += out.transpose(1, 2) / order.routes
    assert relative_l2(mixer(tokens), mixer.out_proj(torch.cat((y, z), -1))) < 1e-12


def test_blocks_scan_first_and_attend_in_the_second_half():
    model = MambaVision(depths=(1, 1, 5, 4), embed_dim=8, num_heads=(2, 2))
    kinds = [[type(block.mixer).__name__ for block in stage.blocks] for stage in model.layers[2:]]
    assert kinds == [['ConcatMixer'] * 3 + ['Attention'] * 2, ['ConcatMixer'] * 2 + ['Attention'] * 2]


def test_initial_values():
    torch.manual_seed(0)
    model = MambaVision(layer_scale=1e-5)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert 0.015 < module.weight.std() < 0.025, name
            assert module.bias is None or not module.bias.any(), name
        if isinstance(module, ConcatMixer):
            assert torch.equal(module.A_log.exp().round(), torch.arange(1.0, 9).expand_as(module.A_log))
            assert (module.D == 1).all()
        if name.endswith(('.ls', '.ls2')):
            assert torch.equal(module.gamma, torch.full_like(module.gamma, 1e-5))


def test_changed_windows_are_saved_with_the_weights(tmp_path):
    source = timm.create_model('test_mambavision', num_classes=5).eval()
    source.set_input_size((96, 64), window_size=(6, 3))
    timm.models.save_for_hf(source, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert [stage.window_size for stage in loaded.layers[2:]] == [6, 3]
    x = torch.randn(1, 3, 96, 64)
    assert torch.equal(loaded(x), source(x))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'scan': 'hilbrt'}, "did you mean 'hilbert'"),
        ({'depths': (1, 1, 2)}, 'depths: expected a list of 4'),
        ({'depths': (1, 1, 0, 2)}, '^depths: expected .*integer >= 1'),
        ({'num_heads': (3, 4)}, 'num_heads: expected a divisor of 32'),
        ({'window_size': 7}, 'window_size: expected a list of 2'),
        ({'window_size': (7, 0)}, '^window_size: expected .*integer >= 1'),
        ({'img_size': (224.0, 224)}, 'img_size: expected an integer'),
        ({'embed_dim': 0}, 'embed_dim: expected an integer'),
        ({'num_classes': -1}, 'num_classes: expected an integer'),
    ],
)
def test_a_wrong_argument_is_named(kwargs, message):
    with pytest.raises(UsageError, match=message):
        mini(**kwargs)


@pytest.mark.parametrize(('name', 'value'), [('d_model', 15), ('d_conv', 4), ('d_state', 0)])
def test_a_wrong_argument_of_the_mixer_is_named(name, value):
    with pytest.raises(UsageError, match=f'^{name}: expected'):
        ConcatMixer(**{'d_model': 16, 'scan': create_order('raster', (2, 2)), name: value})
