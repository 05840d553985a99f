"""What follows a step: its log and its checkpoints, in this order."""

import json
import logging
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook

from vimamba.errors import UsageError
from vimamba.memory import peak_memory
from vimamba.outputs import naming, write_text

from .state import TrainingState

__all__ = ['CheckpointHook', 'Interrupted', 'LogHook', 'read_log']

logger = logging.getLogger('vimamba')


class LogHook(Hook):
    """Progress on the terminal and in ``train.log``, records in ``log.jsonl``, events for TensorBoard.

    A record is ``{'kind': 'train' | 'val', 'epoch': .., 'step': .., 'loss': .., ..}``. Losses are means over the steps
    since the last record and over processes; their sums are in the checkpoint, so an interrupted run logs the same.
    """

    def __init__(self, state: TrainingState, folder: Path) -> None:
        self.state, self.folder = state, folder
        self.writer: Any = None
        self.tensorboard: Any = None  # makes it when the run begins
        if dist.is_main_process() and state.config.run.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                hint = 'pip install vimamba[train], or run.tensorboard=False'
                raise UsageError(f'needs tensorboard ({error}): {hint}', key='run.tensorboard') from None
            self.tensorboard = SummaryWriter

    def before_train(self, runner: Any) -> None:
        self.start, self.first_step = time.monotonic(), self.state.step
        self.mark, self.marked_step = self.start, self.state.step
        if not dist.is_main_process():
            return
        kept = [r for r in read_log(self.folder) if r['step'] <= self.state.step]
        write_text(self.folder / 'log.jsonl', ''.join(json.dumps(record) + '\n' for record in kept))
        if self.tensorboard:
            with naming(self.folder / 'tensorboard'):
                self.writer = self.tensorboard(str(self.folder / 'tensorboard'), purge_step=self.state.step + 1)

    def before_train_epoch(self, runner: Any) -> None:
        self.mark, self.marked_step = time.monotonic(), self.state.step  # evaluation is not training time

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        state = self.state
        window, interval = state.window, state.config.run.log_interval
        window['count'] = window.get('count', 0) + 1
        for name, value in (outputs or {}).items():
            window[name] = window.get(name, 0.0) + float(value.detach())
        if (interval and state.position % interval == 0) or state.position == state.steps_per_epoch:
            self._log_training(runner)

    def _log_training(self, runner: Any) -> None:
        state = self.state
        sums = torch.tensor(list(state.window.values()))
        dist.all_reduce(sums)
        means = {name: float(value / sums[0]) for name, value in zip(state.window, sums) if name != 'count'}
        state.window.clear()
        now = time.monotonic()
        steps = state.step - self.marked_step
        speed = steps * state.config.data.batch_size * dist.get_world_size() / max(now - self.mark, 1e-9)
        left = (now - self.start) / (state.step - self.first_step) * (runner.max_iters - state.step)
        self.mark, self.marked_step = now, state.step
        record = {
            'kind': 'train',
            'epoch': state.epoch + state.position / state.steps_per_epoch,
            'step': state.step,
            **means,
            'lr': max(group['lr'] for group in state.update.optimizer.param_groups),
            'grad_norm': state.update.grad_norm,
            f'{state.task.what}_per_second': round(speed, 1),
            'memory_mib': round(peak_memory(state.device)),
        }
        losses = '  '.join(f'{name} {value:.4f}' for name, value in means.items())
        logger.info(
            f'epoch {state.epoch + 1:>{len(str(runner.max_epochs))}}/{runner.max_epochs}'
            f'  step {state.position:>{len(str(state.steps_per_epoch))}}/{state.steps_per_epoch}'
            f'  {losses}  lr {record["lr"]:.2e}  {speed:.0f} {state.task.what}/s  {record["memory_mib"]} MiB'
            f'  eta {timedelta(seconds=round(left))}'
        )
        self._write(record)

    def after_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        if not metrics:
            return
        state, best = self.state, self.state.task.best
        if metrics[best] > state.best.get(best, float('-inf')) or not state.best:  # NaN where there is nothing to find
            state.best = {'epoch': state.epoch, **metrics}
        shown = '  '.join(f'{name} {value:.4f}' if name == 'loss' else f'{name} {value:.2f}'
                          for name, value in metrics.items() if name not in ('images', 'videos'))  # fmt: skip
        flag = '  (best)' if state.best['epoch'] == state.epoch else ''
        logger.info(f'epoch {state.epoch}/{runner.max_epochs}  validation  {shown}{flag}')
        self._write({'kind': 'val', 'epoch': state.epoch, 'step': state.step, **metrics})
        if self.writer and state.sample:
            picture = state.sample.picture(state.task)
            with naming(self.folder / 'tensorboard'):
                self.writer.add_image('val/predictions', np.asarray(picture), state.step, dataformats='HWC')
                self.writer.flush()

    def _write(self, record: dict[str, Any]) -> None:
        if not dist.is_main_process():
            return
        with naming(self.folder / 'log.jsonl'), open(self.folder / 'log.jsonl', 'a') as file:
            file.write(json.dumps(record) + '\n')
        if self.writer:
            with naming(self.folder / 'tensorboard'):
                for name, value in record.items():
                    if name not in ('kind', 'epoch', 'step'):
                        self.writer.add_scalar(f'{record["kind"]}/{name}', value, record['step'])
                self.writer.flush()

    def after_train(self, runner: Any) -> None:
        if self.writer:
            with naming(self.folder / 'tensorboard'):
                self.writer.close()


