"""Classification of videos: a timm model of clips, its loss and its metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vimamba.data.clip_transforms import ClipTransform
from vimamba.data.video_decode import sample_uniform
from vimamba.errors import UsageError, bad_argument

from .build import Settings, configured_dataset, create, located_in_augment, located_in_data
from .classification import ClassificationTask

__all__ = ['VideoTask']

_SHOWN = 8  # frames of a clip, in pictures
_SIDED = ('moving_digits', 'something_v2')  # data sets in whose classes left and right differ


class VideoTask(ClassificationTask):
    """A model of clips (B, 3, T, H, W), with the loss it is trained on; the scores of several views are averaged.

    Views (B, V, 3, T, H, W) are those of `vimamba.data.video_datasets.Clips` and `ClipTransform`: in time and in space.
    """

    what = 'videos'

    def forward(self, images: Tensor, targets: Tensor | None = None, mode: str = 'predict') -> Any:
        """As of `ClassificationTask`; of several views the logarithm of their mean probabilities (B, classes).

        In training, each of several views is a clip of the batch.
        """
        several = images.ndim == 6
        if mode == 'predict' and several:
            scores = [self.model(view).float().log_softmax(-1) for view in images.unbind(1)]  # memory is that of one
            return torch.stack(scores).logsumexp(0) - math.log(len(scores))
        if mode == 'predict':
            return self.model(images)
        assert targets is not None
        if several:
            images, targets = images.flatten(0, 1), targets.repeat_interleave(images.shape[1])
        if self.mixup is None:
            return super().forward(images, targets, mode)
        frames = images.shape[2]
        mixed, soft = self.mixup(images.flatten(1, 2).clone(), targets)  # as images of many channels: one box a clip
        logits = self.model(mixed.unflatten(1, (-1, frames)))
        return {'loss': nn.functional.cross_entropy(logits.float(), soft)}

    @staticmethod
    def shown(image: Tensor) -> Tensor:
        """What a picture shows of a clip, or of views of one: up to 8 frames of the first, evenly spaced."""
        clip = image if image.ndim == 4 else image[0]
        return clip[:, sample_uniform(clip.shape[1], min(clip.shape[1], _SHOWN))[0]]

    @classmethod
    def pixels(cls, config: Settings, images: Sequence[Tensor]) -> list[Tensor]:
        """What is `shown` of clips, in 0..1 again: frames (T, 3, H, W)."""
        return super().pixels(config, [cls.shown(clip).transpose(0, 1) for clip in images])

    @classmethod
    def dataset(cls, config: Settings, split: str, training: bool) -> Any:
        """The clips of a split, augmented in training; in evaluation with the views that are configured."""
        options = {key: value for key, value in config.data.options.items() if key != 'num_crops'}
        options |= {'training': training, 'num_frames': cls._frames(config)}
        return configured_dataset(config, split, cls._transform(config, training), **options)

    @classmethod
    def _transform(cls, config: Settings, training: bool) -> ClipTransform:
        if (channels := config.model.in_chans) != 3:
            raise bad_argument(f'{config.at("model.in_chans")}model.in_chans', '3: videos are RGB', channels)
        wanted, augment = cls.preprocessing(config), config.augment
        mirrored = {'hflip': 0.0} if config.data.name in _SIDED else {}
        try:
            return ClipTransform(
                wanted.input_size[-2:],
                wanted.mean,
                wanted.std,
                training,
                wanted.interpolation,
                wanted.crop_pct,
                config.data.options.get('num_crops', 1),
                {**mirrored, **augment.options} if augment.style else None,
            )
        except (UsageError, ValueError, TypeError) as error:
            raise located_in_data(config, error) or located_in_augment(config, error) from error

    @classmethod
    def _frames(cls, config: Settings) -> int:
        with torch.device('meta'):
            return cls.frames(create(config, num_classes=2), config)[0]

    @classmethod
    def frames(cls, model: nn.Module, config: Settings) -> tuple[int, ...]:
        """Of the clips that a model takes, in front of its height and width."""
        frames = getattr(model, 'num_frames', None)
        if frames is None:
            raise UsageError(f'{config.at("model.name")}model {config.model.name!r} takes images; choose one of clips')
        return (frames,)
