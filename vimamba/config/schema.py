"""What a training configuration may say: every key with its type, default and meaning, in one place.

`check` turns what `read_config` read into a `Config`, or names the mistake with its ``file:line``;
`describe` prints this file for ``tools/train.py --help-config``.
"""
# ruff: noqa: RUF009  (key returns a dataclass field)

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any

import timm.optim

from vimamba.data import AUGMENT, AUGMENT_DENSE, DATASETS
from vimamba.data.clip_transforms import AUGMENT_CLIP
from vimamba.data.factory import options_of
from vimamba.errors import UsageError, bad_argument, unknown_name

from .reading import Table

__all__ = ['Config', 'check', 'describe']

Numbers = tuple[float, ...]
_STYLES = {**AUGMENT, 'dense': AUGMENT_DENSE, 'clip': AUGMENT_CLIP}
_OWN_STYLE = {'classification': tuple(AUGMENT), 'video': ('clip',)}  # of the other tasks, 'dense'


def key(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Any = None,
    positive: bool = False,
) -> Any:
    """A dataclass field with its meaning and limits; ``choices`` may be a function, called when it is needed."""
    limits = {'doc': doc, 'low': low, 'high': high, 'choices': choices, 'positive': positive}
    factory = {'default_factory': lambda: type(default)()} if isinstance(default, dict) else {'default': default}
    return field(metadata=limits, **factory)


@dataclass(frozen=True)
class Task:
    """What the model is to do; any further key is an option of the task (head='mask_rcnn', min_size=800, ...)."""

    name: str = key('classification', 'what is learned', choices=lambda: DATASETS)
    options: dict[str, Any] = key({}, '')


@dataclass(frozen=True)
class Model:
    """The network; any further key goes to timm.create_model (d_state=16, class_token='middle', ...)."""

    name: str = key(dataclasses.MISSING, "a model of timm, those of vimamba among them; timm.list_models('vim*')")
    pretrained: bool = key(False, 'start from the published weights')
    checkpoint: str | None = key(None, 'start from the weights in this file; a head for other classes is left out')
    img_size: int | tuple[int, ...] | None = key(
        None, "side or (height, width) in pixels; None: the model's own", low=1
    )
    in_chans: int = key(3, 'image channels: 1 grey, 3 RGB, 4 RGBA', choices=(1, 3, 4))
    drop_path_rate: float | None = key(
        None, 'stochastic depth of the last block, 0..1; None: not passed', low=0, high=1
    )
    options: dict[str, Any] = key({}, '')


@dataclass(frozen=True)
class Data:
    """The images; any further key is an option of the data set."""

    name: str = key(dataclasses.MISSING, 'the data set, one of its task')
    root: str | None = key(None, 'the folder that holds train/ and val/; digits need none')
    batch_size: int = key(64, 'images per step and process', low=1)
    eval_batch_size: int | None = key(None, 'images per evaluation step; None: batch_size', low=1)
    workers: int = key(2, 'loading processes; the batches do not depend on it', low=0)
    timeout: float = key(120.0, 'seconds to wait for a loading process', positive=True)
    max_broken: float = key(0.001, 'share of unreadable training images at which training stops', low=0, high=1)
    mean: Numbers | None = key(None, "per channel, for pixels in 0..1; None: the model's own")
    std: Numbers | None = key(None, "per channel; None: the model's own", positive=True)
    interpolation: str | None = key(None, "resizing filter; None: the model's own")
    crop_pct: float | None = key(
        None, "share of a side that evaluation keeps; None: the model's own", positive=True, high=1
    )
    options: dict[str, Any] = key({}, '')


@dataclass(frozen=True)
class Augment:
    """Training images and targets; any further key is an option of the style."""

    style: str | None = key(None, 'geometry of the augmentation; None: none', choices=lambda: _STYLES)
    mixup: float = key(0.0, 'alpha of mixup (arXiv:1710.09412); 0: off', low=0)
    cutmix: float = key(0.0, 'alpha of cutmix (arXiv:1905.04899); 0: off', low=0)
    mix_prob: float = key(1.0, 'probability that a batch is mixed', low=0, high=1)
    mix_switch: float = key(0.5, 'probability of cutmix where both are on', low=0, high=1)
    smoothing: float = key(0.0, 'label smoothing', low=0, high=1)
    options: dict[str, Any] = key({}, '')


