"""Image classification: a timm model, its loss and its metrics."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup, resolve_model_data_config
from torch import Tensor, nn

import vimamba  # noqa: F401  (registers its models with timm)
from vimamba.checkpoint import load_checkpoint, load_weights, model_weights, written_by
from vimamba.errors import UsageError, unknown_name

__all__ = ['ClassificationMetric', 'ClassificationTask', 'Preprocessing', 'build_model', 'fitted_weights']


logger = logging.getLogger('vimamba')

_NOT_OF_THE_MODEL = {  # timm's factory takes these, and some of them load files
    *('cache_dir', 'checkpoint_path', 'pretrained_cfg', 'pretrained_cfg_overlay', 'pretrained_strict'),
    *('exportable', 'features_only', 'no_jit', 'num_classes', 'out_indices', 'scriptable'),
}


class Settings(Protocol):
    """What is read of a configuration: its sections, and where each key was written."""

    model: Any
    data: Any
    augment: Any
    run: Any

    def at(self, path: str) -> str: ...


class Preprocessing(NamedTuple):
    """How a model wants its images: the arguments of `vimamba.data.create_transform`."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


class ClassificationMetric:
    """Top-1, top-5 and mean cross-entropy, from sums that add up exactly over processes.

    Attributes:
        state: 'confusion' (classes, classes) int64, rows the true class; 'top5' () int64; 'loss' () float64.

    >>> metric = ClassificationMetric(3)
    >>> metric.update(torch.eye(3) * 9, torch.tensor([0, 1, 1]))
    >>> round(metric.compute()['top1'], 1), metric.state['confusion'].tolist()
    (66.7, [[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    """

    def __init__(self, num_classes: int) -> None:
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
        """``top1``, ``top5`` in percent, ``loss``, ``images``."""
        confusion = self.state['confusion']
        images = int(confusion.sum())
        correct = {'top1': confusion.diagonal().sum(), 'top5': self.state['top5']}
        percent = {name: 100 * int(count) / max(images, 1) for name, count in correct.items()}
        return {**percent, 'loss': float(self.state['loss']) / max(images, 1), 'images': images}

    def per_class(self) -> list[float]:
        """Accuracy of each class in percent, NaN for a class without images."""
        confusion = self.state['confusion'].double()
        return (100 * confusion.diagonal() / confusion.sum(1)).tolist()


