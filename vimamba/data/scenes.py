"""Digit scenes: real handwritten digits on textured canvases, with exact boxes, instance masks and semantic maps.

A data set for detection and segmentation that needs no download. The digits are those of `Digits`, split by sample
before any scene is made: no digit of a training scene is in a validation or test scene. A scene is a function of its
split and number alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.ops import masks_to_boxes

from vimamba.data.files import Transform
from vimamba.data.image_datasets import Digits
from vimamba.errors import bad_argument, check_integers, integer, several

__all__ = ['DigitScenes', 'SemanticDigitScenes']

_SCENES = {'train': 4096, 'val': 256, 'test': 512}
_INK = 0.45  # share of full ink at which a pixel belongs to the digit
_OVERLAP = 0.25  # the most that two boxes may share of the smaller one


class DigitScenes(torch.utils.data.Dataset):
    """Scenes of 3 to 8 digits, which may overlap slightly; later digits are on top.

    A sample is that of `ObjectDataset`: an image in RGB, the boxes and masks of the visible ink, labels 0..9.

    Args:
        split, transform: as in `create_dataset`; each of 'train', 'val' and 'test' has other digits.
        seed: changes the scenes of the train split; the other splits are fixed.
        masks: give instance masks.
        size: side of a scene in pixels.
        digits: the fewest and the most digits of a scene.
        scale: the smallest and the largest side of a digit in pixels, most of which its ink fills.
        scenes: number of scenes; None for 4096 (train), 256 (val) or 512 (test).
    """

    splits = ('train', 'val', 'test')
    one_size = True  # all images have the same size
    background: tuple[str, ...] = ()  # classes before the digits

    def __init__(
        self,
        *,
        split: str,
        transform: Transform | None = None,
        seed: int = 0,
        masks: bool = False,
        size: int = 128,
        digits: tuple[int, int] = (3, 8),
        scale: tuple[int, int] = (24, 48),
        scenes: int | None = None,
    ):
        self.scenes = _SCENES[split] if scenes is None else scenes
        check_integers(8, size=size)
        check_integers(1, scenes=self.scenes)
        for name, pair, least, most in (('digits', digits, 1, 50), ('scale', scale, 8, size)):
            if not several(integer(least, most), 2).fits(pair) or pair[0] > pair[1]:
                raise bad_argument(name, f'two integers (low, high) in {least}..{most}', repr(pair))
        source = Digits(split=split)
        self.images, self.targets = source.images, source.targets
        self.classes = [*self.background, *source.classes]
        self.split, self.seed = split, seed if split == 'train' else 0
        self.transform, self.with_masks = transform, masks
        self.size, self.digits, self.scale = size, digits, scale

    def __len__(self) -> int:
        return self.scenes

    def sample_path(self, index: int) -> str:
        return f'digit_scenes/{self.split}/{index}'

    def __getitem__(self, index: int) -> Any:
        image, masks, labels = self._compose(index)
        picture, target = Image.fromarray(image), {'image_id': index, **self._target(masks, labels)}
        return self.transform(picture, target) if self.transform else (picture, target)

    def _target(self, masks: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        return {
            'boxes': _boxes(masks),
            'labels': labels,
            'area': masks.sum((1, 2), dtype=np.float32),
            'iscrowd': np.zeros(len(labels), np.int64),
            **({'masks': masks} if self.with_masks else {}),
        }

    def _compose(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8, visible ink (N, H, W) uint8, labels (N,) int64."""
        # RandomState, because NumPy keeps its streams the same in all future versions.
        rng = np.random.RandomState([self.splits.index(self.split), self.seed, index])
        size = self.size
        canvas = _texture(rng, size)
        light = canvas.mean()
        masks, labels = np.zeros((0, size, size), np.uint8), []
        wanted = rng.randint(self.digits[0], self.digits[1] + 1)
        for _ in range(8 * wanted):  # a crowded scene may end up with fewer
            chosen = rng.randint(len(self.images))
            ink = _scaled(self.images[chosen], rng.randint(self.scale[0], self.scale[1] + 1), rng)
            ink = ink[:size, :size]  # a turned digit may be larger than its side
            (height, width), mask = ink.shape, np.zeros((1, size, size), np.uint8)
            top, left = rng.randint(size - height + 1), rng.randint(size - width + 1)
            place = slice(top, top + height), slice(left, left + width)
            mask[0][place] = ink > _INK
            if _overlap(_boxes(mask), _boxes(masks)) > _OVERLAP:
                continue
            canvas[place] += ink[..., None] * (_contrasting(rng, light) - canvas[place])
            masks = np.concatenate([masks * (1 - mask), mask])
            labels.append(self.targets[chosen])
            if len(labels) == wanted:
                break
        noisy = canvas + rng.normal(0, 0.02, canvas.shape)
        return (noisy.clip(0, 1) * 255).round().astype(np.uint8), masks, np.array(labels, np.int64)


class SemanticDigitScenes(DigitScenes):
    """`DigitScenes` as maps: ``mask`` (H, W) uint8 is 0 on the background and 1 + the digit on its visible ink."""

    background = ('background',)

    def _target(self, masks: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        return {'mask': (masks * (labels + 1)[:, None, None]).sum(0).astype(np.uint8)}  # the masks are disjoint


def _texture(rng: np.random.RandomState, size: int) -> np.ndarray:
    """A canvas (H, W, 3) in 0..1: coloured noise of several scales."""
    canvas = np.full((size, size, 3), rng.uniform(0.2, 0.8, 3))
    for cells, strength in ((2, 0.22), (5, 0.14), (16, 0.09), (48, 0.05)):
        noise = rng.uniform(-1, 1, (cells, cells, 3)) * 127 + 128
        layer = Image.fromarray(noise.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
        canvas += strength * rng.uniform(0.3, 1) * (np.asarray(layer) / 127.5 - 1)
    return canvas.clip(0, 1)


def _scaled(digit: np.ndarray, side: int, rng: np.random.RandomState) -> np.ndarray:
    """The ink (h, w) in 0..1 of an 8 x 8 scan, rotated by up to 15 degrees and cropped to its extent."""
    padded = Image.fromarray(np.pad(digit, 2)).resize((side * 3 // 2,) * 2, Image.Resampling.BICUBIC)
    ink = np.asarray(padded.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)) / 255
    rows, columns = (np.flatnonzero((ink > _INK / 2).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].clip(0, 1)


def _contrasting(rng: np.random.RandomState, light: float) -> np.ndarray:
    """A colour whose channels all differ clearly from the canvas."""
    low, high = (0.75, 1.0) if light < 0.5 else (0.0, 0.25)
    colour = rng.uniform(low, high, 3)
    colour[rng.randint(3)] = rng.uniform(0, 1)
    return colour


def _boxes(masks: np.ndarray) -> np.ndarray:
    """The bounding box of each mask: (N, 4)."""
    return masks_to_boxes(torch.from_numpy(masks)).numpy() + np.array([0, 0, 1, 1], np.float32)  # outer edges


def _overlap(box: np.ndarray, boxes: np.ndarray) -> float:
    """The largest overlap of ``box`` (1, 4) with one of ``boxes`` (N, 4), as a fraction of the smaller box."""
    common = (np.minimum(box[:, 2:], boxes[:, 2:]) - np.maximum(box[:, :2], boxes[:, :2])).clip(0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (box, boxes)]
    return float((common / np.minimum(*areas)).max(initial=0))