@dataclass(frozen=True)
class Optim:
    """The optimizer."""

    name: str = key('adamw', 'an optimizer of timm; timm.optim.list_optimizers()', choices=timm.optim.list_optimizers)
    lr: float = key(1e-3, 'peak learning rate', low=0)
    lr_batch: int | None = key(None, 'if set, lr is meant for this total batch and scaled linearly to yours', low=1)
    weight_decay: float = key(0.05, 'on matrices; not on norms, biases and what the model exempts', low=0)
    momentum: float = key(0.9, 'where the optimizer has one', low=0, high=1)
    betas: Numbers | None = key(None, "None: the optimizer's own", low=0, high=1)
    eps: float | None = key(None, "None: the optimizer's own", positive=True)
    layer_decay: float | None = key(None, 'factor on lr per layer away from the head', positive=True, high=1)
    clip_grad: float | None = key(None, 'largest norm of the gradient', positive=True)
    accumulate: int = key(1, 'steps whose gradients are averaged into one update', low=1)


@dataclass(frozen=True)
class Schedule:
    """The learning rate: linear warm-up, then the rest, a new value each step."""

    name: str = key('cosine', 'how it falls from lr to min_lr', choices=('cosine', 'linear', 'step', 'constant'))
    epochs: int = key(300, 'passes over the training images', low=1)
    warmup_epochs: float = key(5.0, 'length of the warm-up', low=0)
    warmup_lr: float = key(1e-6, 'where it starts', low=0)
    min_lr: float = key(1e-5, 'where it ends', low=0)
    milestones: Numbers | None = key(None, 'step: the epochs after which the rate is divided by ten', positive=True)


@dataclass(frozen=True)
class Run:
    """How it is run."""

    work_dir: str | None = key(None, 'folder for checkpoints, logs and plots; None: runs/<name of the configuration>')
    seed: int = key(0, 'of weights, order and augmentation', low=0)
    device: str = key('auto', 'auto: a GPU where there is one', choices=('auto', 'cpu', 'cuda', 'mps'))
    amp: str | None = key(None, 'mixed precision', choices=('bf16', 'fp16'))
    ema: float = key(0.0, 'decay of the averaged weights that are evaluated and saved beside; 0: off', low=0, high=1)
    ema_warmup: bool = key(False, 'let that decay grow from 0, for short runs')
    deterministic: bool = key(False, 'only deterministic algorithms, on a GPU too')
    compile: bool = key(False, 'torch.compile the model')
    grad_checkpointing: bool = key(False, 'recompute activations in the backward pass: less memory, more time')
    val_interval: int = key(1, 'epochs between evaluations', low=1)
    log_interval: int = key(50, 'steps between log lines; 0: one per epoch', low=0)
    checkpoint_interval: int = key(0, 'steps between checkpoints within an epoch; 0: at its end only', low=0)
    keep: int = key(0, 'numbered checkpoints of the latest epochs to keep beside last and best', low=0)
    tensorboard: bool = key(True, 'write events for TensorBoard')


@dataclass(frozen=True)
class Config:
    """A checked configuration. ``source`` is what was read, and knows where each key was written."""

    task: Task
    model: Model
    data: Data
    augment: Augment
    optim: Optim
    schedule: Schedule
    run: Run
    source: Table = field(default_factory=Table, repr=False, compare=False)

    def at(self, path: str) -> str:
        """``'file:line: '`` of a key such as ``'optim.lr'``, as far as it was written; to begin a message with."""
        here, where = self.source, ''
        for name in path.split('.'):
            if not isinstance(here, Table) or name not in here:
                break
            where, here = here.where.get(name, where), here[name]
        return f'{where}: ' if where else ''

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The sections as plain dictionaries, every default written out."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in _SECTIONS}

    def as_written(self) -> dict[str, dict[str, Any]]:
        """The sections as a configuration file would say them, of JSON too, in which a tuple would become a list.

        Scan orders that every block takes together are those of one block, repeated.
        """
        written = {name: {**section.pop('options', {}), **section} for name, section in self.as_dict().items()}
        if isinstance(scan := written['model'].get('scan'), tuple):
            written['model']['scan'] = [scan]
        return written