class Interrupted(Exception):
    """A signal, the argument, asked the run to stop; everything is saved."""


class CheckpointHook(Hook):
    """Writes ``last.pth``, ``best.pth`` and ``epoch_*.pth``, and stops at a signal when the update is done.

    Checkpoints are only made where no half-accumulated gradient would be lost.
    """

    def __init__(self, state: TrainingState, folder: Path) -> None:
        self.state, self.folder, self.signal, self.due = state, folder, 0, False

    def receive(self, number: int, frame: Any) -> None:
        """The handler of SIGINT and SIGTERM; a second signal has its usual effect."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        if dist.is_main_process():  # a log call here could interrupt another one
            os.write(2, f'{signal.Signals(number).name}: saving after this step\n'.encode())

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        state, interval = self.state, self.state.config.run.checkpoint_interval
        self.due |= interval > 0 and state.step % interval == 0
        if not state.update.should_update() or state.position == state.steps_per_epoch:
            return  # the end of the epoch is saved when it has been evaluated
        stop = self._stop()
        if self.due or stop:
            state.save(self.folder, 'last.pth')
            self.due = False
        if stop:
            raise Interrupted(stop)

    def after_train_epoch(self, runner: Any, metrics: Any = None) -> None:
        if self.state.unevaluated:  # whatever happens to the evaluation, the epoch is not lost
            self.state.save(self.folder, 'last.pth')

    def after_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        state, keep = self.state, self.state.config.run.keep
        names = ['last.pth']
        if metrics and state.best['epoch'] == state.epoch:
            names.insert(0, 'best.pth')  # first, so that what last.pth says of it is true
        if keep:
            names.append(f'epoch_{state.epoch:04}.pth')
        state.save(self.folder, *names)
        self.due = False
        if keep and dist.is_main_process():
            for old in sorted(self.folder.glob('epoch_[0-9][0-9][0-9][0-9].pth'))[:-keep]:
                old.unlink()
        stop = self._stop()
        if stop and state.epoch < runner.max_epochs:
            raise Interrupted(stop)

    def _stop(self) -> int:
        """The signal that any process has received, or 0; the same in all of them."""
        received = torch.tensor(self.signal)
        dist.all_reduce(received, 'max')
        return int(received)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of ``log.jsonl``; a line cut off by a kill ends them."""
    path = folder / 'log.jsonl'
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
