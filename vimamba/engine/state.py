"""The state of a training run: all of it, so that a run cut off anywhere ends as the undisturbed one, bit for bit."""

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from vimamba.checkpoint import FORMAT, load_checkpoint, load_weights, save_checkpoint, written_by
from vimamba.config import Config
from vimamba.errors import UsageError
from vimamba.outputs import write_text

from .optim import Update

__all__ = ['TrainingState', 'find_checkpoint']

_FREE_TO_CHANGE = ('run.work_dir', 'run.device', 'run.log_interval', 'run.tensorboard', 'data.workers', 'data.timeout')


@dataclass
class TrainingState:
    """The state of a run, with all that a checkpoint holds of it."""

    config: Config
    task: Any
    update: Update
    schedule: Scheduler
    ema: ModelEmaV3 | None
    classes: list[str]
    steps_per_epoch: int
    device: torch.device
    epoch: int = 0  # epochs completed
    position: int = 0  # batches of the next epoch that are done
    unevaluated: bool = False  # whether the last epoch is due to be evaluated
    best: dict[str, Any] = field(default_factory=dict)  # evaluation: {'epoch': .., 'top1': .., ..}; empty before
    window: dict[str, float] = field(default_factory=dict)  # sums of this process since the last log line
    pending_rng: dict[str, Any] | None = None  # generators to set once the loader has been started, after a restore
    sample: Any = None  # images of the latest evaluation, with targets and predictions

    @property
    def step(self) -> int:
        """Batches done, of all epochs."""
        return self.epoch * self.steps_per_epoch + self.position

    @property
    def evaluated(self) -> nn.Module:
        """The task whose weights are evaluated: the average where there is one."""
        return self.ema.module if self.ema else self.task

    def pack(self) -> dict[str, Any]:
        """The checkpoint, from all processes: each calls this, the first one writes it."""
        ranks = dist.all_gather_object({'rng': _rng_state(self.device), 'window': dict(self.window)})
        checkpoint = {
            'format': FORMAT,
            'model': self.task.model.state_dict(),
            'optimizer': self.update.optimizer.state_dict(),
            'scaler': self.update.scaler.state_dict(),
            'grad_norm': self.update.grad_norm,
            'epoch': self.epoch,
            'position': self.position,
            'step': self.step,
            'unevaluated': self.unevaluated,
            'best': self.best,
            'ranks': ranks,
            'classes': self.classes,
            'config': self.config.as_dict(),
        }
        if self.ema:
            checkpoint['model_ema'] = self.ema.module.model.state_dict()
        return checkpoint

    def save(self, folder: Path, *names: str) -> None:
        """Writes files of these names; a ``last.pth`` that is there becomes ``previous.pth``."""
        checkpoint = self.pack()
        if not dist.is_main_process():
            return
        for name in names:
            if name == 'last.pth' and (folder / name).exists():
                _keep_as(folder / name, folder / 'previous.pth')
            save_checkpoint(checkpoint, folder / name)
        # what these weights were trained with, every option in it, for tools/test.py
        write_text(folder / 'config.json', json.dumps(self.config.as_written(), indent=1) + '\n')

    def restore(self, checkpoint: Mapping[str, Any], path: Path) -> list[str]:
        """Restores a checkpoint and returns the settings that differ from the checkpoint's; on errors nothing changes.

        Raises:
            UsageError: it is of another model, optimizer, set of classes, or of a middle of an epoch of other batches.
        """
        if checkpoint.get('format') != FORMAT:
            raise UsageError(
                f'{path}: weights only; a run resumes from its own last.pth (model.checkpoint starts from weights)'
            )
        config, old = self.config, checkpoint['config']
        if (optimizer := old['optim']['name']) != config.optim.name:
            raise UsageError(f'{path}: written with optim.name={optimizer!r}, this run has {config.optim.name!r}')
        if (classes := checkpoint['classes']) != self.classes:
            raise UsageError(f'{path}: written for {_count(classes)}, the data set has {_count(self.classes)}')
        ranks = checkpoint['ranks']
        same_batches = (
            len(ranks) == dist.get_world_size()
            and old['data']['batch_size'] == config.data.batch_size
            and checkpoint['step'] == checkpoint['epoch'] * self.steps_per_epoch + checkpoint['position']
        )
        if checkpoint['position'] and not same_batches:
            raise UsageError(
                f'{path}: written in the middle of an epoch with {len(ranks)} processes x {old["data"]["batch_size"]} '
                f'images; this run has {dist.get_world_size()} x {config.data.batch_size}: resume with the same'
            )
        name, author = config.model.name, written_by(checkpoint)
        load_weights(self.task.model, checkpoint['model'], path, name, author)
        if self.ema:
            load_weights(self.ema.module.model, checkpoint.get('model_ema', checkpoint['model']), path, name, author)
        self._restore_optimizer(checkpoint['optimizer'], path)
        self.update.scaler.load_state_dict(checkpoint['scaler'] if self.update.scaler.is_enabled() else {})
        self.update.grad_norm = checkpoint.get('grad_norm', self.update.grad_norm)
        self.epoch, self.position = checkpoint['epoch'], checkpoint['position']
        self.unevaluated = checkpoint.get('unevaluated', False)
        self.best = dict(checkpoint['best'])
        if len(ranks) == dist.get_world_size():
            self.pending_rng = ranks[dist.get_rank()]['rng']
            self.window = dict(ranks[dist.get_rank()]['window'])
        return _differences(old, config.as_dict())

    def _restore_optimizer(self, state: dict[str, Any], path: Path) -> None:
        optimizer = self.update.optimizer
        settings = [{k: v for k, v in group.items() if k != 'params'} for group in optimizer.param_groups]
        try:
            optimizer.load_state_dict(state)
        except ValueError as error:
            raise UsageError(
                f'{path}: its optimizer groups parameters differently ({error}): keep optim.weight_decay and '
                'optim.layer_decay on or off as they were'
            ) from error
        for group, current in zip(optimizer.param_groups, settings):
            group.update(current)  # as configured now

    def restore_rng(self) -> None:
        """Sets the generators of a restored checkpoint; called after the draws of the loader."""
        if self.pending_rng is not None:
            _set_rng_state(self.pending_rng, self.device)
            self.pending_rng = None


