"""Vim at any size, from official files.

Promised: official files load as published, executing nothing; positions are resized around the class tokens; any image
size and number of channels; streams stay float32 in half precision.
"""

import argparse
import os
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import vimamba  # noqa: F401  (registers the models)
from tests.models.official import Case, save_detector
from vimamba.errors import UsageError
from vimamba.layers import resize_pos_embed
from vimamba.mixers.routes import Routes
from vimamba.models.vim import Vim, checkpoint_filter_fn
from vimamba.testing import assert_parity, relative_l2

OFFICIAL = Case('vim_tiny_224')


def mini(**kwargs):
    torch.manual_seed(0)
    return Vim(
        **{'img_size': 32, 'patch_size': 8, 'embed_dim': 32, 'depth': 2, 'num_classes': 5, 'd_state': 4, **kwargs}
    )


def save_official(path, **extra):
    torch.save({'model': OFFICIAL.state_dict(), 'args': argparse.Namespace(lr=1e-3, model='vim'), **extra}, path)
    return str(path)


@pytest.mark.parametrize('average', [False, True], ids=['model', 'model+model_ema'])
def test_an_official_file_loads_as_published(tmp_path, average):
    extra = {'model_ema': {k: torch.zeros_like(v) for k, v in OFFICIAL.state_dict().items()}} if average else {}
    file = save_official(tmp_path / 'official.pth', optimizer={'state': {}}, epoch=299, **extra)
    model = timm.create_model('vim_tiny_patch16_224', pretrained=True, pretrained_cfg_overlay={'file': file}).eval()
    with torch.no_grad():
        assert_parity(model(OFFICIAL.input()), OFFICIAL.outputs['logits'], 'logits')
    assert 'state_dict' not in model.pretrained_cfg


class Executes:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize('protocol', [2, pickle.HIGHEST_PROTOCOL])
def test_a_file_that_would_execute_something_is_refused_by_name(tmp_path, protocol):
    canary, file = tmp_path / 'canary', tmp_path / 'hostile.pth'
    torch.save({'model': OFFICIAL.state_dict(), 'args': Executes(canary)}, file, pickle_protocol=protocol)
    with pytest.raises(UsageError, match='refused') as error:
        timm.create_model('vim_tiny_patch16_224', pretrained=True, pretrained_cfg_overlay={'file': str(file)})
    assert 'mkdir' in str(error.value)
    assert 'hostile.pth' in str(error.value)
    assert '\n' not in str(error.value)
    assert not canary.exists()


@pytest.mark.parametrize(
    'kwargs', [{'num_classes': 7}, {'in_chans': 1}, {'img_size': (160, 288)}, {'features_only': True}]
)
def test_an_official_file_serves_other_heads_channels_and_sizes(tmp_path, kwargs):
    file = save_official(tmp_path / 'official.pth')
    model = timm.create_model(
        'vim_tiny_patch16_224', pretrained=True, pretrained_cfg_overlay={'file': file}, **kwargs
    ).eval()
    x = torch.randn(1, kwargs.get('in_chans', 3), *kwargs.get('img_size', (224, 224)))
    with torch.no_grad():
        out = model(x)
    if 'features_only' in kwargs:
        assert [tuple(f.shape) for f in out] == [(1, 192, 14, 14)] * 3
    else:
        assert out.shape == (1, kwargs.get('num_classes', 1000))
        assert torch.isfinite(out).all()


