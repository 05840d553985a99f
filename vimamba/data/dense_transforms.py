"""Transforms that keep an image, its boxes and its masks in step, by albumentations."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
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
from vimamba.errors import UsageError, bad_argument, check_options, integer, number, or_none, several, within

__all__ = ['AUGMENT_DENSE', 'DenseTransform']

AUGMENT_DENSE: dict[str, Any] = {
    'hflip': 0.5,  # probability of a left-right flip
    'resize': None,  # (short side, most of the long side) in pixels before all else; None leaves the size
    'scale': (1.0, 1.0),  # random factor on the size, uniform between these
    'crop': None,  # (height, width) in pixels of a random crop; smaller images are padded at the right and the bottom
    'max_class_share': 1.0,  # of a semantic map: crops with more of one class are drawn again, up to ten times
    'crop_first': 0.0,  # probability of DETR's crop: 384 to 600 pixels of the image at a short side of 400 to 600
    'color_jitter': 0.0,  # brightness, contrast, saturation
    'albumentations': None,  # a list such as [dict(type='MotionBlur', p=0.3), ...]
}
_RULES = {
    'hflip': number(0, 1),
    'resize': or_none(several(integer(1), 2)),
    'scale': INTERVAL,
    'crop': or_none(several(integer(1), 2)),
    'max_class_share': number(0, 1),
    'crop_first': number(0, 1),
    'color_jitter': number(0, below=1),
    'albumentations': ALBUMENTATIONS,
}


class DenseTransform:
    """An image and its target to tensors, augmented in training.

    Args:
        channels: of the image: 1 (grey), 3 (RGB) or 4 (RGBA).
        augment: options over `AUGMENT_DENSE`; None for none at all.

    Called with a PIL image and a target of arrays (boxes (N, 4), labels, area, iscrowd (N,), maybe masks (N, H, W), or
    a semantic mask (H, W)) it gives the image (C, H, W) float32 in 0..1 and the target as tensors; what is not known by
    these names stays as it is. Objects that a crop leaves nothing of are left out.

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
            check_options(augment, _RULES, "'dense' augment option")
            self.options = {**AUGMENT_DENSE, **augment}
            self.pipeline = self._pipeline(self.options)

    def _pipeline(self, a: dict[str, Any]) -> Any:
        library, jitter = load_albumentations(), a['color_jitter']
        if jitter and self.channels == 4:
            raise bad_argument('color_jitter', '0 with 4 channels', jitter)
        steps = [library['HorizontalFlip'](p=a['hflip'])] if a['hflip'] else []
        steps += build_albumentations(a['albumentations'] or [], library)
        if jitter:
            steps.append(library['ColorJitter']((1 - jitter, 1 + jitter), (1 - jitter, 1 + jitter),
                                                (1 - jitter, 1 + jitter), (0, 0), p=1.0))  # fmt: skip
        least = {'min_width': 0.5, 'min_height': 0.5, 'filter_invalid_bboxes': True}
        boxes = library['BboxParams']('pascal_voc', label_fields=['rows'], clip=True, **least)
        return library['Compose'](steps, bbox_params=boxes) if steps else None

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        pixels = np.asarray(to_channels(image, self.channels))
        pixels = pixels.reshape(*pixels.shape[:2], self.channels)
        target = dict(target)
        if self.options is not None:
            pixels, target = self._augmented(pixels, target)
        if 'boxes' in target:
            target['boxes'] = np.asarray(target['boxes'], np.float32).reshape(-1, 4)
        tensor = torch.from_numpy(np.array(pixels.transpose(2, 0, 1))).float() / 255
        return tensor, {
            key: torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
            for key, value in target.items()
        }

    def _augmented(self, pixels: np.ndarray, target: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        a = self.options
        assert a is not None
        if random.random() < a['crop_first']:
            pixels, target = _crop(pixels, target, *_detr_window(*pixels.shape[:2]))
        factor = random.uniform(*a['scale'])
        height, width = pixels.shape[:2]
        if a['resize']:
            factor *= min(a['resize'][0] / min(height, width), a['resize'][1] / max(height, width))
        if factor != 1:
            pixels, target = _resized(pixels, target, factor)
        if a['crop']:
            pixels, target = self._random_crop(pixels, target, *a['crop'])
        if self.pipeline is not None:
            pixels, target = self._pipelined(pixels, target)
        return pixels, target

    def _random_crop(
        self, pixels: np.ndarray, target: dict[str, Any], height: int, width: int
    ) -> tuple[np.ndarray, dict[str, Any]]:
        assert self.options is not None
        down, right = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
        if down or right:
            pixels = np.pad(pixels, ((0, down), (0, right), (0, 0)), constant_values=114)
            for key, fill in (('masks', 0), ('mask', IGNORED)):
                if key in target:
                    sides = ((0, 0),) * (target[key].ndim - 2)
                    target[key] = np.pad(target[key], (*sides, (0, down), (0, right)), constant_values=fill)
        for _ in range(10):
            top = random.randint(0, pixels.shape[0] - height)
            left = random.randint(0, pixels.shape[1] - width)
            window = (top, left, top + height, left + width)
            if 'mask' not in target or self.options['max_class_share'] >= 1:
                break
            counts = np.bincount(target['mask'][window[0] : window[2], window[1] : window[3]].ravel(), minlength=256)
            seen = counts[:IGNORED]
            if (seen > 0).sum() > 1 and seen.max() < self.options['max_class_share'] * seen.sum():
                break
        return _crop(pixels, target, *window)

    def _pipelined(self, pixels: np.ndarray, target: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        assert self.pipeline is not None
        seed_albumentations(self.pipeline)
        given: dict[str, Any] = {'image': pixels, 'bboxes': np.zeros((0, 4), np.float32), 'rows': []}
        if 'boxes' in target:
            boxes = np.asarray(target['boxes'], np.float32).reshape(-1, 4)
            given |= {'bboxes': boxes, 'rows': list(range(len(boxes)))}
        if 'mask' in target:
            given['mask'] = target['mask']
        if 'masks' in target and len(target['masks']):
            given['masks'] = target['masks']
        try:
            out = self.pipeline(**given)
            image = np.asarray(out['image']).reshape(*out['image'].shape[:2], self.channels)
        except Exception as error:  # an image too small for a crop, say: albumentations raises almost anything
            raise UsageError(one_line(error), key='augment.albumentations') from error
        if image.dtype != np.uint8:
            raise bad_argument('augment.albumentations', 'transforms that keep images uint8', image.dtype)
        if 'mask' in given:
            target['mask'] = out['mask']
        if 'boxes' in target:
            rows = np.array(out['rows'], np.int64)
            if 'masks' in given:  # beyond the image they are 255, as maps are
                target['masks'] = (np.stack(out['masks']) == 1).astype(np.uint8)
            target = _keep(target, rows)
            target['boxes'] = np.asarray(out['bboxes'], np.float32).reshape(-1, 4)
            if 'masks' in target and 'masks' not in given:
                target['masks'] = np.zeros((0, *image.shape[:2]), np.uint8)
        return image, target


def _detr_window(height: int, width: int) -> tuple[int, int, int, int]:
    """DETR's crop (arXiv:2005.12872, App. A.4), in pixels of the image as it is: the model resizes it afterwards."""
    scale = random.choice((400, 500, 600)) / min(height, width)
    sides = [round(random.uniform(min(384, side * scale), min(600, side * scale)) / scale) for side in (height, width)]
    tall, wide = max(1, min(sides[0], height)), max(1, min(sides[1], width))
    top, left = random.randint(0, height - tall), random.randint(0, width - wide)
    return top, left, top + tall, left + wide


def _crop(
    pixels: np.ndarray, target: dict[str, Any], top: int, left: int, bottom: int, right: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """The window of everything; objects without a pixel in it are left out."""
    pixels = pixels[top:bottom, left:right]
    for key in ('mask', 'masks'):
        if key in target:
            target[key] = target[key][..., top:bottom, left:right]
    if 'boxes' in target:
        boxes = np.asarray(target['boxes'], np.float32).reshape(-1, 4) - (left, top, left, top)
        boxes = boxes.clip(0, (right - left, bottom - top) * 2).astype(np.float32)
        seen = ((boxes[:, 2:] - boxes[:, :2]) > 0.5).all(1)
        if 'masks' in target:
            seen &= target['masks'].any((1, 2))
        target = _keep({**target, 'boxes': boxes}, np.flatnonzero(seen))
    return pixels, target


def _resized(pixels: np.ndarray, target: dict[str, Any], factor: float) -> tuple[np.ndarray, dict[str, Any]]:
    """Everything ``factor`` times as large, to whole pixels; maps by their nearest value."""
    import cv2

    height, width = (max(1, math.floor(side * factor + 0.5)) for side in pixels.shape[:2])
    ratio = np.array([width / pixels.shape[1], height / pixels.shape[0]] * 2, np.float32)
    smooth = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    pixels = cv2.resize(pixels, (width, height), interpolation=smooth).reshape(height, width, -1)

    def nearest(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)

    if 'mask' in target:
        target['mask'] = nearest(target['mask'])
    if 'masks' in target:
        target['masks'] = np.stack([nearest(m) for m in target['masks']]) if len(target['masks']) else \
            np.zeros((0, height, width), np.uint8)  # fmt: skip
    if 'boxes' in target:
        target['boxes'] = np.asarray(target['boxes'], np.float32).reshape(-1, 4) * ratio
    if 'area' in target:
        target['area'] = target['area'] * np.float32(ratio[0] * ratio[1])
    return pixels, target


def _keep(target: dict[str, Any], rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """Only these objects."""
    objects = ('boxes', 'labels', 'area', 'iscrowd', 'masks')
    return {key: value[rows] if key in objects else value for key, value in target.items()}