_SECTIONS = {
    'task': Task,
    'model': Model,
    'data': Data,
    'augment': Augment,
    'optim': Optim,
    'schedule': Schedule,
    'run': Run,
}


def check(table: Table) -> Config:
    """A `Config` from what was read.

    Raises:
        UsageError: an unknown or missing key, a value of the wrong type or out of range; with ``file:line`` and the
            nearest valid name.
    """
    for name in table:
        if name not in _SECTIONS:
            raise unknown_name('section', name, _SECTIONS, f'{table.where[name]}: ')
        if not isinstance(table[name], Table):
            raise bad_argument(f'{table.where[name]}: {name}', 'a dictionary', repr(table[name]))
    sections = {
        name: _section(name, kind, table.get(name, Table()), table.where.get(name, ''))
        for name, kind in _SECTIONS.items()
    }
    config = Config(**sections, source=table)
    _check_together(config)
    return config


def _section(name: str, kind: type, table: Table, where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name != 'options'}
    types_ = typing.get_type_hints(kind)
    open_ended = any(f.name == 'options' for f in dataclasses.fields(kind))
    values: dict[str, Any] = {'options': {}} if open_ended else {}
    for entry, value in table.items():
        at = f'{table.where[entry]}: '
        if entry in fields:
            values[entry] = _value(f'{at}{name}.{entry}', value, types_[entry], fields[entry].metadata)
        elif open_ended:
            values['options'][entry] = value
        else:
            raise unknown_name(f'key in {name}', entry, fields, at)
    for entry, f in fields.items():
        if entry not in values and f.default is f.default_factory is dataclasses.MISSING:
            raise UsageError(f'{where + ": " if where else ""}{name}.{entry} is missing: {f.metadata["doc"]}')
    return kind(**values)


def _value(path: str, value: Any, annotation: Any, limits: typing.Mapping[str, Any]) -> Any:
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for kind in kinds:
        if value is None and kind is type(None):
            return None
        if typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)[0]
            if isinstance(value, list | tuple) and value and all(_is(item, inner) for item in value):
                return tuple(_limited(path, inner(item), limits) for item in value)
        elif _is(value, kind):
            return _limited(path, kind(value), limits)
    expected = ' or '.join('None' if kind is type(None) else _type_name(kind) for kind in kinds)
    hint = ''
    if isinstance(value, str) and any(kind in (int, float) for kind in kinds):
        hint = 'a number has no quotes, and in YAML a point: 1.0e-3'
    raise bad_argument(path, expected, f'{value!r} ({type(value).__name__})', hint)


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _limited(path: str, value: Any, limits: typing.Mapping[str, Any]) -> Any:
    low, high, choices = limits['low'], limits['high'], limits['choices']
    if choices is not None:
        known = list(choices() if callable(choices) else choices)
        if value not in known:
            where, _, name = path.rpartition(': ')
            if isinstance(value, str):
                raise unknown_name(name, value, known, f'{where}: ')
            raise bad_argument(path, ' or '.join(map(str, known)), value)
    if low is not None and value < low:
        raise bad_argument(path, f'at least {low}', value)
    if limits['positive'] and not value > 0:
        raise bad_argument(path, 'more than 0', value)
    if high is not None and not value <= high:
        raise bad_argument(path, f'at most {high}', value)
    return value


