"""Training from a configuration, and evaluation of what came out: the two calls behind tools/train.py and test.py."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3

from vimamba.checkpoint import load_checkpoint
from vimamba.config import schema
from vimamba.config.reading import read_config
from vimamba.config.schema import Config
from vimamba.data import create_loader
from vimamba.engine import distributed
from vimamba.errors import UsageError

from .hooks import CheckpointHook, EmaHook, Interrupted, LogHook, ScheduleHook
from .loop import EvalLoop, TrainLoop
from .optim import Update, create_optimizer, create_schedule
from .report import logging_to, report, summary
from .runner import Runner, wrap
from .state import TrainingState, find_checkpoint

__all__ = ['create_loaders', 'train']

_RUN = ('last.pth', 'previous.pth', 'best.pth', 'epoch_[0-9][0-9][0-9][0-9].pth', 'summary.txt')  # what one is known by
_ALL = (*_RUN, 'config.json', 'curves.png', 'log.jsonl', 'train.log', 'tensorboard', '.part.*')

logger = logging.getLogger('vimamba')


def train(
    path: str | Path,
    tasks: Mapping[str, Any],
    *,
    options: Sequence[str] = (),
    work_dir: str | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    plot: Callable[[Path, Path], Any] | None = None,
    draw: Callable[..., Any] | None = None,
) -> int:
    """Trains from a configuration file; under torchrun, in all its processes.

    Args:
        path: the configuration.
        tasks: `vimamba.tasks.TASKS`: what can be trained; the configuration's is checked before any data is read.
        options: ``key.subkey=value``, over the configuration.
        work_dir: instead of ``run.work_dir``.
        resume: True takes up the newest whole checkpoint in the folder, or starts where there is none; a path takes
            up that file.
        overwrite: start anew in a folder that holds a run.
        plot: draws ``log.jsonl`` as a picture at the end.
        draw: `vimamba.visualize.samples.picture`, for the predictions that TensorBoard shows.

    Returns:
        The exit code: 0, or 128 + the signal that stopped the run, which has then been saved.

    Raises:
        UsageError: anything that the user can mend.
    """
    config = schema.check(read_config(path, options))
    task_type = tasks[config.task.name]
    task_type.check(config)
    folder = Path(work_dir or config.run.work_dir or Path('runs', Path(path).stem))
    device = distributed.local_device(config.run.device)
    with distributed.initialized(device), logging_to(folder) as open_log:
        found = _checkpoint(folder, resume, overwrite)
        started = time.monotonic()
        torch.manual_seed(config.run.seed)  # the same weights in all processes
        if config.run.deterministic:
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        train_loader, val_loader = create_loaders(config, task_type, ('train', 'val'))
        classes, steps = list(train_loader.dataset.classes), len(train_loader)
        task = task_type.build(config, classes, with_weights=found is None)
        model = wrap(task, device)
        total = config.data.batch_size * distributed.world_size() * config.optim.accumulate
        update = Update(create_optimizer(task.model, config, total), config, device, steps)
        ema = ModelEmaV3(task, config.run.ema, use_warmup=config.run.ema_warmup) if config.run.ema else None
        state = TrainingState(config, task, update, ema, classes, steps, device)
        if found:
            _resume(state, *found)
            if not (folder / 'best.pth').exists():
                state.best = {}  # the file that it speaks of is in another folder
        if config.run.compile:
            task.model.compile()
        logger.info(summary(config, state, train_loader, val_loader, folder))
        saving = CheckpointHook(state, folder)
        hooks = [
            ScheduleHook(state, create_schedule(update.optimizer, config, steps)),
            EmaHook(state),
            LogHook(state, folder, draw, train_loader.dataset.what),
            saving,
        ]
        runner = Runner(
            model=model,
            update=update,
            train_loop=partial(TrainLoop, state=state),
            val_loop=partial(EvalLoop, state=state),
            train_loader=train_loader,
            val_loader=val_loader,
            hooks=hooks,
            work_dir=str(folder),
            seed=config.run.seed,
            deterministic=config.run.deterministic,
        )
        try:
            with _signals(saving):
                distributed.gather(None)  # all processes are as far, and nothing is left that may be missing
                if distributed.is_main():
                    if not resume:
                        _remove(folder)
                    open_log()
                runner.train()
        except Interrupted as interrupt:
            logger.info(
                f'stopped by {signal.Signals(interrupt.signal).name} after step {state.step} of {runner.max_iters}; '
                f'to go on: the same command with --resume ({folder / "last.pth"})'
            )
            return 128 + interrupt.signal
        report(state, folder, train_loader.broken, time.monotonic() - started, plot)
    return 0


def create_loaders(config: Config, task_type: Any, splits: Sequence[str], training: bool = True) -> list[Any]:
    """A loader for each split; only 'train' is shuffled and augmented, and only in ``training``."""
    data, loaders = config.data, []
    for split in splits:
        shuffled = training and split == 'train'
        dataset = task_type.dataset(config, split, shuffled)
        try:
            loader = create_loader(
                dataset,
                data.batch_size if shuffled else data.eval_batch_size or data.batch_size,
                training=shuffled,
                seed=config.run.seed,
                workers=data.workers,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                max_broken=data.max_broken,
                timeout=data.timeout,
                lists=task_type.lists,
            )
        except UsageError as error:  # it begins with the key
            raise UsageError(f'{config.at(f"data.{error}".partition(":")[0])}data.{error}') from error
        loaders.append(loader)
    return loaders


def _checkpoint(folder: Path, resume: bool | str, overwrite: bool) -> tuple[Path, dict[str, Any], str] | None:
    """The checkpoint to take up, if any."""
    if isinstance(resume, str):
        checkpoint = load_checkpoint(resume)
        if Path(resume).resolve().parent != folder.resolve() and _holds_a_run(folder):
            raise UsageError(f'{folder} holds another run than that of {resume}: choose another --work-dir')
        return Path(resume), checkpoint, ''
    if resume:
        found = find_checkpoint(folder)
        if not found:
            logger.info(f'{folder} holds no checkpoint yet: starting from the beginning')
        return found
    if not overwrite and _holds_a_run(folder):
        raise UsageError(f'{folder} holds a run: add --resume to go on with it, --overwrite, or another --work-dir')
    return None


def _holds_a_run(folder: Path) -> bool:
    return any(any(folder.glob(name)) for name in _RUN)


def _remove(folder: Path) -> None:
    """Removes all that a run leaves, and nothing else."""
    for path in [path for name in _ALL for path in folder.glob(name)]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _resume(state: TrainingState, path: Path, checkpoint: dict[str, Any], warning: str) -> None:
    changed = state.restore(checkpoint, path)
    if warning:
        logger.warning(f'warning: {warning}')
    where = f'epoch {state.epoch}' + (
        f' and {state.position} of {state.steps_per_epoch} steps' if state.position else ''
    )
    logger.info(f'resuming {path} after {where}')
    if changed:
        logger.warning(f'warning: not the settings it was written with: {"; ".join(changed)}')
    if state.pending_rng is None:
        logger.warning('warning: another number of processes: what follows is not bit-identical to an undisturbed run')


@contextmanager
def _signals(saving: CheckpointHook) -> Iterator[None]:
    """SIGINT and SIGTERM go to the hook while this lasts; only the main thread may ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, saving.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
