"""Heads as the authors of the recipes have them: convolutions and norms, maps of one stride, a second head anywhere."""

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from tests.tasks.settings import data_of, settings
from vimamba.tasks.detection import DetectionTask
from vimamba.tasks.segmentation import SegmentationTask

RCNN = {'min_size': 64, 'max_size': 64, 'channels': 64, 'hidden': 32, 'proposals': 50, 'samples': 16}


def count(module, kind):
    return sum(isinstance(m, kind) for m in module.modules())


@pytest.mark.parametrize(
    ('options', 'convs', 'linears', 'norm'),
    [
        ({}, 0, 2, None),
        ({'box_convs': 4}, 4, 1, None),
        ({'box_convs': 4, 'box_norm': 'batch', 'mask_norm': 'batch'}, 4, 1, nn.BatchNorm2d),
        ({'box_convs': 2, 'box_norm': 'layer', 'mask_norm': 'layer', 'rpn_convs': 3}, 2, 1, LayerNorm2d),
    ],
)
def test_a_box_head_has_the_layers_that_it_is_asked_for(options, convs, linears, norm):
    config = settings('detection', 'vmamba', {'head': 'mask_rcnn', 'mask_channels': 32, **RCNN, **options})
    task = DetectionTask.build(config, [str(i) for i in range(10)], with_weights=False)
    heads = task.model.network.roi_heads
    assert (count(heads.box_head, nn.Conv2d), count(heads.box_head, nn.Linear)) == (convs, linears)
    for head, layers in ((heads.box_head, convs), (heads.mask_head, 4)):
        kinds = {kind: count(head, kind) for kind in (nn.BatchNorm2d, LayerNorm2d)}
        assert kinds == {kind: layers * (kind is norm) for kind in kinds}
    assert count(task.model.network.rpn.head.conv, nn.Conv2d) == options.get('rpn_convs', 1)
    image, target = data_of(task, config)[0]
    nothing = {key: value[:0] if torch.is_tensor(value) else value for key, value in target.items()}
    for targets in ([target, target], [nothing, nothing]):  # the mask head sees no object of the second
        losses = task.train()([image, image], targets, mode='loss')
        assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize('level', [0, 3])
def test_maps_of_one_stride_go_to_the_decoder_as_they_are(level):
    """Without a neck, as UPerNet has the maps of LocalVim and PlainMamba; blocks in any order of strides."""
    options = {'channels': 64, 'out_indices': (0, 1, 2, 2), 'pyramid': False}
    more = {'auxiliary': 0.4, 'auxiliary_level': level}
    config = settings('segmentation', 'plain_mamba', {**options, **more}, data={'batch_size': 2})
    task = SegmentationTask.build(config, ['a', 'b'], with_weights=False)
    features, seen = task.model.features, {}
    assert (features.strides, features.flat) == ([16] * 4, False)
    assert isinstance(features.pyramid, nn.Identity)
    task.model.second.register_forward_hook(lambda module, args, out: seen.update(second=args[0]))
    features.register_forward_hook(lambda module, args, out: seen.update(maps=list(out)))
    images = torch.rand(2, 3, 64, 96)
    logits, second = task.train().model(images)
    assert logits.shape == second.shape == (2, 2, 4, 6)
    assert torch.equal(seen['second'], seen['maps'][level])
    assert not torch.equal(seen['maps'][0], seen['maps'][3])
    assert task.eval()([torch.rand(3, 50, 70)])[0].shape == (50, 70)


def test_a_pyramid_in_the_backbone_is_used_as_it_is():
    """Vim's for UPerNet; the task makes none of its own."""
    config = settings('segmentation', 'vim', {'channels': 64}, data={'batch_size': 2})
    config.model.options |= {'patch_size': 16, 'depth': 4, 'feature_pyramid': (0, 1, 2, 3), 'class_token': 'middle'}
    task = SegmentationTask.build(config, ['a', 'b'], with_weights=False)
    assert isinstance(task.model.features.pyramid, nn.Identity)
    assert task.model.features.taken == [0, 1, 2, 3]
    maps = task.model.features(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]