def test_a_file_of_another_model_is_refused(tmp_path):
    file = save_official(tmp_path / 'official.pth')
    with pytest.raises(
        UsageError, match=r"official.pth: these weights do not fit 'vim_small_patch16_224'.*of another shape"
    ) as error:
        timm.create_model('vim_small_patch16_224', pretrained=True, pretrained_cfg_overlay={'file': file})
    assert '\n' not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    stride=st.sampled_from([4, 8]),
    class_token=st.sampled_from(['middle', 'first', 'both', 'none']),
    scan=st.sampled_from(['bidirectional', 'cross', 'hilbert', 'snake']),
)
def test_any_image_size(height, width, stride, class_token, scan):
    model = mini(img_size=(height, width), stride=stride, class_token=class_token, scan=scan, depth=1)
    out = model(torch.randn(1, 3, height, width))
    assert out.shape == (1, 5)
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    _, maps = model.forward_intermediates(torch.randn(1, 3, height, width))
    grid = ((height - 8) // stride + 1, (width - 8) // stride + 1)
    assert [tuple(m.shape) for m in maps] == [(1, 32, *grid)]


@pytest.mark.parametrize('class_token', ['middle', 'first', 'both', 'none'])
def test_resizing_keeps_the_class_rows_apart(class_token):
    model = mini(class_token=class_token)
    rows = model.class_rows(16)
    with torch.no_grad():
        model.pos_embed.zero_()
        model.pos_embed[:, rows] = torch.arange(1.0, len(rows) + 1)[None, :, None]
    model.set_input_size((40, 56))
    assert model.pos_embed.shape[1] == 5 * 7 + len(rows)
    new = model.class_rows(35)
    assert torch.equal(model.pos_embed[0, new, 0], torch.arange(1.0, len(rows) + 1))
    others = [i for i in range(35 + len(rows)) if i not in new]
    assert not model.pos_embed[:, others].any()
    assert model(torch.randn(1, 3, 40, 56)).shape == (1, 5)


def test_resizing_to_the_same_grid_is_exact_and_a_smooth_table_survives():
    rows = torch.linspace(-1, 1, 14)
    table = (rows[:, None] + 2 * rows[None, :]).reshape(1, 196, 1)
    assert torch.equal(resize_pos_embed(table, (14, 14), (14, 14)), table)
    larger = resize_pos_embed(table, (14, 14), (28, 28)).view(28, 28)
    back = resize_pos_embed(larger.reshape(1, -1, 1), (28, 28), (14, 14))
    assert relative_l2(back, table) < 0.02


def test_dynamic_sizes_equal_fixed_ones():
    dynamic, fixed = mini(dynamic_img_size=True), mini()
    fixed.set_input_size((48, 24))
    x = torch.randn(2, 3, 48, 24)
    assert torch.equal(dynamic(x), fixed(x))
    with pytest.raises(UsageError, match='set_input_size'):
        mini(dynamic_img_size=True, scan='hilbert')


@pytest.mark.parametrize('class_token', ['middle', 'first', 'both', 'none'])
@pytest.mark.parametrize('img_size', [(32, 32), (24, 40)], ids=['even', 'odd'])
def test_reading_backwards_equals_reading_by_the_table(class_token, img_size):
    """The reversed route, which the kernels walk from the end, against its explicit table of rows."""
    model = mini(img_size=img_size, class_token=class_token)
    mixer, order = model.blocks[0].mixer, model._order(model.scans[0])
    assert (mixer.scan.routes.rows, mixer.scan.routes.steps) == (None, [1, -1])
    x = torch.randn(2, order.length, 32)
    want = mixer(x)
    mixer.scan.routes = Routes(order.index.int(), [1, -1])
    assert relative_l2(mixer(x), want) < 1e-6


@pytest.mark.parametrize(
    ('argument', 'value'),
    [('depth', 0), ('stride', 0), ('patch_size', 0), ('in_chans', 0), ('num_classes', -1), ('embed_dim', 6.5),
     ('d_state', True), ('img_size', (32,)), ('img_size', '32'), ('img_size', (32.0, 32))],
)  # fmt: skip
def test_a_size_that_makes_no_sense_is_named(argument, value):
    with pytest.raises(UsageError, match=f'^{argument}: expected'):
        mini(**{argument: value})


def test_a_head_that_does_not_fit_keeps_its_initial_values_and_says_so(tmp_path, caplog):
    torch.save(timm.create_model('vim_nano_patch4_32', num_classes=3).state_dict(), tmp_path / 'a.pth')
    overlay = dict(file=str(tmp_path / 'a.pth'))
    timm.create_model('vim_nano_patch4_32', num_classes=3, pretrained=True, pretrained_cfg_overlay=overlay)
    assert not caplog.messages
    timm.create_model('vim_nano_patch4_32', num_classes=5, pretrained=True, pretrained_cfg_overlay=overlay)
    assert any('3 classes in the file, 5 here' in message for message in caplog.messages)


@pytest.mark.parametrize('old', [(32, 72), (72, 32)], ids=str)
def test_a_table_that_is_not_square_is_resized_from_its_own_grid(tmp_path, old):
    options = {'num_classes': 5, 'patch_size': 8}
    source = timm.create_model('vim_nano_patch4_32', img_size=old, **options)
    timm.models.save_for_hf(source, tmp_path, safe_serialization=True)
    resized = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, img_size=(64, 48))
    source.set_input_size((64, 48))
    assert torch.equal(resized.pos_embed, source.pos_embed)


