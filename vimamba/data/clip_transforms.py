"""Frames to tensors: random numbers are drawn once for all frames of a clip."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from vimamba.data.loader import seeded
from vimamba.data.transforms import create_transform
from vimamba.errors import bad_argument, one_of

__all__ = ['ClipTransform']


class ClipTransform:
    """(T, H, W, 3) uint8 -> (3, T, height, width) float32, or (crops, 3, T, height, width) for several crops.

    Args:
        input_size: (height, width) in pixels.
        mean, std, crop_pct: as in `create_transform`.
        training: augment by ``style``, options of `AUGMENT`'s 'imagenet'; without a style, as in evaluation.
        interpolation: resizing filter, 'bicubic' or 'bilinear'.
        crops: 1 in the middle, or 3 along the longer side, outside of training.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        training: bool,
        interpolation: str = 'bicubic',
        crop_pct: float = 1.0,
        crops: int = 1,
        style: dict[str, Any] | None = None,
    ):
        one_of(1, 3)(crops, 'num_crops')
        if interpolation not in ('bilinear', 'bicubic'):  # those of tensors
            raise bad_argument('interpolation', "'bilinear' or 'bicubic'", repr(interpolation))
        self.size, self.mean, self.std = tuple(input_size), list(mean), list(std)
        self.training, self.crops = training, 1 if training else crops
        self.filter = InterpolationMode(interpolation)
        self.short = tuple(round(side / crop_pct) for side in self.size)
        self.augment = None
        if training and style is not None:
            pixels: dict[str, Any] = {'mean': mean, 'std': std, 'interpolation': interpolation}
            augment = {'style': 'imagenet', **style}
            self.augment = create_transform(training=True, input_size=(3, *input_size), **pixels, augment=augment)

    def __call__(self, frames: np.ndarray) -> Tensor:
        if self.augment is not None:
            seed, tensors = random.getrandbits(64), []
            for frame in frames:
                with seeded(seed):
                    tensors.append(self.augment(Image.fromarray(frame)))
            return torch.stack(tensors, 1)
        crops = self._crop(torch.from_numpy(frames).permute(0, 3, 1, 2))  # (T, 3, H, W)
        crops = [F.normalize(F.to_dtype(crop, torch.float32, scale=True), self.mean, self.std) for crop in crops]
        tensors = [crop.transpose(0, 1).contiguous() for crop in crops]
        return tensors[0] if self.crops == 1 else torch.stack(tensors)

    def _crop(self, clip: Tensor) -> list[Tensor]:
        height, width = clip.shape[2:]
        factor = max(self.short[0] / height, self.short[1] / width)
        size = [max(side, round(full * factor)) for side, full in zip(self.size, (height, width))]
        if size != [height, width]:
            clip = F.resize(clip, size, self.filter)
        room = [full - side for full, side in zip(size, self.size)]
        places = (0.0, 0.5, 1.0) if self.crops == 3 else (0.5,)
        along = int(room[1] >= room[0])  # the longer side
        crops = []
        for place in places:
            top, left = (int(space * (place if side == along else 0.5)) for side, space in enumerate(room))
            crops.append(F.crop(clip, top, left, *self.size))
        return crops
