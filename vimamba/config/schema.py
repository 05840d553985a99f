"""The keys of a training configuration, with type, default and meaning.

`load_config` reads a file and checks it; `describe` prints the keys. The further keys of a section (options of tasks,
models, data sets and augmentation styles) are checked by the tasks.
"""
# ruff: noqa: RUF009  (key returns a dataclass field)

import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import timm.optim

from vimamba.errors import (
    Rule,
    UsageError,
    bad_argument,
    check_options,
    flag,
    integer,
    number,
    one_of,
    one_or_several,
    or_none,
    several,
    text,
    unknown_name,
)

from .reading import Table, read_config

__all__ = ['Config', 'check', 'describe', 'load_config']


def key(default: Any, doc: str, rule: Rule) -> Any:
    """A dataclass field with its meaning and the rule of its values, besides a default of None."""
    return field(default=default, metadata={'doc': doc, 'rule': or_none(rule) if default is None else rule})


def options() -> Any:
    """The field of the further keys of a section."""
    return field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What the model learns; any further key is an option of the task (head='mask_rcnn', min_size=800, ...)."""

    name: str = key('classification', 'classification, detection, segmentation or video', text())
    options: dict[str, Any] = options()


@dataclass(frozen=True)
class Model:
    """The network; any further key goes to timm.create_model (d_state=16, class_token='middle', ...)."""

    name: str = key(MISSING, "a model of timm, such as those of vimamba: timm.list_models('vim*')", text())
    pretrained: bool = key(False, 'start from the published weights', flag())
    checkpoint: str | None = key(None, 'start from the weights in this file, less a head for other classes', text())
    img_size: int | tuple[int, int] | None = key(
        None, "side or (height, width) in pixels; None: the model's own", one_or_several(integer(1), 2)
    )
    in_chans: int = key(3, 'image channels: 1 grey, 3 RGB, 4 RGBA', one_of(1, 3, 4))
    drop_path_rate: float | None = key(None, 'stochastic depth of the last block, 0..1; None: not passed', number(0, 1))
    options: dict[str, Any] = options()


@dataclass(frozen=True)
class Data:
    """The images; any further key is an option of the data set."""

    name: str = key(MISSING, 'the data set, one of its task', text())
    root: str | None = key(None, 'the folder that holds train/ and val/; digits need none', text())
    batch_size: int = key(64, 'images per step and process', integer(1))
    eval_batch_size: int | None = key(None, 'images per evaluation step; None: batch_size', integer(1))
    workers: int = key(2, 'loading processes; the batches do not depend on it', integer(0))
    timeout: float = key(120.0, 'seconds to wait for a loading process', number(above=0))
    max_broken: float = key(0.001, 'share of unreadable training images at which training stops', number(0, below=1))
    mean: tuple[float, ...] | None = key(None, "per channel, in 0..1; None: the model's own", several(number()))
    std: tuple[float, ...] | None = key(None, "per channel; None: the model's own", several(number(above=0)))
    interpolation: str | None = key(None, "resizing filter; None: the model's own", text())
    crop_pct: float | None = key(None, "share of a side to evaluate; None: the model's own", number(above=0, high=1))
    options: dict[str, Any] = options()


@dataclass(frozen=True)
class Augment:
    """Augmentation of training images and targets; any further key is an option of the style."""

    style: str | None = key(None, 'geometry of the augmentation; None: none', text())
    mixup: float = key(0.0, 'alpha of mixup (arXiv:1710.09412); 0: off', number(0))
    cutmix: float = key(0.0, 'alpha of cutmix (arXiv:1905.04899); 0: off', number(0))
    mix_prob: float = key(1.0, 'probability that a batch is mixed', number(0, 1))
    mix_switch: float = key(0.5, 'probability of cutmix where both are on', number(0, 1))
    smoothing: float = key(0.0, 'label smoothing', number(0, 1))
    options: dict[str, Any] = options()


@dataclass(frozen=True)
class Optim:
    """The optimizer."""

    name: str = key(
        'adamw', 'an optimizer of timm; timm.optim.list_optimizers()', one_of(*map(str, timm.optim.list_optimizers()))
    )
    lr: float = key(1e-3, 'peak learning rate', number(0))
    lr_batch: int | None = key(None, 'total batch that lr is for; it is scaled linearly to yours', integer(1))
    weight_decay: float = key(0.05, 'on matrices; not on norms, biases and what the model exempts', number(0))
    momentum: float = key(0.9, 'of optimizers that have one', number(0, 1))
    betas: tuple[float, ...] | None = key(None, "None: the optimizer's own", several(number(0, 1)))
    eps: float | None = key(None, "None: the optimizer's own", number(above=0))
    layer_decay: float | None = key(None, 'factor on lr per layer away from the head', number(above=0, high=1))
    clip_grad: float | None = key(None, 'largest norm of the gradient', number(above=0))
    accumulate: int = key(1, 'steps whose gradients are averaged into one update', integer(1))


@dataclass(frozen=True)
class Schedule:
    """The learning rate: linear warm-up, then the schedule, a new value each step."""

    name: str = key('cosine', 'how it falls from lr to min_lr', one_of('cosine', 'linear', 'step', 'constant'))
    epochs: int = key(300, 'passes over the training images', integer(1))
    warmup_epochs: float = key(5.0, 'length of the warm-up', number(0))
    warmup_lr: float = key(1e-6, 'where it starts', number(0))
    min_lr: float = key(1e-5, 'where it ends', number(0))
    milestones: tuple[float, ...] | None = key(None, 'step: epochs that divide it by ten', several(number(above=0)))


@dataclass(frozen=True)
class Run:
    """How the training runs."""

    work_dir: str | None = key(None, 'checkpoints, logs and plots; None: runs/<name of the configuration>', text())
    seed: int = key(0, 'of weights, order and augmentation', integer(0))
    device: str = key('auto', 'auto: a GPU if there is one', one_of('auto', 'cpu', 'cuda', 'mps'))
    amp: str | None = key(None, 'mixed precision', one_of('bf16', 'fp16'))
    ema: float = key(0.0, 'decay of the averaged weights, which are evaluated; 0: off', number(0, below=1))
    ema_warmup: bool = key(False, 'let that decay grow from 0, for short runs', flag())
    deterministic: bool = key(False, 'only deterministic algorithms, on a GPU too', flag())
    compile: bool = key(False, 'torch.compile the model', flag())
    grad_checkpointing: bool = key(False, 'recompute activations in the backward pass: less memory, more time', flag())
    val_interval: int = key(1, 'epochs between evaluations', integer(1))
    log_interval: int = key(50, 'steps between log lines; 0: one per epoch', integer(0))
    checkpoint_interval: int = key(0, 'steps between checkpoints within an epoch; 0: at its end only', integer(0))
    keep: int = key(0, 'numbered checkpoints of the latest epochs to keep beside last and best', integer(0))
    tensorboard: bool = key(True, 'write events for TensorBoard', flag())


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    Attributes:
        source: the tables as read, with the place of each key.
    """

    task: Task
    model: Model
    data: Data
    augment: Augment
    optim: Optim
    schedule: Schedule
    run: Run
    source: Table = field(default_factory=Table, repr=False, compare=False)

    @classmethod
    def from_dict(cls, sections: Mapping[str, Mapping[str, Any]]) -> 'Config':
        """The configuration of a checkpoint, as `as_dict` gives it; keys added since have their defaults.

        Raises:
            TypeError: a key is missing or unknown.
        """
        return cls(**{name: kind(**sections.get(name, {})) for name, kind in _SECTIONS.items()})

    def located(self) -> AbstractContextManager[None]:
        """Adds ``file:line`` to a UsageError raised inside whose key is one of this configuration."""
        return self.source.located()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The sections as plain dictionaries, every default written out."""
        return {name: dataclasses.asdict(getattr(self, name)) for name in _SECTIONS}

    def as_written(self) -> dict[str, dict[str, Any]]:
        """The sections as a configuration file holds them.

        A tuple of scan orders, whose routes run together in every block, becomes a list of one tuple: JSON has no
        tuples, and a list means an order per block.
        """
        written = {name: {**section.pop('options', {}), **section} for name, section in self.as_dict().items()}
        if isinstance(scan := written['model'].get('scan'), tuple):
            written['model']['scan'] = [scan]
        return written


_SECTIONS: dict[str, Any] = {kind.__name__.lower(): kind for kind in (Task, Model, Data, Augment, Optim, Schedule, Run)}


def load_config(path: str | Path, options: Iterable[str] = ()) -> Config:
    """Reads and checks a configuration file with ``key.subkey=value`` options over it.

    Raises:
        UsageError: see `read_config` and `check`.
    """
    return check(read_config(path, options))


def check(table: Table) -> Config:
    """A `Config` from the tables of a file.

    Raises:
        UsageError: an unknown or missing key, or a value of the wrong type or out of range; with ``file:line`` and the
            nearest valid name.
    """
    with table.located():
        for name, section in table.items():
            if name not in _SECTIONS:
                raise unknown_name('section', name, _SECTIONS, name)
            if not isinstance(section, Table):
                raise bad_argument(name, 'a dictionary', repr(section))
        sections = {name: _section(name, kind, table.get(name, {})) for name, kind in _SECTIONS.items()}
        config = Config(**sections, source=table)
        _check_together(config)
    return config


def keys_of(section: str) -> dict[str, dataclasses.Field]:
    """The keys of a section, without the further ones that it may take."""
    return {f.name: f for f in dataclasses.fields(_SECTIONS[section]) if f.name != 'options'}


def _section(name: str, kind: Any, table: Mapping[str, Any]) -> Any:
    fields, given = keys_of(name), dict(table)
    further = {}
    if 'options' in kind.__dataclass_fields__:
        further = {entry: given.pop(entry) for entry in table if entry not in fields}
    values = check_options(given, {n: f.metadata['rule'] for n, f in fields.items()}, f'key in {name}', f'{name}.')
    for entry, f in fields.items():
        if entry not in values and f.default is MISSING:
            raise UsageError(f'is missing: {f.metadata["doc"]}', key=f'{name}.{entry}')
    return kind(**values, **({'options': further} if further else {}))


def _check_together(config: Config) -> None:
    """Checks keys that depend on each other."""
    augment, data, schedule = config.augment, config.data, config.schedule
    repeats = data.options.get('repeats')
    clips = data.batch_size * (repeats if isinstance(repeats, int) else 1)
    if (augment.mixup or augment.cutmix) and clips % 2:
        raise bad_argument('data.batch_size', 'an even number with mixup or cutmix', data.batch_size)
    if schedule.warmup_epochs >= schedule.epochs:
        expected = f'less than schedule.epochs ({schedule.epochs})'
        raise bad_argument('schedule.warmup_epochs', expected, schedule.warmup_epochs)
    falls = schedule.name in ('cosine', 'linear') and config.optim.lr_batch is None
    if falls and schedule.min_lr > config.optim.lr:
        if 'min_lr' in config.source.get('schedule', {}):
            raise bad_argument('schedule.min_lr', f'at most optim.lr ({config.optim.lr})', schedule.min_lr)
        raise bad_argument('optim.lr', f'at least schedule.min_lr ({schedule.min_lr})', config.optim.lr)
    stepped, places = schedule.name == 'step', schedule.milestones or ()
    if stepped != bool(places) or list(places) != sorted(set(places)) or (places and places[-1] >= schedule.epochs):
        expected = f'rising epochs below {schedule.epochs}' if stepped else "none where schedule.name is not 'step'"
        raise bad_argument('schedule.milestones', expected, places or None)


def describe() -> str:
    """Every key with its default and meaning, for a terminal."""
    lines = []
    for name, kind in _SECTIONS.items():
        lines += [f'{name} = dict(  # {(kind.__doc__ or "").strip()}']
        for entry, f in keys_of(name).items():
            shown = 'required' if f.default is MISSING else repr(f.default)
            names = f.metadata['rule'].names
            listed = f' [{" ".join(names)}]' if 0 < len(names) <= 6 else ''
            lines.append(f'    {f"{entry} = {shown}":<28} {f.metadata["doc"]}{listed}')
        lines.append(')')
    return '\n'.join(lines)