def test_a_file_with_too_little_in_it_is_refused_whatever_the_head(tmp_path):
    state = OFFICIAL.state_dict()
    torch.save({'model': {k: v for k, v in state.items() if not k.startswith('layers.2.')}}, tmp_path / 'short.pth')
    torch.save({'epoch': 3}, tmp_path / 'none.pth')
    for name, message in (('short', r'missing \(first: blocks\.2\.'), ('none', 'holds no weights')):
        for kwargs in ({}, {'num_classes': 7}, {'features_only': True}):
            overlay = {'file': str(tmp_path / f'{name}.pth')}
            with pytest.raises(UsageError, match=message):
                timm.create_model('vim_tiny_patch16_224', pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)


@pytest.mark.parametrize('source', ['url', 'file'])
def test_every_source_goes_through_the_same_reader(tmp_path, source, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    average = {k: torch.zeros_like(v) for k, v in OFFICIAL.state_dict().items()}
    file = save_official(tmp_path / 'official.pth', model_ema=average)
    cfg = {**tiny_cfg(), 'url': f'file://{file}'} if source == 'url' else {**tiny_cfg(), 'url': '', 'file': file}
    model = timm.create_model('vim_tiny_patch16_224', pretrained=True, pretrained_cfg=cfg).eval()
    with torch.no_grad():
        assert_parity(model(OFFICIAL.input()), OFFICIAL.outputs['logits'], 'logits')


def tiny_cfg():
    return timm.models.get_pretrained_cfg('vim_tiny_patch16_224').to_dict()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_keeps_a_float32_stream(dtype):
    model = mini().eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        half = mini().to(dtype).eval()
        streams = []
        for block in half.blocks:
            block.register_forward_hook(lambda m, a, out: streams.append(out.dtype))
        got = half(x.to(dtype))
        with torch.autocast('cpu', torch.bfloat16):
            auto = model(x)
    assert streams == [torch.float32] * 2
    assert got.dtype == dtype
    assert relative_l2(got, want) < 0.05
    assert relative_l2(auto, want) < 0.05


def test_initial_values():
    torch.manual_seed(0)
    model = Vim(img_size=64, embed_dim=128, depth=4)
    for block in model.blocks:
        for own, route in zip(block.mixer.projections, block.mixer.routes):
            dt = torch.nn.functional.softplus(own.dt_proj.bias)
            assert ((dt > 0.9e-3) & (dt < 0.11)).all()
            assert torch.equal(route.A_log.exp().round(), torch.arange(1.0, 17).expand(256, 16))
            assert (own.D == 1).all()
        assert block.mixer.out_proj.weight.abs().max() <= 256**-0.5 / 2


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'scan': 'hilbrt'}, "did you mean 'hilbert'"),
        ({'class_token': 'centre'}, "expected 'middle'"),
        ({'merge': 'max'}, "expected 'mean'"),
        ({'global_pool': 'token', 'class_token': 'none'}, 'without a class token'),
        ({'global_pool': 'map'}, 'global_pool: expected'),
        ({'img_size': 7}, 'at least one patch'),
        ({'img_size': (64, 4)}, 'got 64x4'),
    ],
)
def test_a_wrong_argument_is_named(kwargs, message):
    with pytest.raises(UsageError, match=message):
        mini(**kwargs)


def test_another_size_is_answered_with_what_is_expected():
    with pytest.raises(AssertionError, match=r'image size 16x16: this model takes 32x32; .*set_input_size'):
        mini()(torch.randn(1, 3, 16, 16))


def dense(grid, **extra):
    """The weights of an official backbone for dense tasks: no class token, no row for it, no head."""
    weights = {k: v for k, v in OFFICIAL.state_dict().items() if not k.startswith(('cls_token', 'head.'))}
    return {**weights, 'pos_embed': torch.randn(1, grid[0] * grid[1], 192), **extra}


def added_by_blocks(weights, images):
    """What the mixers of the plain model give, {block: (b, l, c)}."""
    size = tuple(images.shape[2:])
    model = timm.create_model('vim_tiny_patch16_224', class_token='none', img_size=size, num_classes=0).eval()
    model.load_state_dict(checkpoint_filter_fn(weights, model))
    added = {}
    for i, block in enumerate(model.blocks):
        block.mixer.register_forward_hook(lambda m, args, out, i=i: added.update({i: out}))
    with torch.no_grad():
        model(images)
    return added