class ClassificationTask(nn.Module):
    """A model with the loss it is trained on.

    Args:
        model: images (B, C, H, W) -> logits (B, classes).
        classes: their names.
        smoothing: of the labels.
        mixup: mixes images and targets in training; it smooths the labels itself.
    """

    best = 'top1'  # the metric that decides which checkpoint is the best; higher is better

    def __init__(
        self, model: nn.Module, classes: Sequence[str], smoothing: float = 0.0, mixup: Mixup | None = None
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

    def metric(self) -> ClassificationMetric:
        return ClassificationMetric(len(self.classes))

    @staticmethod
    def preprocessing(config: Settings) -> Preprocessing:
        """How the configured model wants its images; also tries to build the model, without memory or weights.

        Raises:
            UsageError: unknown model or argument, with ``file:line`` and the nearest name.
        """
        with torch.device('meta'):
            model = _create(config, num_classes=2)
        own, data = resolve_model_data_config(model), config.data
        size = config.model.img_size or own['input_size'][1:]
        height, width = (size, size) if isinstance(size, int) else size
        channels = config.model.in_chans
        _try_size(model, (channels, height, width), config)
        wanted = {key: getattr(data, key) or own[key] for key in ('mean', 'std', 'interpolation', 'crop_pct')}
        for key in ('mean', 'std'):
            if getattr(data, key) is None and len(own[key]) != channels:  # a grey model from an RGB configuration
                wanted[key] = (sum(own[key]) / len(own[key]),) * channels
        return Preprocessing((channels, height, width), **wanted)

    @classmethod
    def build(cls, config: Settings, classes: Sequence[str], with_weights: bool = True) -> ClassificationTask:
        """The task of a configuration.

        Args:
            config: ``model``, ``augment`` and ``run.grad_checkpointing`` are read.
            classes: their names.
            with_weights: whether to load ``model.pretrained`` or ``model.checkpoint``; not when a run resumes.
        """
        augment, model = config.augment, build_model(config, len(classes), with_weights)
        if config.run.grad_checkpointing:
            try:
                model.set_grad_checkpointing(True)  # type: ignore[operator]
            except (AttributeError, AssertionError, NotImplementedError):
                raise UsageError(
                    f'{config.at("run.grad_checkpointing")}run.grad_checkpointing: {config.model.name!r} cannot '
                    'recompute its activations'
                ) from None
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


def build_model(config: Settings, num_classes: int, with_weights: bool = True) -> nn.Module:
    """The configured timm model, with the weights that the configuration asks for.

    ``model.checkpoint`` goes through the family's own ``checkpoint_filter_fn`` (official names, other image sizes);
    a head for another number of classes is left out, and anything else that does not fit is an error.
    """
    settings = config.model
    file = settings.checkpoint if with_weights else None
    state = load_checkpoint(file) if file else {}
    model = _create(config, num_classes, pretrained=settings.pretrained and with_weights and not file)
    if file:
        weights = fitted_weights(model, state, file)
        own = model.state_dict()
        heads = getattr(model, 'pretrained_cfg', {}).get('classifier') or ()
        for head in (heads,) if isinstance(heads, str) else heads:
            for key in (f'{head}.weight', f'{head}.bias'):
                if key in own and key in weights and own[key].shape != weights[key].shape:
                    if key.endswith('.weight'):
                        sizes = f'{len(weights[key])} classes in the file, {len(own[key])} here'
                        logger.warning(f'warning: {file}: {key} is left out and starts anew ({sizes})')
                    weights[key] = own[key]
        load_weights(model, weights, file, settings.name, written_by(state))
    return model


def fitted_weights(model: nn.Module, state: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint under the model's names, at its image size, by the family's own filter."""
    weights = model_weights(state, path)
    filter_fn = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    if filter_fn is None:
        return weights
    ours = type(model).__module__.startswith('vimamba.')  # these read the image size and the wrapper keys too
    return filter_fn(state if ours else weights, model)


def _try_size(model: nn.Module, size: tuple[int, int, int], config: Settings) -> None:
    """A forward pass of a model on the meta device, which computes shapes alone."""
    try:
        model.eval()(torch.zeros(1, *size, device='meta'))
    except (AssertionError, RuntimeError, ValueError) as error:
        if 'meta' not in str(error).lower():  # some models read values, which this device does not have
            line = (str(error).splitlines() or [type(error).__name__])[0]
            where = config.at('model.img_size')
            raise UsageError(f'{where}model {config.model.name!r} does not take {size} images: {line}') from error


def _create(config: Settings, num_classes: int, pretrained: bool = False, sized: bool = True) -> nn.Module:
    """`timm.create_model`, with its errors in one line each; without ``sized``, img_size is not passed."""
    settings, where = config.model, config.at('model.name')
    name = settings.name
    if not timm.is_model(name.split('.')[0]):
        raise unknown_name('model', name, timm.list_models(), where)
    for argument in _NOT_OF_THE_MODEL & settings.options.keys():
        hint = 'weights come from model.pretrained or model.checkpoint'
        raise UsageError(f'{config.at(f"model.{argument}")}model.{argument}: not an argument of a model; {hint}')
    given = {'img_size': settings.img_size if sized else None, 'drop_path_rate': settings.drop_path_rate}
    given = {key: value for key, value in given.items() if value is not None} | dict(settings.options)
    arguments = {'pretrained': pretrained, 'num_classes': num_classes, 'in_chans': settings.in_chans}
    try:
        return timm.create_model(name, **arguments, **given)
    except TypeError as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not unexpected or unexpected[1] not in given:
            raise UsageError(f'{where}model {name!r} cannot be built: {error}') from error
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError, OSError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        argument = line.partition(':')[0]
        if argument in given:
            where = config.at(f'model.{argument}')
        hint = '; check the network, or set model.pretrained=False and model.checkpoint=FILE' if pretrained else ''
        raise UsageError(f'{where}model {name!r} cannot be built: {line}{hint}') from error
    wrong = unexpected[1]
    if wrong == 'img_size':  # a model for any size: the transforms alone need to know
        return _create(config, num_classes, pretrained, sized=False)
    with torch.device('meta'):
        known = set(inspect.signature(type(timm.create_model(name))).parameters)
    raise unknown_name(f'argument of model {name!r}', wrong, known, config.at(f'model.{wrong}'))
