"""Feature maps of any backbone cover the image: a row and a column for each of its strides, over their own pixels."""

import pytest
import torch

from tests.tasks.settings import TINY, settings
from vimamba.tasks.feature_pyramid import Features

STRIDES = (4, 8, 16, 32)
OVERLAPPING = [{'patch_size': 16, 'stride': 8}, {'patch_size': 16, 'stride': 4}, {'patch_size': 9, 'stride': 8}]


def features_of(model, img_size=None, **options):
    config = settings('detection', model)
    config.model.options.update(options)
    config.model.img_size = img_size or config.model.img_size
    return Features(config, STRIDES, out_channels=16).eval()


def sizes(maps):
    return [tuple(level.shape[2:]) for level in maps]


@pytest.mark.parametrize(
    ('model', 'options'), [(model, {}) for model in TINY] + [('vim', o) for o in OVERLAPPING], ids=str
)
def test_every_stride_of_the_image_has_its_row_and_column(model, options):
    features = features_of(model, **options)
    for size in [features.fixed_size] if features.fixed_size else [(64, 96), (160, 96), (32, 32)]:
        with torch.no_grad():
            maps = features(torch.zeros(1, 3, *size))
        assert sizes(maps) == [tuple(-(-side // stride) for side in size) for stride in STRIDES]
        assert [level.shape[1] for level in maps] == features.channels


@pytest.mark.parametrize('options', OVERLAPPING, ids=str)
def test_overlapping_patches_lie_around_the_pixels_of_their_stride(options):
    features, seen = features_of('vim', **options), []
    patches = features.backbone.model.patch_embed
    patches.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad():
        features(torch.ones(1, 3, 64, 96))
    for row, count in ((0, 64), (1, 96)):
        pixels = seen[0][0, 0].amax(1 - row)
        stride, patch = patches.stride, patches.patch_size
        for i in range(count // stride):
            before = (patch - stride) // 2
            inside = range(stride * i + before, stride * (i + 1) + before)
            assert pixels[list(inside)].all()  # of the image, in the middle of the patch
        assert pixels.sum() == count


def test_a_backbone_of_one_size_leaves_room_for_the_overlap():
    features = features_of('local_vim', img_size=64, patch_size=16, stride=8)
    assert features.fixed_size == (56, 56)
    with torch.no_grad():
        assert sizes(features(torch.zeros(1, 3, 56, 56))) == [(14, 14), (7, 7), (4, 4), (2, 2)]