def test_the_backbone_of_official_segmentation_gives_its_maps(tmp_path):
    weights, blocks, x = dense((4, 4)), (5, 11, 17, 23), torch.randn(2, 3, 64, 64)
    up = {f'fpn{k}.weight': torch.randn(192, 192, 2, 2) / 28 for k in ('1.0', '1.3', '2.0')}
    up |= {f'fpn{k}.bias': torch.randn(192) for k in ('1.0', '1.1', '1.3', '2.0')}
    up |= {f'fpn1.1.{name}': 1 + torch.rand(192) for name in ('weight', 'running_mean', 'running_var')}
    file = save_detector(tmp_path / 'seg.pth', {**weights, **up, 'fpn1.1.num_batches_tracked': torch.tensor(9)})
    load = {'pretrained': True, 'pretrained_cfg_overlay': {'file': file}, 'class_token': 'none', 'img_size': 64}
    backbone = timm.create_model('vim_tiny_patch16_224', features_only=True, feature_pyramid=blocks, **load).eval()
    added = added_by_blocks(weights, x)
    a, b, c, d = (added[i].transpose(1, 2).unflatten(2, (4, 4)) for i in blocks)

    def upsample(x, k):
        return F.conv_transpose2d(x, up[f'fpn{k}.weight'], up[f'fpn{k}.bias'], stride=2)

    norm = (up[f'fpn1.1.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias'))
    want = upsample(F.gelu(F.batch_norm(upsample(a, '1.0'), *norm)), '1.3'), upsample(b, '2.0'), c, F.max_pool2d(d, 2)
    with torch.no_grad():
        for got, expected in zip(backbone(x), want, strict=True):
            assert relative_l2(got, expected) < 1e-6
    assert backbone.feature_info.reduction() == [4, 8, 16, 32]
    with pytest.raises(UsageError, match=r'unexpected \(first: fpn1'):
        timm.create_model('vim_tiny_patch16_224', features_only=True, **load)


def test_the_backbone_of_official_detection_gives_its_map(tmp_path):
    """The sum behind the last block, whose stream was turned by positions between those of training."""
    weights, x = dense((4, 4), **{'rope.freqs_cos': torch.ones(16, 192)}), torch.randn(2, 3, 64, 64)
    del weights['norm_f.weight']
    file = save_detector(tmp_path / 'det.pth', weights, 'backbone.net.', 'model')
    load = {'pretrained': True, 'pretrained_cfg_overlay': {'file': file}, 'class_token': 'none', 'img_size': 64}
    load |= {'features_only': True, 'out_indices': (23,)}
    backbone = timm.create_model('vim_tiny_patch16_224', rope='between', **load).eval()
    angles = torch.arange(4) * 14 / 4 * 10000.0 ** (-torch.arange(48) / 48)[:, None]  # (48, 4)
    rows, columns = angles.T[:, None].expand(4, 4, 48), angles.T[None].expand(4, 4, 48)
    turn = torch.polar(torch.ones(16, 96), torch.cat((rows, columns), -1).reshape(16, 96))
    with torch.no_grad():
        stream = F.conv2d(x, weights['patch_embed.proj.weight'], weights['patch_embed.proj.bias'], stride=16)
        stream = stream.flatten(2).transpose(1, 2) + weights['pos_embed']
        for block in backbone.model.blocks:
            pairs = torch.view_as_complex(stream.unflatten(2, (96, 2)).contiguous())
            stream = torch.view_as_real(pairs * turn).flatten(2)
            stream = stream + block.mixer(block.norm(stream))
        (got,) = backbone(x)
    assert relative_l2(got, stream.transpose(1, 2).unflatten(2, (4, 4))) < 1e-5


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'norm': 'batch'}, "norm: expected 'rms' or 'layer'"),
        ({'rope': 'far', 'class_token': 'none'}, 'rope: expected'),
        ({'feature_pyramid': (0, 1, 2)}, 'feature_pyramid: expected four blocks'),
        ({'feature_pyramid': (0, 1, 2, 9)}, 'feature_pyramid: expected blocks of 4'),
        ({'feature_pyramid': (0, 1, 2, 3), 'feature_norm': True}, 'feature_norm: expected'),
    ],
)
def test_wrong_options_of_dense_backbones_are_named(kwargs, message):
    with pytest.raises(UsageError, match=message):
        mini(**{'depth': 4, **kwargs})


@pytest.mark.parametrize('kwargs', [{'feature_norm': True}, {'feature_pyramid': (0, 1, 2, 3)}], ids=str)
def test_maps_of_dense_backbones_train_every_parameter(kwargs):
    options = {'features_only': True, 'out_indices': (0, 1, 2, 3), 'class_token': 'none'}
    backbone = timm.create_model('vim_nano_patch4_32', **options, **kwargs)
    backbone.set_grad_checkpointing()
    sum(out.square().sum() for out in backbone(torch.randn(2, 3, 32, 32))).backward()
    unused = {name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()}
    assert not unused