def _check_together(config: Config) -> None:
    """What one key alone cannot say."""
    augment, data, schedule = config.augment, config.data, config.schedule
    task, datasets = config.task.name, DATASETS[config.task.name]
    if data.name not in datasets:
        raise unknown_name(f'data set of {task}', data.name, datasets, config.at('data.name'))
    fitting = _OWN_STYLE.get(task, ('dense',))
    if augment.style and augment.style not in fitting:
        raise unknown_name(f'augment style of {task}', augment.style, fitting, config.at('augment.style'))
    dataset = _data_options(task, data.name)
    for entry in data.options:
        if entry not in dataset:
            raise unknown_name('key in data', entry, {*_names(Data), *dataset}, config.at(f'data.{entry}'))
    style = _STYLES.get(augment.style or '', {})
    for entry in augment.options:
        if entry not in style:
            where = config.at(f'augment.{entry}')
            raise unknown_name(f'key in augment of style {augment.style!r}', entry, {*_names(Augment), *style}, where)
    repeats = data.options.get('repeats')
    clips = data.batch_size * (repeats if isinstance(repeats, int) else 1)
    if (augment.mixup or augment.cutmix) and clips % 2:
        raise bad_argument(f'{config.at("data.batch_size")}data.batch_size', 'an even number with mixup or cutmix',
                           data.batch_size)  # fmt: skip
    if schedule.warmup_epochs >= schedule.epochs:
        raise bad_argument(f'{config.at("schedule.warmup_epochs")}schedule.warmup_epochs',
                           f'less than schedule.epochs ({schedule.epochs})', schedule.warmup_epochs)  # fmt: skip
    falls = schedule.name in ('cosine', 'linear') and config.optim.lr_batch is None
    if falls and schedule.min_lr > config.optim.lr:
        where = config.at('schedule.min_lr' if 'min_lr' in config.source.get('schedule', {}) else 'optim.lr')
        raise bad_argument(f'{where}schedule.min_lr', f'at most optim.lr ({config.optim.lr})', schedule.min_lr)
    if task not in ('classification', 'video'):
        nothing = {'augment': ('mixup', 'cutmix', 'smoothing'), 'data': ('interpolation', 'crop_pct')}
        for section, names in nothing.items():
            for name in names:
                if value := getattr(getattr(config, section), name):
                    raise bad_argument(f'{config.at(f"{section}.{name}")}{section}.{name}', f'none for {task}', value)
    stepped, places = schedule.name == 'step', schedule.milestones or ()
    if stepped != bool(places) or list(places) != sorted(set(places)) or (places and places[-1] >= schedule.epochs):
        expected = f'rising epochs below {schedule.epochs}' if stepped else "none where schedule.name is not 'step'"
        raise bad_argument(f'{config.at("schedule.milestones")}schedule.milestones', expected, places or None)
    if config.run.ema == 1:
        raise bad_argument(f'{config.at("run.ema")}run.ema', 'less than 1', 1, 'the average would never move')
    size = config.model.img_size
    if isinstance(size, tuple) and len(size) != 2:
        raise bad_argument(f'{config.at("model.img_size")}model.img_size', 'a side or (height, width)', size)


def _data_options(task: str, name: str) -> dict[str, Any]:
    """The keys that ``data`` takes for one data set, and their defaults."""
    ours = {*_names(Data), 'split', 'transform', 'training', 'seed', 'masks', 'num_frames'}
    own = {key: default for key, default in options_of(DATASETS[task][name]).items() if key not in ours}
    return own | ({'num_crops': 1} if task == 'video' else {})


def _names(kind: type) -> set[str]:
    return {f.name for f in dataclasses.fields(kind)} - {'options'}


def _type_name(kind: Any) -> str:
    names = {int: 'an integer', float: 'a number', str: 'text', bool: 'True or False'}
    return names.get(kind) or f'a list of {"integers" if typing.get_args(kind)[0] is int else "numbers"}'


def describe() -> str:
    """Every key with its default and meaning, for a terminal."""
    lines = []
    for name, kind in _SECTIONS.items():
        lines += [f'{name} = dict(  # {(kind.__doc__ or "").strip()}']
        for f in dataclasses.fields(kind):
            if f.name == 'options':
                continue
            required = f.default is dataclasses.MISSING
            shown = 'required' if required else repr(f.default)
            known = f.metadata['choices']
            known = list(known() if callable(known) else known) if known else []
            listed = f' [{" ".join(map(str, known))}]' if 0 < len(known) <= 6 else ''
            lines.append(f'    {f"{f.name} = {shown}":<28} {f.metadata["doc"]}{listed}')
        lines.append(')')
    lines.append('data sets, and what data takes for each:')
    for task, datasets in DATASETS.items():
        for name in datasets:
            own = (f'{key}={default!r}' for key, default in _data_options(task, name).items())
            lines.append(f'    {task} {name}: {", ".join(own)}'.rstrip(': '))
    lines.append('augment styles:')
    lines += [
        f'    {style}: ' + ', '.join(f'{k}={v!r}' for k, v in options.items()) for style, options in _STYLES.items()
    ]
    return '\n'.join(lines)
