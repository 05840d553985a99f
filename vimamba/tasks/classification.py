"""Image classification: a timm model, its loss and its metrics."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from vimamba.config import Config
from vimamba.data import AUGMENT, create_transform
from vimamba.errors import UsageError, check_options, first_line, within

from .base import Task
from .build import Preprocessing, build_model, checkpointed, preprocessing, refusal

__all__ = ['ClassificationMetric', 'ClassificationTask']

_LISTED = 50  # classes in the table; of more, the worst


class ClassificationMetric:
    """Top-1, top-5 and mean cross-entropy, from sums that add up exactly over processes.

    Args:
        classes: names of the classes.
        what: the samples in words, for the table.

    Attributes:
        state: 'confusion' (classes, classes) int64, rows the true class; 'top5' () int64; 'loss' () float64.
        records: values gathered from processes instead of summed; empty.

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


class ClassificationTask(Task):
    """A model with the loss it is trained on.

    Args:
        model: images (B, C, H, W) -> logits (B, classes).
        classes: names of the classes.
        smoothing: label smoothing, 0..1.
        mixup: mixes images and targets in training; it smooths the labels itself.
        preprocessing: the inputs of the model, for transforms and pictures.
    """

    name = 'classification'
    best = 'top1'
    styles = AUGMENT
    clips = False  # whether the model takes clips

    def __init__(
        self,
        model: nn.Module,
        classes: Sequence[str],
        smoothing: float = 0.0,
        mixup: Mixup | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__(model, classes)
        self.smoothing, self.preprocessing = smoothing, preprocessing
        self.mixup: Any = mixup

    @classmethod
    def build(cls, config: Config, classes: Sequence[str], with_weights: bool = True) -> 'ClassificationTask':
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
        return cls(model, classes, augment.smoothing, mixup, cls.preprocessing_of(model, config))

    @classmethod
    def preprocessing_of(cls, model: nn.Module, config: Config) -> Preprocessing:
        """The inputs of a built model, which takes images, or clips if the task is video."""
        inputs = preprocessing(model, config)
        if (len(inputs.input_size) == 4) != cls.clips:
            clips = "takes clips; set task.name='video', or choose one of images"
            fault = 'takes images; choose one of clips' if cls.clips else clips
            raise UsageError(f'model {config.model.name!r} {fault}', key='model.name')
        return inputs

    def forward(self, images: Tensor, targets: Tensor | None = None, mode: str = 'predict') -> Any:
        """``{'loss': ()}`` for targets (B,) int64 in mode 'loss', logits (B, classes) in mode 'predict'."""
        if mode == 'predict':
            return self.model(images)
        assert targets is not None
        smoothing = self.smoothing
        if self.mixup is not None:
            (images, targets), smoothing = self.mix(images, targets), 0.0
        return {'loss': F.cross_entropy(self.model(images).float(), targets, label_smoothing=smoothing)}

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images, and their targets (B, classes)."""
        return self.mixup(images.clone(), targets)  # it mixes in place

    @classmethod
    def check(cls, config: Config) -> None:
        check_options(config.task.options, {}, 'key in task', 'task.')
        super().check(config)

    def check_together(self, config: Config, transform: Any) -> None:
        size = self.preprocessing.input_size
        if error := refusal(self.model, size):
            fault = f'model {config.model.name!r} does not take {size} images: {first_line(error)}'
            raise UsageError(fault, key='model.img_size') from error

    def transform(self, config: Config, training: bool) -> Any:
        augment = config.augment
        style = {'style': augment.style, **augment.options} if training and augment.style else None
        with within('data', 'augment'):
            return create_transform(training=training, **self.preprocessing._asdict(), augment=style)

    def pixels(self, images: Sequence[Tensor]) -> list[Tensor]:
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.preprocessing.mean, self.preprocessing.std))
        return [(image * std + mean).clamp(0, 1) for image in images]

    @staticmethod
    def mistaken(output: Tensor, target: Tensor) -> bool:
        return int(output.argmax()) != int(target)

    def metric(self) -> ClassificationMetric:
        return ClassificationMetric(self.classes, self.what)
