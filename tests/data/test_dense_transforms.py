"""Augmentation of dense tasks: boxes, masks and maps go where pixels go, and what is beyond the image is no class."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.dense_files import shapes
from vimamba.data.dense_transforms import DenseTransform
from vimamba.errors import UsageError

pytest.importorskip('albumentations', reason='augmentation needs vimamba[train]')

GEOMETRY = {
    'flip': {'hflip': 1.0},
    'smaller': {'scale': (0.6, 0.6), 'hflip': 0.0},
    'larger': {'scale': (1.7, 1.7)},
    'to a size': {'resize': (48, 64)},
    'window': {'crop': (40, 50), 'hflip': 0.0},  # without albumentations, which cuts boxes once more
    'padded window': {'crop': (96, 90)},
    "DETR's window": {'crop_first': 1.0},
    'quarter turn': {'albumentations': [{'type': 'RandomRotate90', 'p': 1.0}]},
    'all': {'scale': (0.7, 1.4), 'crop': (60, 60), 'albumentations': [{'type': 'VerticalFlip', 'p': 0.5}]},
}


def drawing(number, size=(64, 80)):
    """Two rectangles, the one all red and the other all blue, on black."""
    boxes = np.array([box_of(mask) for _, mask in shapes(number, size)[1]], np.float32)
    masks = np.zeros((2, *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int)):
        mask[top:bottom, left:right] = 1
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0], image[..., 2] = 255 * masks[0], 255 * masks[1]
    target = {'boxes': boxes, 'labels': np.array([4, 7]), 'iscrowd': np.array([0, 1]), 'area': masks.sum((1, 2))}
    return Image.fromarray(image), target | {'masks': masks, 'image_id': 5}


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize('name', GEOMETRY)
def test_objects_go_where_their_pixels_go(name):
    transform, counts = DenseTransform(3, GEOMETRY[name]), set()
    for number in range(12):
        random.seed(number)
        image, target = transform(*drawing(number))
        counts.add(len(target['boxes']))
        assert target['image_id'] == 5
        channels = {4: image[0], 7: image[2]}
        assert target['masks'].shape[1:] == image.shape[1:]
        for box, label, crowd, mask in zip(*(target[k] for k in ('boxes', 'labels', 'iscrowd', 'masks'))):
            bright = channels.pop(int(label)) > 0.5
            assert int(crowd) == int(label == 7)
            assert (mask.bool() != bright).sum() <= 0.15 * mask.sum() + 8  # resizing rounds at the rim
            assert np.abs(box.numpy() - box_of(bright.numpy())).max() <= 1.5
        for channel in channels.values():  # of an object that was left out
            assert (channel > 0.5).sum() <= 8
    assert max(counts) == 2


def test_a_box_around_all_of_a_strip_stays_around_all_of_it():
    """Its sides are rounded to whole pixels, and so scaled differently."""
    target = {'boxes': np.array([[0, 0, 100, 5]]), 'area': np.array([500.0])}
    image, target = DenseTransform(3, {'hflip': 0.0, 'scale': (0.3, 0.3)})(Image.new('RGB', (100, 5)), target)
    assert image.shape == (3, 2, 30)
    torch.testing.assert_close(target['boxes'], torch.tensor([[0.0, 0, 30, 2]]))
    assert float(target['area']) == pytest.approx(60)


@pytest.mark.parametrize('name', GEOMETRY)
def test_maps_go_where_their_pixels_go(name):
    transform = DenseTransform(3, GEOMETRY[name])
    for number in range(6):
        random.seed(number)
        image, target = drawing(number)
        semantic = (target['masks'] * np.array([1, 2], np.uint8)[:, None, None]).sum(0).astype(np.uint8)
        image, target = transform(image, {'mask': semantic})
        padding = (image == 114 / 255).all(0)
        wanted = (image[0] > 0.5) + 2 * (image[2] > 0.5)
        wanted[padding] = 255
        assert target['mask'].shape == image.shape[1:]
        assert (target['mask'] != wanted).float().mean() < 0.03
        assert name != 'padded window' or padding.any()


BEYOND = [
    {'type': 'Rotate', 'limit': (30, 30), 'p': 1.0},
    {'type': 'Affine', 'translate_percent': 0.3, 'p': 1.0},
    {'type': 'PadIfNeeded', 'min_height': 100, 'min_width': 120, 'border_mode': 0, 'p': 1.0},
    {'type': 'OneOf', 'p': 1.0, 'transforms': [{'type': 'SafeRotate', 'limit': (20, 20), 'p': 1.0}]},
]


@pytest.mark.parametrize('spec', BEYOND, ids=lambda spec: spec['type'])
def test_beyond_the_image_is_no_class_and_no_object(spec):
    transform = DenseTransform(3, {'hflip': 0.0, 'albumentations': [spec]})
    everywhere = np.ones((64, 80), np.uint8)
    white = Image.new('RGB', (80, 64), (255, 255, 255))
    random.seed(0)
    image, target = transform(white, {'mask': everywhere * 3})
    beyond = image[0] < 0.5
    assert beyond.any()
    assert target['mask'].unique().tolist() == [3, 255]
    assert ((target['mask'] == 255) != beyond).float().mean() < 0.02  # the rim is interpolated
    objects = {'boxes': np.array([[0, 0, 80, 64]]), 'labels': np.array([1]), 'masks': everywhere[None]}
    random.seed(0)
    _, target = transform(white, objects)
    assert target['masks'].unique().tolist() == [0, 1]
    assert ((target['masks'][0] == 0) != beyond).float().mean() < 0.02


def test_a_fill_that_is_asked_for_stays():
    transform = DenseTransform(3, {'albumentations': [{**BEYOND[0], 'fill_mask': 9}]})
    _, target = transform(Image.new('RGB', (80, 64)), {'mask': np.full((64, 80), 3, np.uint8)})
    assert target['mask'].unique().tolist() == [3, 9]


@pytest.mark.parametrize('options', [{'hflip': 1.0}, {'scale': (0.1, 0.1)}, {'crop': (30, 30)}], ids=str)
def test_boxes_too_thin_for_float32_do_not_stop_training(options):
    left = np.linspace(40, 60, 50, dtype=np.float32)
    boxes = np.stack([left, left * 0, np.nextafter(left, np.float32(99)), left], 1)
    image, target = drawing(0)
    many = {'boxes': boxes, 'labels': np.arange(50), 'masks': target['masks'][:1].repeat(50, 0)}
    _, target = DenseTransform(3, options)(image, many)
    assert len(target['boxes']) == len(target['labels']) == len(target['masks'])


def test_without_objects_every_augmentation_works():
    empty = {'boxes': np.zeros((0, 4)), 'labels': np.zeros(0, np.int64), 'masks': np.zeros((0, 64, 80), np.uint8)}
    for options in GEOMETRY.values():
        image, target = DenseTransform(3, options)(Image.new('RGB', (80, 64)), empty)
        assert target['boxes'].shape == (0, 4)
        assert target['masks'].shape == (0, *image.shape[1:])


@pytest.mark.parametrize(
    ('spec', 'says'),
    [
        ({'type': 'Normalize'}, 'transforms that keep images uint8, got float32'),
        ({'type': 'RandomCrop', 'height': 500, 'width': 500}, 'augment.albumentations: .*'),
        ({'type': 'Mosaic', 'p': 1.0}, 'augment.albumentations: .*mosaic_metadata'),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_a_transform_that_cannot_work_says_so_in_one_line(spec, says):
    transform = DenseTransform(3, {'albumentations': [spec]})
    with pytest.raises(UsageError, match=says) as error:
        transform(*drawing(0))
    assert '\n' not in str(error.value)


def test_grey_and_16_bit_images_keep_their_range():
    grey, _ = DenseTransform(1, {'hflip': 0.0})(Image.fromarray(np.full((4, 6), 51, np.uint8)), {})
    deep, _ = DenseTransform(3)(Image.fromarray(np.full((4, 6), 13107, np.uint16)), {})
    assert torch.equal(grey, torch.full((1, 4, 6), 0.2))
    assert torch.equal(deep, torch.full((3, 4, 6), 0.2))
