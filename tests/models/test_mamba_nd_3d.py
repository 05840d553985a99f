"""Mamba-ND over clips of any length and frames of any size.

Promised: official state dicts, of Kinetics and of fine-tuning, load; blocks read rows, columns and time, each in both
directions; positions of other grids are the trained ones resized, in a frame bicubic, in time linear; weights of images
initialise a model of clips.
"""

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.models.official import Case
from vimamba.errors import UsageError
from vimamba.layers.pos_embed import resize_table
from vimamba.mixers import Mamba1, MapScan
from vimamba.models.mamba_nd import MambaND, Merging, checkpoint_filter_fn, inflate
from vimamba.scans import create_order
from vimamba.testing import relative_l2

CASE, IMAGES = Case('mamba_nd_3d_small_8x224'), Case('mamba_nd_2d_small_224')


def small(**kwargs):
    torch.manual_seed(0)
    own = {'img_size': (16, 24), 'patch_size': 8, 'num_frames': 4, 'embed_dim': 16, 'depth': 6, 'num_classes': 5}
    return MambaND(**{'merge_at': None, 'final_norm': False, 'd_state': 4, **own, **kwargs}).eval()


def images(**kwargs):
    return small(**{'num_frames': None, 'depth': 4, **kwargs})


def clip(frames=4, size=(16, 24), batch=2):
    return torch.randn(batch, 3, frames, *size, generator=torch.Generator().manual_seed(frames))


def tuned(num_classes=60, tubelet=2):
    """A file in the layout of the authors' fine-tuning."""
    weights = {f'backbone.{key}': value for key, value in CASE.state_dict().items() if not key.startswith('head.')}
    patches = weights['backbone.patch_embed.projection.weight']
    weights['backbone.patch_embed.projection.weight'] = patches.repeat(1, 1, tubelet, 1, 1)
    head = {'weight': torch.randn(num_classes, 384), 'bias': torch.randn(num_classes)}
    return {**weights, **{f'cls_head.fc_cls.{key}': value for key, value in head.items()}}


def save(path, weights, under=None):
    torch.save({under: weights} if under else weights, path)
    return {'pretrained': True, 'pretrained_cfg_overlay': {'file': str(path)}}


@pytest.fixture(scope='module')
def official():
    model = timm.create_model('mamba_nd_3d_small', num_frames=8)
    model.load_state_dict(checkpoint_filter_fn(CASE.state_dict(), model))
    return model.eval()


def test_blocks_read_rows_columns_and_time():
    model = timm.create_model('mamba_nd_3d_small', device='meta')
    scans = [list(module.names) for module in model.modules() if isinstance(module, MapScan)]
    axes = [['raster'], ['raster_reversed'], ['column'], ['column_reversed']]
    assert scans == [*axes, ['temporal_columns'], ['temporal_columns_reversed']] * 6


@pytest.mark.parametrize('scan', ['raster', 'column_reversed', 'temporal_columns', ('tube2', 'column')], ids=str)
@pytest.mark.parametrize('grid', [(2, 4, 4), (3, 2, 5), (1, 5, 2)], ids=str)
def test_a_mixer_reads_a_clip_in_its_order(grid, scan):
    torch.manual_seed(0)
    mixer = Mamba1(16, MapScan(scan, sides=3), d_state=3, merge='sum').double()
    mixer.reset_parameters()
    x = torch.randn(2, *grid, 16, dtype=torch.float64)
    order = create_order(scan, grid)
    flat = mixer.in_proj(x.flatten(1, 3))
    want = torch.zeros_like(flat[..., :32])
    for k, route in enumerate(order.index):  # a one-way block in memory order, on tokens laid out in scan order
        block = Mamba1(16, create_order('raster', (order.length,)), d_state=3).double()
        block.projections, block.routes = mixer.projections[k : k + 1], mixer.routes[k : k + 1]
        block.in_proj = block.out_proj = torch.nn.Identity()
        want[:, route] += block(flat[:, route])
    assert relative_l2(mixer(x), mixer.out_proj(want).view_as(x)) < 1e-12


