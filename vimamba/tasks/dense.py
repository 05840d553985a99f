"""The base of detection and segmentation: a head by name on the features of a backbone, from a configuration."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn

from vimamba.checkpoint import FORMAT, load_checkpoint, load_weights, model_weights
from vimamba.config import Config
from vimamba.data import AUGMENT_DENSE, DATASETS, DenseTransform
from vimamba.data.factory import options_of
from vimamba.errors import Rule, UsageError, check_options, first_line, integer, one_of, or_none, several

from .base import Task, keywords
from .feature_pyramid import DenseModel

__all__ = ['BackboneNorm', 'Count', 'DenseTask', 'OutIndices']

logger = logging.getLogger('vimamba')

BackboneNorm = Annotated[str, one_of('batch', 'frozen', 'sync')]
Count = Annotated[int, integer(1)]
OutIndices = Annotated[Sequence[int] | None, or_none(several(integer(0)))]


class DenseTask(Task):
    """A model with an output for every place of an image, with its loss and its metric.

    Images are a list of tensors (C, H, W) in 0..1, each of any size; the model resizes and normalises them.

    Attributes:
        heads: name -> function that makes the head.
        network: the class of the model: (config, number of classes, with_weights, options) -> module.

    The keywords of a head, of the network and of the task are the options of a configuration's ``task``, each
    annotated with the `Rule` of its values.
    """

    lists = True
    styles: ClassVar[Mapping[str, Mapping[str, Any]]] = {'dense': AUGMENT_DENSE}
    unused = ('augment.mixup', 'augment.cutmix', 'augment.smoothing', 'data.interpolation', 'data.crop_pct')
    heads: ClassVar[Mapping[str, Callable[..., nn.Module]]]
    network: ClassVar[type[DenseModel]]

    @classmethod
    def build(cls, config: Config, classes: Sequence[str], with_weights: bool = True) -> Any:
        """The configured task.

        ``model.checkpoint`` may hold a backbone, or this task as it was trained. Then all weights are taken except
        those of predictors of other classes.
        """
        options = cls.options(config)
        of_task = {name: value for name, value in options.items() if name in _keywords(cls.__init__)}
        of_model = {name: value for name, value in options.items() if name not in of_task}
        state = load_checkpoint(config.model.checkpoint) if config.model.checkpoint and with_weights else {}
        trained = state.get('format') == FORMAT and state['config'].get('task', {}).get('name') == cls.name
        try:
            model = cls.network(config, len(classes), with_weights and not trained, **of_model)
            task = cls(model, classes, **of_task)
            if trained:
                _take(model, state, str(config.model.checkpoint))
        except (TypeError, ArithmeticError, RuntimeError) as error:
            raise UsageError(f'the model cannot be built: {first_line(error)}', key='task') from error
        if options['norm'] == 'sync' and dist.is_initialized() and dist.get_backend() == 'nccl':
            task.model = convert_sync_batchnorm(task.model)  # which only GPUs have
        return task

    @classmethod
    def check(cls, config: Config) -> None:
        options = cls.options(config)
        super().check(config)
        data, wanted = config.data.name, cls.dataset_options(config, training=True)
        if wanted.keys() - options_of(DATASETS[cls.name][data]).keys():
            raise UsageError(f'{options["head"]!r} learns from {", ".join(wanted)}, {data!r} has none', key='task.head')

    def transform(self, config: Config, training: bool) -> DenseTransform:
        augment = {**config.augment.options} if training and config.augment.style else None
        return DenseTransform(config.model.in_chans, augment)

    @classmethod
    def describe(cls) -> list[str]:
        shared = _keywords(cls.network) | _keywords(cls.__init__)
        lines = [*super().describe(), f'options of task {cls.name}:']
        lines += [f'    {f"{k} = {p.default!r}":<28} {_rule(p).expected}' for k, p in shared.items() if k != 'head']
        for head, function in cls.heads.items():
            defaults = {name: p.default for name, p in _keywords(function).items() if name not in shared}
            lines.append(f'    with head={head!r}: {keywords(defaults)}')
        return lines

    @classmethod
    def options(cls, config: Config) -> dict[str, Any]:
        """Every option of ``task``, as given or by default."""
        shared, given = _keywords(cls.network), config.task.options
        head = one_of(*cls.heads)(given.get('head', shared['head'].default), 'task.head')
        known = shared | _keywords(cls.heads[head]) | _keywords(cls.__init__)
        rules = {name: _rule(parameter) for name, parameter in known.items() if name != 'head'}
        rest = {name: value for name, value in given.items() if name != 'head'}
        check_options(rest, rules, f'key in task with head {head!r}', 'task.')
        return {**{name: parameter.default for name, parameter in known.items()}, **given}


def _take(model: nn.Module, state: dict[str, Any], path: str) -> None:
    """Loads the weights of a whole detector or segmenter, except those of predictors of another number of classes."""
    weights, own = model_weights(state, path), model.state_dict()
    differ = (key for key in own if key in weights and own[key].shape != weights[key].shape)
    others = {key for key in differ if own[key].shape[1:] == weights[key].shape[1:]}  # classes stand first
    if others:
        of = f'the file has {len(state["classes"])} classes'
        logger.warning(f'warning: {path}: {", ".join(sorted(others))}: left out ({of})')
    load_weights(model, {**weights, **{key: own[key] for key in others}}, path, type(model).__name__)


def _keywords(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _rule(parameter: inspect.Parameter) -> Rule:
    [rule] = parameter.annotation.__metadata__
    return rule
