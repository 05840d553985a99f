"""Transforms that keep an image, its boxes and its masks in step, by albumentations."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from vimamba.data.image import to_channels
from vimamba.data.transforms import (
    ALBUMENTATIONS,
    IGNORED,
    INTERVAL,
    build_albumentations,
    load_albumentations,
    one_line,
    seed_albumentations,
)
from vimamba.errors import Rule, UsageError, bad_argument, check_options, integer, number, or_none, several, within

__all__ = ['AUGMENT_DENSE', 'DenseTransform']

_SIZE = or_none(several(integer(1), 2))
_OPTIONS: dict[str, tuple[Any, Rule]] = {
    'hflip': (0.5, number(0, 1)),  # probability of a left-right flip
    'resize': (None, _SIZE),  # (short side, most of the long side) in pixels before all else; None leaves the size
    'scale': ((1.0, 1.0), INTERVAL),  # random factor on the size, uniform between these
    'crop': (None, _SIZE),  # (height, width) in pixels of a random crop; smaller images are padded right and below
    'max_class_share': (1.0, number(0, 1)),  # crops of a map with more of one class are drawn again, up to ten times
    'crop_first': (0.0, number(0, 1)),  # probability of DETR's crop: 384 to 600 pixels at a short side of 400 to 600
    'color_jitter': (0.0, number(0, below=1)),  # brightness, contrast, saturation
    'albumentations': (None, ALBUMENTATIONS),
}
AUGMENT_DENSE = {name: default for name, (default, _) in _OPTIONS.items()}


class DenseTransform:
    """Converts an image and its target to tensors, and augments them in training.

    Args:
        channels: channels of the image: 1 (grey), 3 (RGB) or 4 (RGBA).
        augment: options that override `AUGMENT_DENSE`; None for no augmentation.

    Called with a PIL image and a target of arrays: boxes (N, 4), labels, area, iscrowd (N,) and optionally masks
    (N, H, W), or a semantic mask (H, W). Returns the image (C, H, W) float32 in 0..1 and the target as tensors. Other
    entries are kept unchanged. Objects outside a crop are removed.

    Raises:
        UsageError: an unknown option, with the nearest one, or a value out of range.

    >>> transform = DenseTransform(1, {'hflip': 1.0})
    >>> target = {'boxes': np.array([[0, 0, 2, 4]]), 'labels': np.array([3])}
    >>> image, target = transform(Image.new('L', (8, 4)), target)
    >>> image.shape, target['boxes'].tolist()
    (torch.Size([1, 4, 8]), [[6.0, 0.0, 8.0, 4.0]])
    """

    def __init__(self, channels: int, augment: dict[str, Any] | None = None):
        self.channels, self.options = channels, None
        if augment is None:
            return
        with within('augment'):
            check_options(augment, {name: rule for name, (_, rule) in _OPTIONS.items()}, "'dense' augment option")
            self.options = {**AUGMENT_DENSE, **augment}
            self.pipeline = self._pipeline(self.options)

    def _pipeline(self, a: dict[str, Any]) -> Any:
        library, jitter = load_albumentations(), a['color_jitter']
        if jitter and self.channels == 4:
            raise bad_argument('color_jitter', '0 with 4 channels', jitter)
        steps = [library['HorizontalFlip'](p=a['hflip'])] if a['hflip'] else []
        steps += build_albumentations(a['albumentations'] or [])
        if jitter:
            steps.append(library['ColorJitter'](*[(1 - jitter, 1 + jitter)] * 3, (0, 0), p=1.0))
        least = {'min_width': 0.5, 'min_height': 0.5, 'filter_invalid_bboxes': True}
        boxes = library['BboxParams']('pascal_voc', label_fields=['rows'], clip=True, **least)
        return library['Compose'](steps, bbox_params=boxes) if steps else None

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        pixels = np.asarray(to_channels(image, self.channels))
        sample = {**target, 'image': pixels.reshape(*pixels.shape[:2], self.channels)}
        if 'boxes' in sample:
            sample['boxes'] = np.asarray(sample['boxes'], np.float32).reshape(-1, 4)
        if self.options is not None:
            sample = self._augmented(sample, self.options)
        tensor = torch.from_numpy(np.array(sample.pop('image').transpose(2, 0, 1))).float() / 255
        return tensor, {
            key: torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
            for key, value in sample.items()
        }

    def _augmented(self, sample: dict[str, Any], a: dict[str, Any]) -> dict[str, Any]:
        if random.random() < a['crop_first']:
            sample = _crop(sample, *_detr_window(*sample['image'].shape[:2]))
        factor = random.uniform(*a['scale'])
        height, width = sample['image'].shape[:2]
        if a['resize']:
            factor *= min(a['resize'][0] / min(height, width), a['resize'][1] / max(height, width))
        if factor != 1:
            sample = _resized(sample, factor)
        if a['crop']:
            sample = _random_crop(sample, a['crop'], a['max_class_share'])
        return self._pipelined(sample) if self.pipeline else sample

    def _pipelined(self, sample: dict[str, Any]) -> dict[str, Any]:
        seed_albumentations(self.pipeline)
        boxes = sample.get('boxes', np.zeros((0, 4), np.float32))
        given = {'image': sample['image'], 'bboxes': boxes, 'rows': list(range(len(boxes)))}
        given |= {key: sample[key] for key in ('mask', 'masks') if len(sample.get(key, ()))}
        try:
            out = self.pipeline(**given)
            image = np.asarray(out['image']).reshape(*out['image'].shape[:2], self.channels)
        except Exception as error:  # an image too small for a crop, say: albumentations raises almost anything
            raise UsageError(one_line(error), key='augment.albumentations') from error
        if image.dtype != np.uint8:
            raise bad_argument('augment.albumentations', 'transforms that keep images uint8', image.dtype)
        sample['image'] = image
        if 'mask' in sample:
            sample['mask'] = out['mask']
        if 'masks' in sample:  # beyond the image they are 255, as maps are
            masks = np.array(out.get('masks', ())) == 1
            sample['masks'] = masks.astype(np.uint8).reshape(-1, *image.shape[:2])
        if 'boxes' in sample:
            sample = _keep(sample, np.array(out['rows'], np.int64))
            sample['boxes'] = np.asarray(out['bboxes'], np.float32).reshape(-1, 4)
        return sample


def _random_crop(sample: dict[str, Any], size: tuple[int, int], max_class_share: float) -> dict[str, Any]:
    (height, width), full = size, sample['image'].shape
    down, right = max(height - full[0], 0), max(width - full[1], 0)
    if down or right:
        sides = ((0, down), (0, right))
        sample['image'] = np.pad(sample['image'], (*sides, (0, 0)), constant_values=114)
        for key, beyond in (('mask', IGNORED), ('masks', 0)):
            if key in sample:
                sample[key] = np.pad(sample[key], ((0, 0), *sides)[-sample[key].ndim :], constant_values=beyond)
    for _ in range(10):
        top, left = random.randint(0, full[0] + down - height), random.randint(0, full[1] + right - width)
        if 'mask' not in sample or max_class_share >= 1:
            break
        counts = np.bincount(sample['mask'][top : top + height, left : left + width].ravel(), minlength=256)
        seen = counts[:IGNORED]
        if (seen > 0).sum() > 1 and seen.max() < max_class_share * seen.sum():
            break
    return _crop(sample, top, left, top + height, left + width)


def _detr_window(height: int, width: int) -> tuple[int, int, int, int]:
    """DETR's crop (arXiv:2005.12872, App. A.4), in pixels of the image as it is: the model resizes it afterwards."""
    scale = random.choice((400, 500, 600)) / min(height, width)
    sides = [round(random.uniform(min(384, side * scale), min(600, side * scale)) / scale) for side in (height, width)]
    tall, wide = max(1, min(sides[0], height)), max(1, min(sides[1], width))
    top, left = random.randint(0, height - tall), random.randint(0, width - wide)
    return top, left, top + tall, left + wide