@pytest.mark.parametrize('under', [None, 'model', 'module'])
def test_official_files_of_kinetics_load_as_published(tmp_path, under):
    file = save(tmp_path / 'k400.pth', CASE.state_dict(), under)
    model = timm.create_model('mamba_nd_3d_small', num_frames=8, **file)
    official = CASE.state_dict()
    assert torch.equal(model.stem[2].table.flatten(1, 3), official['pos_embed'])
    assert torch.equal(model.head.drop[0].weight, official['head.0.weight'])
    assert torch.equal(model.head.fc.bias, official['head.1.bias'])


def test_official_files_of_fine_tuning_load_as_published(tmp_path, official):
    """Their backbone is that of Kinetics but for patches of two frames; a clip of doubled frames shows it."""
    weights = tuned()
    file = save(tmp_path / 'hmdb51.pth', weights, 'state_dict')
    options = {'num_frames': 16, 'tubelet_size': 2, 'num_classes': 60}
    with pytest.raises(UsageError, match='no norm in front of its classifier: build the model with head_norm=False'):
        timm.create_model('mamba_nd_3d_small', **options, **file)
    model = timm.create_model('mamba_nd_3d_small', head_norm=False, **options, **file).eval()
    x = clip(1, (224, 224), 1).expand(-1, -1, 8, -1, -1)
    with torch.no_grad():
        model.stem[1].weight /= 2
        features = official.forward_features(x)
        head = (weights['cls_head.fc_cls.weight'], weights['cls_head.fc_cls.bias'])
        want = F.linear(features.mean((1, 2, 3)), *head)
        assert relative_l2(model(x.repeat_interleave(2, 2)), want) < 2e-5


def test_a_file_serves_another_length_and_size(tmp_path):
    """A model that is made for them resizes when it loads, any other when it runs."""
    file = save(tmp_path / 'k400.pth', CASE.state_dict(), 'model')
    fixed = timm.create_model('mamba_nd_3d_small', num_frames=8, **file).eval()
    other = timm.create_model('mamba_nd_3d_small', num_frames=3, img_size=(48, 80), num_classes=7, **file).eval()
    x = clip(3, (48, 80), 1)
    with torch.no_grad():
        assert relative_l2(other.forward_features(x), fixed.forward_features(x)) < 1e-5
    assert other(x).shape == (1, 7)


@pytest.mark.parametrize('under', [None, 'model'])
def test_a_file_of_ours_keeps_its_grid(under):
    """Of which an official table tells the number of cells alone."""
    model, other = small(), small(num_frames=2, img_size=(24, 32))
    weights = model.state_dict()
    loaded = checkpoint_filter_fn({under: weights} if under else weights, other)
    assert torch.equal(loaded['stem.2.table'], resize_table(weights['stem.2.table'], [2, 3, 4]))
    other.load_state_dict(loaded)
    with torch.no_grad():
        assert relative_l2(other(clip(2, (24, 32))), model(clip(2, (24, 32)))) < 1e-6


def test_an_official_table_is_that_of_the_released_files_first():
    """Of 16 times of 14 x 14 cells, though this model's own, 4 of 28 x 28, are as many."""
    model, table = small(img_size=224), torch.randn(1, 3136, 16)
    weights = {'pos_embed': table, 'patch_embed.projection.weight': torch.randn(16, 3, 1, 8, 8)}
    loaded = checkpoint_filter_fn(weights, model)['stem.2.table']
    assert torch.equal(loaded, resize_table(table.unflatten(1, (16, 14, 14)), [4, 28, 28]))


def test_positions_are_resized_in_a_frame_bicubic_in_time_linear():
    table = torch.randn(1, 4, 3, 5, 8)
    frames = F.interpolate(table[0].permute(0, 3, 1, 2), (6, 7), mode='bicubic')  # (t, c, h, w)
    want = F.interpolate(frames.permute(2, 3, 1, 0).flatten(0, 1), 9, mode='linear')  # (h w, c, t)
    want = want.unflatten(0, (6, 7)).permute(3, 0, 1, 2)[None]
    torch.testing.assert_close(resize_table(table, [9, 6, 7]), want)
    assert torch.equal(resize_table(table, [4, 3, 5]), table)


