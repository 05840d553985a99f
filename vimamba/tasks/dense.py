"""What detection and segmentation share: a head by name on the features of a backbone, from a configuration."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from vimamba.checkpoint import FORMAT, load_checkpoint, load_weights, model_weights
from vimamba.data import DATASETS
from vimamba.data.dense_transforms import DenseTransform
from vimamba.errors import UsageError, unknown_name

from .build import Settings, configured_dataset
from .feature_pyramid import DenseModel
from .options import Rule

__all__ = ['DenseTask']

logger = logging.getLogger('vimamba')


class DenseTask(nn.Module):
    """A model that says something about every place of an image, with its loss and its metric.

    Images come as a list of tensors (C, H, W) in 0..1, each of its own size; the model resizes and normalises them.

    Args:
        model: of `build_model`.
        classes: their names.

    Attributes:
        heads: name -> what makes it, whose keywords are options of a configuration's ``task``.
        rules: name of an option -> what it may be; every option has one.
    """

    lists = True  # batches are lists, of images of any sizes
    what = 'images'
    best: str  # the metric that decides which checkpoint is the best; higher is better
    heads: dict[str, Callable[..., nn.Module]]
    rules: ClassVar[dict[str, Rule]]

    def __init__(self, model: DenseModel, classes: Sequence[str]) -> None:
        super().__init__()
        self.model, self.classes = model, list(classes)

    @staticmethod
    def shown(image: Tensor) -> Tensor:
        """What a picture shows of an image: all of it."""
        return image

    @classmethod
    def pixels(cls, config: Settings, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (C, H, W) as the loader gives them, in 0..1, to be looked at."""
        return list(images)

    @staticmethod
    def mistaken(output: Any, target: Any) -> bool:
        """Whether pictures should show this image first; nearly every one has a mistake somewhere."""
        return False

    @classmethod
    def check(cls, config: Settings) -> None:
        """Tries the configuration's model and augmentation, without memory, weights or data.

        Raises:
            UsageError: an unknown name or a value that cannot be, with ``file:line`` and the nearest name.
        """
        options, transform = cls._options(config), cls.transform(config, training=True)
        with torch.device('meta'):
            task = cls.build(config, ['this', 'that'], with_weights=False)
        name, wanted = config.data.name, cls.data_options(options)
        if wanted.keys() - inspect.signature(DATASETS[config.task.name][name]).parameters.keys():
            head = options['head']
            raise UsageError(
                f'{config.at("task.head")}task.head: {head!r} learns from {", ".join(wanted)}, {name!r} has none'
            )
        cls.check_together(config, options, transform, task.model)

    @classmethod
    def check_together(cls, config: Settings, options: dict[str, Any], transform: DenseTransform, model: Any) -> None:
        """What one option alone cannot say.

        Args:
            config: what was written.
            options: all of the task.
            transform: of training.
            model: on the meta device.

        Raises:
            UsageError: options that do not go together.
        """

    @classmethod
    def build(cls, config: Settings, classes: Sequence[str], with_weights: bool = True) -> Any:
        """The task of a configuration; ``with_weights`` is False where a run resumes.

        ``model.checkpoint`` may be one of a backbone, or of this task as it was trained here: then everything is taken
        from it but what is of other classes.
        """
        own = _keywords(cls.__init__)
        options = cls._options(config)
        trained = cls._trained(config) if with_weights else {}
        try:
            model = cls.build_model(
                config, len(classes), with_weights and not trained, **{k: v for k, v in options.items() if k not in own}
            )
            task = cls(model, classes, **{k: v for k, v in options.items() if k in own})
            if trained:
                _take(model, trained, config.model.checkpoint)
        except UsageError as error:
            raise _located(config, error) from error
        except (TypeError, ArithmeticError, RuntimeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f'{config.at("task")}task: the model cannot be built: {line}') from error
        if options['norm'] == 'sync' and dist.is_initialized() and dist.get_backend() == 'nccl':
            task.model = convert_sync_batchnorm(task.model)  # which only GPUs have
        return task

    @classmethod
    def _trained(cls, config: Settings) -> dict[str, Any]:
        """The file that ``model.checkpoint`` names, if this task was trained into it; else nothing."""
        state = load_checkpoint(config.model.checkpoint) if config.model.checkpoint else {}
        ours = state.get('format') == FORMAT and state['config'].get('task', {}).get('name') == config.task.name
        return state if ours else {}

    @classmethod
    def dataset(cls, config: Settings, split: str, training: bool) -> Any:
        """The images and targets of a split, augmented in training."""
        options = {**cls.data_options(cls._options(config)), **config.data.options}
        return configured_dataset(config, split, cls.transform(config, training), **options)

    @classmethod
    def transform(cls, config: Settings, training: bool) -> DenseTransform:
        """What brings a sample of the data set into the form that the model takes."""
        augment = {**config.augment.options} if training and config.augment.style else None
        try:
            return DenseTransform(config.model.in_chans, augment)
        except UsageError as error:
            raise _located(config, error, 'augment.albumentations') from error

    @classmethod
    def build_model(cls, config: Settings, num_classes: int, with_weights: bool = True, **options: Any) -> DenseModel:
        """The configured model."""
        raise NotImplementedError

    @staticmethod
    def data_options(options: dict[str, Any]) -> dict[str, Any]:
        """What the data set has to give for these options of the task."""
        return {}

    @classmethod
    def describe(cls) -> str:
        """Every option with its default and what it may be, for a terminal."""
        shared = _keywords(cls.build_model) | _keywords(cls.__init__)
        lines = [f'    {f"{k} = {shared[k].default!r}":<28} {cls.rules[k].expected}' for k in shared if k != 'head']
        for head, function in cls.heads.items():
            own = {name: p.default for name, p in _keywords(function).items() if name not in shared}
            lines.append(f'    with head={head!r}: ' + ', '.join(f'{name}={value!r}' for name, value in own.items()))
        return '\n'.join(lines)

    @classmethod
    def _options(cls, config: Settings) -> dict[str, Any]:
        """Every option of ``task``, as it was given or by default."""
        own, given = _keywords(cls.build_model), config.task.options
        head = given.get('head', own['head'].default)
        if not isinstance(head, str) or head not in cls.heads:
            raise unknown_name('task.head', str(head), cls.heads, config.at('task.head'))
        known = own | _keywords(cls.heads[head]) | _keywords(cls.__init__)
        for name, value in given.items():
            where = config.at(f'task.{name}')
            if name not in known:
                raise unknown_name(f'key in task with head {head!r}', name, known, where)
            if name != 'head' and not cls.rules[name].fits(value):
                raise cls.rules[name].error(f'{where}task.{name}', value)
        return {**{name: parameter.default for name, parameter in known.items()}, **given}


def _take(model: nn.Module, state: dict[str, Any], path: str) -> None:
    """The weights of a whole detector or segmenter, without those of predictors of another number of classes."""
    weights, own = model_weights(state, path), model.state_dict()
    differ = (key for key in own if key in weights and own[key].shape != weights[key].shape)
    others = {key for key in differ if own[key].shape[1:] == weights[key].shape[1:]}  # classes stand first
    if others:
        of = f'the file has {len(state["classes"])} classes'
        logger.warning(f'warning: {path}: {", ".join(sorted(others))}: left out and started anew ({of})')
    load_weights(model, {**weights, **{key: own[key] for key in others}}, path, type(model).__name__)


def _located(config: Settings, error: UsageError, otherwise: str = '') -> UsageError:
    """The error with the place of the option that it begins with, which a head or a transform does not know."""
    where = config.at(str(error).partition(':')[0]) or config.at(otherwise)
    return UsageError(f'{where}{error}')


def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