def _crop(sample: dict[str, Any], top: int, left: int, bottom: int, right: int) -> dict[str, Any]:
    """Crops the image and its target to a window; removes objects outside it."""
    sample['image'] = sample['image'][top:bottom, left:right]
    for key in ('mask', 'masks'):
        if key in sample:
            sample[key] = sample[key][..., top:bottom, left:right]
    if 'boxes' in sample:
        boxes = sample['boxes'] - (left, top, left, top)
        sample['boxes'] = boxes = boxes.clip(0, (right - left, bottom - top) * 2).astype(np.float32)
        seen = ((boxes[:, 2:] - boxes[:, :2]) > 0.5).all(1)
        if 'masks' in sample:
            seen &= sample['masks'].any((1, 2))
        sample = _keep(sample, np.flatnonzero(seen))
    return sample


def _resized(sample: dict[str, Any], factor: float) -> dict[str, Any]:
    """Resizes the image and its target by ``factor``, to whole pixels; masks by nearest neighbour."""
    import cv2

    before = sample['image'].shape
    height, width = (max(1, math.floor(side * factor + 0.5)) for side in before[:2])
    ratio = np.array([width / before[1], height / before[0]] * 2, np.float32)
    smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    sample['image'] = cv2.resize(sample['image'], (width, height), interpolation=smooth).reshape(height, width, -1)
    nearest = partial(cv2.resize, dsize=(width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    if 'mask' in sample:
        sample['mask'] = nearest(sample['mask'])
    if 'masks' in sample:
        sample['masks'] = np.array(list(map(nearest, sample['masks'])), np.uint8).reshape(-1, height, width)
    for key, factors in (('boxes', ratio), ('area', ratio[0] * ratio[1])):
        if key in sample:
            sample[key] = sample[key] * factors
    return sample


def _keep(sample: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Keeps the objects of these rows."""
    objects = ('boxes', 'labels', 'area', 'iscrowd', 'masks')
    return {key: value[rows] if key in objects else value for key, value in sample.items()}
