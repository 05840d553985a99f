"""Image classification: a timm model, its loss and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.data import Mixup, resolve_model_data_config
from torch import Tensor, nn

from vimamba.data import create_transform
from vimamba.errors import UsageError, unknown_name

from .build import (
    Settings,
    build_model,
    checkpointed,
    configured_dataset,
    create,
    located_in_augment,
    located_in_data,  # fmt: skip
    mean_and_std,
    try_size,
)

__all__ = ['ClassificationMetric', 'ClassificationTask', 'Preprocessing']

_LISTED = 50  # classes in the table; of more, the worst


class Preprocessing(NamedTuple):
    """How a model wants its images: the arguments of `vimamba.data.create_transform`."""

    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


class ClassificationMetric:
    """Top-1, top-5 and mean cross-entropy, from sums that add up exactly over processes.

    Args:
        classes: their names.
        what: is classified, for the table.

    Attributes:
        state: 'confusion' (classes, classes) int64, rows the true class; 'top5' () int64; 'loss' () float64.
        records: what processes put together instead of adding it up: nothing.

    >>> metric = ClassificationMetric(['cat', 'cow', 'dog'])
    >>> metric.update(torch.eye(3) * 9, torch.tensor([0, 1, 1]))
    >>> round(metric.compute()['top1'], 1), metric.state['confusion'].tolist()
    (66.7, [[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    """

    def __init__(self, classes: Sequence[str], what: str = 'images') -> None:
        self.classes, num_classes, self.what = list(classes), len(classes), what
        self.records: list[Any] = []
        self.state = {
            'confusion': torch.zeros(num_classes, num_classes, dtype=torch.int64),
            'top5': torch.zeros((), dtype=torch.int64),
            'loss': torch.zeros((), dtype=torch.float64),
        }

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Adds a batch: logits (B, classes) float32, targets (B,) int64."""
        classes = logits.shape[1]
        top = logits.topk(min(5, classes)).indices
        pairs = torch.bincount(targets * classes + top[:, 0], minlength=classes**2)
        self.state['confusion'] += pairs.view(classes, classes)
        self.state['top5'] += (top == targets[:, None]).sum()
        self.state['loss'] += F.cross_entropy(logits, targets, reduction='sum').double()

    def compute(self) -> dict[str, float]:
        """``top1``, ``top5`` in percent, ``loss``, and how many ``images`` or ``videos``."""
        confusion = self.state['confusion']
        images = int(confusion.sum())
        correct = {'top1': confusion.diagonal().sum(), 'top5': self.state['top5']}
        percent = {name: 100 * int(count) / max(images, 1) for name, count in correct.items()}
        return {**percent, 'loss': float(self.state['loss']) / max(images, 1), self.what: images}

    def per_class(self) -> list[float]:
        """Accuracy of each class in percent, NaN for a class without images."""
        confusion = self.state['confusion'].double()
        return (100 * confusion.diagonal() / confusion.sum(1)).tolist()

    def summary(self) -> dict[str, Any]:
        """All figures, for a JSON file."""
        per_class = dict(zip(self.classes, self.per_class()))
        return {**self.compute(), 'per_class': per_class, 'confusion': self.state['confusion'].tolist()}

    def table(self) -> str:
        """The figures as text; of many classes, the worst."""
        result = self.compute()
        lines = [f'top-1 {result["top1"]:.2f} %   top-5 {result["top5"]:.2f} %   loss {result["loss"]:.4f}']
        rows = list(zip(self.classes, self.per_class(), self.state['confusion'].sum(1).tolist()))
        if len(rows) > _LISTED:
            rows = sorted((row for row in rows if row[2]), key=lambda row: row[1])
            lines.append(f'the {min(10, len(rows))} worst of {len(rows)} classes:')
            rows = rows[:10]
        width = max([5, *(min(len(name), 30) for name, _, _ in rows)])
        lines.append(f'{"class":<{width}} {self.what:>7} {"accuracy":>9}')
        lines += [f'{name[:30]:<{width}} {images:>7} {accuracy:>9.2f}' for name, accuracy, images in rows]
        return '\n'.join(lines)


class ClassificationTask(nn.Module):
    """A model with the loss it is trained on.

    Args:
        model: images (B, C, H, W) -> logits (B, classes).
        classes: their names.
        smoothing: of the labels.
        mixup: mixes images and targets in training; it smooths the labels itself.
    """

    lists = False  # batches are tensors
    what = 'images'  # for the table
    best = 'top1'  # the metric that decides which checkpoint is the best; higher is better

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        smoothing: float = 0.0,
        mixup: Mixup | None = None,
    ) -> None:
        super().__init__()
        self.model, self.classes = model, list(classes)
        self.smoothing, self.mixup = smoothing, mixup

    def forward(self, images: Tensor, targets: Tensor | None = None, mode: str = 'predict') -> Any:
        """``{'loss': ()}`` in mode 'loss', logits (B, classes) in mode 'predict'.

        Args:
            images: (B, C, H, W).
            targets: (B,) int64, in mode 'loss'.
            mode: 'loss' or 'predict'.
        """
        if mode == 'predict':
            return self.model(images)
        assert targets is not None
        if self.mixup is None:
            return {'loss': F.cross_entropy(self.model(images).float(), targets, label_smoothing=self.smoothing)}
        images, targets = self.mixup(images.clone(), targets)  # it mixes in place
        return {'loss': F.cross_entropy(self.model(images).float(), targets)}

    @staticmethod
    def shown(image: Tensor) -> Tensor:
        """What a picture shows of an image: all of it."""
        return image

    @classmethod
    def pixels(cls, config: Settings, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (C, H, W) as the loader gives them, in 0..1 again, to be looked at."""
        wanted = cls.preprocessing(config)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (wanted.mean, wanted.std))
        return [(image * std + mean).clamp(0, 1) for image in images]

    @staticmethod
    def mistaken(output: Tensor, target: Tensor) -> bool:
        """Whether one prediction is wrong; pictures show those first."""
        return int(output.argmax()) != int(target)

    def metric(self) -> ClassificationMetric:
        return ClassificationMetric(self.classes, self.what)

    @classmethod
    def check(cls, config: Settings) -> None:
        """Tries the configuration's model and augmentation, without memory, weights or data.

        Raises:
            UsageError: an unknown name or a value that cannot be, with ``file:line`` and the nearest name.
        """
        for option in config.task.options:
            raise unknown_name('key in task', option, ('name',), config.at(f'task.{option}'))
        cls._transform(config, training=True)

    @classmethod
    def dataset(cls, config: Settings, split: str, training: bool) -> Any:
        """The images of a split, augmented in training."""
        options = config.data.options.items()
        options = {key: value for key, value in options if split == 'train' or key != 'fraction'}
        return configured_dataset(config, split, cls._transform(config, training), **options)

    @classmethod
    def _transform(cls, config: Settings, training: bool) -> Any:
        augment = config.augment
        style = {'style': augment.style, **augment.options} if training and augment.style else None
        preprocessing = cls.preprocessing(config)
        try:
            return create_transform(training=training, **preprocessing._asdict(), augment=style)
        except UsageError as error:
            raise located_in_data(config, error) or located_in_augment(config, error) from error

    @classmethod
    def preprocessing(cls, config: Settings) -> Preprocessing:
        """How the configured model wants its images; also tries to build the model, without memory or weights.

        Raises:
            UsageError: unknown model or argument, with ``file:line`` and the nearest name.
        """
        with torch.device('meta'):
            model = create(config, num_classes=2)
        own, data = resolve_model_data_config(model), config.data
        size = config.model.img_size or own['input_size'][1:]
        height, width = (size, size) if isinstance(size, int) else size
        channels = config.model.in_chans
        shape = (channels, *cls.frames(model, config), height, width)
        try_size(model, shape, config)
        mean, std = mean_and_std(model, config)
        wanted = {key: getattr(data, key) or own[key] for key in ('interpolation', 'crop_pct')}
        return Preprocessing(shape, mean, std, **wanted)

    @classmethod
    def frames(cls, model: nn.Module, config: Settings) -> tuple[int, ...]:
        """What stands in front of the height and width of an input: nothing, of images."""
        if getattr(model, 'num_frames', None) is not None:  # Mamba-ND over images has None
            where, name = config.at('model.name'), config.model.name
            raise UsageError(f"{where}model {name!r} takes clips; set task.name='video', or choose one of images")
        return ()

    @classmethod
    def build(cls, config: Settings, classes: Sequence[str], with_weights: bool = True) -> ClassificationTask:
        """The task of a configuration.

        Args:
            config: ``model``, ``augment`` and ``run.grad_checkpointing`` are read.
            classes: their names.
            with_weights: whether to load ``model.pretrained`` or ``model.checkpoint``; not when a run resumes.
        """
        augment, model = config.augment, build_model(config, len(classes), with_weights)
        checkpointed(model, config)
        mixup = None
        if augment.mixup or augment.cutmix:
            mixup = Mixup(
                mixup_alpha=augment.mixup,
                cutmix_alpha=augment.cutmix,
                prob=augment.mix_prob,
                switch_prob=augment.mix_switch,
                label_smoothing=augment.smoothing,
                num_classes=len(classes),
            )
        return cls(model, classes, augment.smoothing, mixup)
