"""Classification of videos: a timm model of clips, its loss and its metrics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vimamba.config import Config
from vimamba.data import AUGMENT, DATASETS
from vimamba.data.clip_transforms import ClipTransform
from vimamba.data.video_decode import sample_uniform
from vimamba.errors import bad_argument, within

from .classification import ClassificationTask

__all__ = ['VideoTask']

_SHOWN = 8  # frames of a clip, in pictures


class VideoTask(ClassificationTask):
    """A model of clips (B, 3, T, H, W), with the loss it is trained on; the scores of several views are averaged.

    Views (B, V, 3, T, H, W) are those of `vimamba.data.video_datasets.Clips` and `ClipTransform`: in time and in space.
    """

    name = 'video'
    what = 'videos'
    clips = True
    styles: ClassVar[Mapping[str, Mapping[str, Any]]] = {'clip': AUGMENT['imagenet']}
    transform_options: ClassVar[Mapping[str, Any]] = {'num_crops': 1}

    def forward(self, images: Tensor, targets: Tensor | None = None, mode: str = 'predict') -> Any:
        """Like `ClassificationTask`. For several views, the logarithm of their mean probabilities (B, classes).

        In training, each view is a clip of the batch.
        """
        if images.ndim == 6 and mode == 'predict':
            scores = [self.model(view).float().log_softmax(-1) for view in images.unbind(1)]  # memory is that of one
            return torch.stack(scores).logsumexp(0) - math.log(len(scores))
        if images.ndim == 6 and targets is not None:
            images, targets = images.flatten(0, 1), targets.repeat_interleave(images.shape[1])
        return super().forward(images, targets, mode)

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mixed, soft = super().mix(images.flatten(1, 2), targets)  # as images of many channels: one box a clip
        return mixed.unflatten(1, (-1, images.shape[2])), soft

    @staticmethod
    def shown(image: Tensor) -> Tensor:
        """Up to 8 evenly spaced frames of a clip, or of the first of its views."""
        clip = image if image.ndim == 4 else image[0]
        return clip[:, sample_uniform(clip.shape[1], min(clip.shape[1], _SHOWN))[0]]

    def pixels(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The frames (T, 3, H, W) that are `shown` of clips, with values in 0..1."""
        return super().pixels([self.shown(clip).transpose(0, 1) for clip in images])

    @classmethod
    def dataset_options(cls, config: Config, training: bool) -> dict[str, Any]:
        return {'training': training}

    def prepare(self, dataset: Any, config: Config, training: bool) -> Any:
        dataset.num_frames = self.preprocessing.input_size[1]
        return super().prepare(dataset, config, training)

    def transform(self, config: Config, training: bool) -> ClipTransform:
        if (channels := config.model.in_chans) != 3:
            raise bad_argument('model.in_chans', '3: videos are RGB', channels)
        augment, crops = config.augment, config.data.options.get('num_crops', 1)
        inputs = {**self.preprocessing._asdict(), 'input_size': self.preprocessing.input_size[-2:]}
        mirrored = {} if DATASETS['video'][config.data.name].mirrors else {'hflip': 0.0}
        with within('data', 'augment'):
            style = {**mirrored, **augment.options} if augment.style else None
            return ClipTransform(**inputs, training=training, crops=crops, style=style)