@pytest.mark.parametrize('frames', [1, 3, 4, 9])
@pytest.mark.parametrize('size', [(16, 24), (8, 40), (37, 21)], ids=str)
def test_any_length_and_size(frames, size):
    model = small()
    maps = model.forward_intermediates(clip(frames, size), [0, 5], intermediates_only=True)
    assert [m.shape for m in maps] == [(2, 16, frames, size[0] // 8, size[1] // 8)] * 2
    assert model(clip(frames, size)).shape == (2, 5)


def test_frames_that_are_wide_are_those_that_are_high_transposed():
    """With rows and columns exchanged, in the clip, the positions, the patches and the schedule."""
    wide = small()
    columns = [('column',), ('column_reversed',), ('raster',), ('raster_reversed',)]
    time = [('temporal_first',), ('temporal_first_reversed',)]  # places row by row
    high = small(img_size=(24, 16), scan=[*columns, *time])
    weights = wide.state_dict()
    weights['stem.1.weight'] = weights['stem.1.weight'].transpose(3, 4)
    weights['stem.2.table'] = weights['stem.2.table'].transpose(2, 3)
    high.load_state_dict(weights)
    with torch.no_grad():
        assert relative_l2(high(clip().transpose(3, 4)), wide(clip())) < 1e-5


def test_merging_is_that_of_every_frame():
    merging = Merging(4)
    x = torch.randn(2, 3, 5, 4, 4)
    want = torch.stack([merging(frame) for frame in x.unbind(1)], 1)
    torch.testing.assert_close(merging(x), want)
    model = small(merge_at=3, final_norm=True)
    assert [m.shape[2:] for m in model.forward_intermediates(clip())[1]] == [(4, 2, 3)] * 3 + [(4, 1, 2)] * 3


def test_the_input_size_is_recorded():
    model = timm.create_model('test_mamba_nd_3d')
    model.set_input_size(num_frames=8)
    model.set_input_size((32, 40))
    with pytest.raises(UsageError, match='img_size'):
        model.set_input_size('large', num_frames=4)
    assert (model.num_frames, model.img_size) == (8, (32, 40))
    assert model(clip(8, (32, 40))).shape == (2, 400)


def test_pooling_can_be_left_out():
    model = small(global_pool='', num_classes=0, head_norm=False)
    assert model(clip()).shape == (2, 4, 2, 3, 16)
    model.reset_classifier(3, 'avg')
    assert model(clip()).shape == (2, 3)


@pytest.mark.parametrize('tubelet', [1, 2])
def test_images_start_clips(tubelet):
    """Without its blocks through time, on a clip of one frame, such a model is the model of images."""
    image = images()
    image.stem[2].table.data.normal_()
    model = small(tubelet_size=tubelet)
    fresh = model.state_dict()
    weights = inflate(image.state_dict(), model)
    for key in ('layers.4.norm.weight', 'layers.5.mixer.in_proj.weight', 'head.fc.weight'):
        assert torch.equal(weights[key], fresh[key])
    model.load_state_dict(weights)
    model.layers = model.layers[:4]
    frames = clip(tubelet)
    with torch.no_grad():
        want = image.forward_features(frames.mean(2))
        assert relative_l2(model.forward_features(frames)[:, 0], want) < 1e-5
        assert torch.equal(model.stem[2].table[:, 0], image.stem[2].table)
        assert torch.equal(model.stem[2].table[:, 0], model.stem[2].table[:, -1])


def test_a_static_clip_has_the_features_of_its_image_at_all_times():
    """In the first block, along the rows of a frame; what later frames add to it is what came before them."""
    image, model = images(), small()
    model.load_state_dict(inflate(image.state_dict(), model))
    frame = clip(1)
    with torch.no_grad():
        tokens = model.stem(frame.expand(-1, -1, 4, -1, -1))
        assert all(relative_l2(tokens[:, t], image.stem(frame[:, :, 0])) < 1e-6 for t in range(4))
        block = model.layers[0](tokens)
        assert relative_l2(block[:, 0], image.layers[0](tokens[:, 0])) < 1e-5


def test_an_official_file_of_images_starts_clips(tmp_path):
    """Blocks of rows and columns in their places, in fours of six; merging, norms and head of images are not taken."""
    file = save(tmp_path / 'mamba2d_s.pth', IMAGES.state_dict(), 'state_dict')
    model = timm.create_model('mamba_nd_3d_small', patch_size=8, num_frames=2, tubelet_size=2, img_size=56, **file)
    source = {key.removeprefix('backbone.'): value for key, value in IMAGES.state_dict().items()}
    for block in range(24):
        own = model.layers[block // 4 * 6 + block % 4]
        assert torch.equal(own.norm.bias, source[f'layers.{block}.norm.bias'])
        assert torch.equal(own.mixer.in_proj.weight, source[f'layers.{block}.mixer.in_proj.weight'])
    patches = source['patch_embed.projection.weight']
    torch.testing.assert_close(model.stem[1].weight[:, :, 1], torch.nn.Parameter(patches / 2))
    frame = F.interpolate(source['pos_embed'].transpose(1, 2).unflatten(2, (28, 28)), 7, mode='bicubic')
    torch.testing.assert_close(model.stem[2].table[:, 0], torch.nn.Parameter(frame.permute(0, 2, 3, 1)))


def test_files_serve_grey_clips(tmp_path):
    file = save(tmp_path / 'k400.pth', CASE.state_dict())
    model = timm.create_model('mamba_nd_3d_small', num_frames=8, in_chans=1, **file)
    want = CASE.state_dict()['patch_embed.projection.weight'].sum(1, keepdim=True)
    torch.testing.assert_close(model.stem[1].weight, torch.nn.Parameter(want))


def change(**changes):
    """The official weights with some left out (None) or replaced."""
    weights = {**CASE.state_dict(), **{key.replace('__', '.'): value for key, value in changes.items()}}
    return {key: value for key, value in weights.items() if value is not None}


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        (change(pos_embed=None), r'missing \(first: stem\.2\.table'),
        (change(pos_embed=torch.ones(1, 13, 384)), r'stem\.2\.table'),
        (change(pos_embed=torch.ones(())), r'stem\.2\.table'),
        (change(patch_embed__projection__weight=None), r'missing \(first: stem\.1\.weight'),
        (change(patch_embed__projection__weight=torch.ones(3)), r'stem\.1\.weight'),
        (change(patch_embed__projection__weight=torch.ones(384, 3, 2, 16, 16)), r'stem\.1\.weight'),
        (change(layers__35__mixer__D=None), r'missing \(first: layers\.35\.mixer\.projections\.0\.D'),
        (change(layers__36__norm__bias=torch.ones(384)), r'unexpected \(first: layers\.36\.norm\.bias'),
        ({'backbone.a': torch.ones(1)}, 'do not fit'),
        ({'layers.3.norm.bias': torch.ones(384), 'stem.1.weight': torch.ones(384, 3, 16, 16)}, 'missing'),
        ({'layers.99.norm.bias': torch.ones(1), 'stem.1.weight': torch.ones(384, 3, 16, 16)}, '100 blocks of images'),
        (IMAGES.state_dict(), r'of another shape \(first: stem\.1\.weight'),  # patches of 8
        ({}, 'holds no weights'),
    ],
    ids=range(13),
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path, weights, message):
    file = save(tmp_path / 'broken.pth', weights)
    with pytest.raises(UsageError, match=message) as caught:
        timm.create_model('mamba_nd_3d_small', num_frames=8, **file)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: small()(clip()[0]), r'expected \(b, channels, frames, height, width\), got shape \[3, 4, 16, 24\]'),
        (lambda: small()(clip()[:, :, 0]), r'expected \(b, channels, frames, height, width\)'),
        (lambda: small(tubelet_size=2)(clip(5)), 'expected a multiple of the 2 frames of a patch'),
    ],
)  # fmt: skip
def test_a_wrong_clip_is_answered_with_what_is_expected(make, message):
    with pytest.raises(AssertionError, match=message):
        make()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: small(num_frames=5, tubelet_size=2), 'num_frames: expected a positive multiple of tubelet_size, 2'),
        (lambda: small(num_frames=0), 'num_frames: expected a positive multiple'),
        (lambda: small(tubelet_size=0), 'tubelet_size: expected an integer >= 1'),
        (lambda: small(scan='cross'), r'grid: expected \(H, W\)'),
        (lambda: images(scan='temporal_columns'), r'grid: expected \(T, H, W\)'),
        (lambda: small(img_size='big'), 'img_size: expected an integer or'),
        (lambda: small().set_input_size(num_frames=0), 'num_frames: expected a positive multiple'),
        (lambda: images().set_input_size(num_frames=4), 'num_frames: expected None in a model of images'),
        (lambda: inflate(images(depth=8).state_dict(), small()), 'this model has 6; build it with depth=12'),
        (lambda: inflate(images().state_dict(), images()), 'inflate: expected a model of clips'),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_is_valid(make, message):
    with pytest.raises(UsageError, match=message):
        make()
