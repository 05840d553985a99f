"""Digit scenes: exact boxes and masks, the same scene for ever, digits that no other split has, any options."""

import hashlib

import numpy as np
import pytest

from vimamba.data.scenes import DigitScenes, SemanticDigitScenes
from vimamba.errors import UsageError

ODD = [
    {},
    {'scale': (120, 128)},  # turned, such a digit is larger than the canvas
    {'size': 8, 'scale': (8, 8), 'digits': (1, 1)},
    {'scale': (8, 128), 'digits': (20, 20)},
]


@pytest.mark.parametrize('options', ODD, ids=str)
def test_boxes_and_maps_are_those_of_the_ink_that_is_seen(options):
    scenes = DigitScenes(split='val', masks=True, **options)
    maps = SemanticDigitScenes(split='val', **options)
    assert maps.classes == ['background', *scenes.classes]
    for i in range(3):
        image, target = scenes[i]
        masks, boxes = target['masks'], target['boxes']
        assert 1 <= len(masks) == len(boxes) == len(target['labels']) == len(target['iscrowd'])
        assert masks.shape[1:] == (image.height, image.width)
        assert masks.sum(0).max() == 1  # later digits lie on top
        assert target['area'].tolist() == masks.sum((1, 2)).tolist()
        for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int)):
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum() > 0
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()  # noqa: PT018
        expected = (masks * (target['labels'] + 1)[:, None, None]).sum(0)
        same, semantic = maps[i]
        assert np.array_equal(np.asarray(same), np.asarray(image))
        assert np.array_equal(semantic['mask'], expected)


def test_a_scene_is_always_the_same():
    """Published figures are of these scenes."""
    digest = hashlib.sha256()
    for split in DigitScenes.splits:
        _, target = DigitScenes(split=split, masks=True)[3]
        digest.update(target['masks'].tobytes() + target['labels'].tobytes())
    assert digest.hexdigest() == '2b2e9425d0689a992ef6285bbebb8268cdee4b45ec4070318bc29b3b08f84b38'


def test_the_seed_makes_other_scenes_of_training_alone():
    for split, same in (('train', False), ('val', True), ('test', True)):
        first, second = (np.asarray(DigitScenes(split=split, seed=seed)[0][0]) for seed in (0, 1))
        assert np.array_equal(first, second) is same


def test_no_digit_is_in_two_splits():
    scans = [{image.tobytes() for image in DigitScenes(split=split).images} for split in DigitScenes.splits]
    assert all(scans)
    assert not scans[0] & scans[1]
    assert not scans[1] & scans[2]
    assert not scans[0] & scans[2]


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        ({'scale': (24, 300)}, r'scale: expected two integers \(low, high\) in 8..128, got \(24, 300\)'),
        ({'scale': 24}, 'scale: expected two integers'),
        ({'digits': (3, 2)}, 'digits: expected two integers'),
        ({'digits': ('a', 'b')}, 'digits: expected two integers'),
        ({'size': 4}, 'size: expected an integer >= 8, got 4'),
        ({'scenes': 0}, 'scenes: expected an integer >= 1, got 0'),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(options, says):
    with pytest.raises(UsageError, match=says):
        DigitScenes(split='val', **options)