def find_checkpoint(folder: Path) -> tuple[Path, dict[str, Any], str] | None:
    """The newest whole checkpoint of a run, with a warning if a newer one is damaged; None if there are none.

    Raises:
        UsageError: there are checkpoints, and all are damaged.
    """
    warning = ''
    failure: UsageError | None = None
    for path in (folder / 'last.pth', folder / 'previous.pth'):
        if path.exists():
            try:
                return path, load_checkpoint(path), warning
            except UsageError as error:
                failure, warning = error, f'{error}; taking up the one before it'
    if failure:
        raise failure
    return None


def _keep_as(path: Path, kept: Path) -> None:
    """A second name for a file, made so that ``kept`` is always one whole file or another."""
    temporary = kept.with_name(f'.part.{kept.name}')
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, temporary)
    os.replace(temporary, kept)


def _rng_state(device: torch.device) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  (timm's Mixup draws from it)
    state = {
        'python': random.getstate(),
        'numpy': (kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        'torch': torch.get_rng_state(),
    }
    if device.type != 'cpu':
        state['device'] = torch.get_device_module(device).get_rng_state()
    return state


def _set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    kind, keys, *rest = state['numpy']
    random.setstate(state['python'])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state['torch'])
    if device.type != 'cpu' and 'device' in state:
        torch.get_device_module(device).set_rng_state(state['device'])


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f'{section}.{key}: {old[section].get(key)!r} -> {value!r}'
        for section, entries in new.items()
        for key, value in entries.items()
        if old[section].get(key) != value and f'{section}.{key}' not in _FREE_TO_CHANGE
    ]


def _count(classes: list[str]) -> str:
    return f'{len(classes)} classes ({", ".join(classes[:3])}{", .." if len(classes) > 3 else ""})'
