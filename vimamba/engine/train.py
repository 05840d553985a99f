"""Training from a configuration file."""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

from vimamba.checkpoint import load_checkpoint
from vimamba.config import Config
from vimamba.data import create_loader
from vimamba.engine import distributed
from vimamba.errors import UsageError, within
from vimamba.tasks import load_task

from .hooks import CheckpointHook, Interrupted, LogHook
from .loop import each_tensor
from .optim import Update, create_optimizer, create_schedule
from .report import logging_to, report, summary
from .runner import Runner
from .state import TrainingState, find_checkpoint

__all__ = ['open_loader', 'train']

# a folder with one of them holds a run
_RUN = ('last.pth', 'previous.pth', 'best.pth', 'epoch_[0-9][0-9][0-9][0-9].pth', 'summary.txt')
_ALL = (*_RUN, 'config.json', 'curves.png', 'log.jsonl', 'train.log', 'tensorboard', '.part.*')

logger = logging.getLogger('vimamba')


def train(
    path: str | Path,
    *,
    options: Sequence[str] = (),
    work_dir: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> int:
    """Trains from a configuration file; under torchrun, in all its processes.

    Args:
        path: the configuration.
        options: ``key.subkey=value``, over the configuration.
        work_dir: instead of ``run.work_dir``.
        resume: True resumes from the newest whole checkpoint in the folder, or starts if there is none; a path resumes
            from that file.
        overwrite: start over in a folder that holds a run.

    Returns:
        The exit code: 0, or 128 + the signal that stopped the run, which has then been saved.

    Raises:
        UsageError: a mistake of the user; before any data is read, if it is in the configuration.
    """
    config, task_type = load_task(path, options)
    folder = Path(work_dir or config.run.work_dir or Path('runs', Path(path).stem))
    with config.located(), distributed.initialized(config.run.device) as device, logging_to(folder) as open_log:
        found = _checkpoint(folder, resume, overwrite)
        started = time.monotonic()
        torch.manual_seed(config.run.seed)  # the same weights in all processes
        if config.run.deterministic:
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        train_set, val_set = (task_type.dataset(config, split, split == 'train') for split in ('train', 'val'))
        task = task_type.build(config, train_set.classes, with_weights=found is None)
        train_loader, val_loader = open_loader(task, train_set, config, True), open_loader(task, val_set, config, False)
        model, steps = task.to(device), len(train_loader)
        if dist.is_distributed():
            model = DistributedDataParallel(task, [device] if device.type == 'cuda' else None)
        total = config.data.batch_size * dist.get_world_size() * config.optim.accumulate
        update = Update(create_optimizer(task.model, config, total), config, device, steps)
        ema = ModelEmaV3(task, config.run.ema, use_warmup=config.run.ema_warmup) if config.run.ema else None
        schedule = create_schedule(update.optimizer, config, steps)
        state = TrainingState(config, task, update, schedule, ema, list(train_set.classes), steps, device)
        if found:
            _resume(state, *found)
            if not (folder / 'best.pth').exists():
                state.best = {}  # it is about a file in another folder
        if config.run.compile:
            task.model.compile()
        logger.info(summary(state, train_loader, val_loader, folder))
        saving = CheckpointHook(state, folder)
        runner = Runner(model, state, (train_loader, val_loader), [LogHook(state, folder), saving], folder)
        loop = runner.train_loop
        try:
            with _signals(saving):
                dist.all_gather_object(None)  # every process has come so far: from here on files are written
                if dist.is_main_process():
                    if not resume:
                        _remove(folder)
                    open_log()
                for batch in loop.run():
                    with loop.step(batch) as losses:
                        losses.update(model(*each_tensor(batch, lambda part: part.to(device)), mode='loss'))
        except Interrupted as interrupt:
            [number] = interrupt.args
            logger.info(
                f'stopped by {signal.Signals(number).name} after step {state.step} of {runner.max_iters}; '
                f'to go on: the same command with --resume ({folder / "last.pth"})'
            )
            return 128 + number
        report(state, folder, train_loader.broken, time.monotonic() - started)
    return 0


def open_loader(task: Any, dataset: Any, config: Config, training: bool) -> Any:
    """The loader of a data set of `Task.dataset`; in ``training`` it is shuffled and augmented."""
    data = config.data
    dataset = task.prepare(dataset, config, training)
    with within('data'):
        return create_loader(
            dataset,
            data.batch_size if training else data.eval_batch_size or data.batch_size,
            training=training,
            seed=config.run.seed,
            workers=data.workers,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            max_broken=data.max_broken,
            timeout=data.timeout,
            lists=task.lists,
        )


def _checkpoint(folder: Path, resume: bool | str, overwrite: bool) -> tuple[Path, dict[str, Any], str] | None:
    """The checkpoint to resume from, if any."""
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
    """Removes the files of a run, and nothing else."""
    for path in [path for name in _ALL for path in folder.glob(name)]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _resume(state: TrainingState, path: Path, checkpoint: dict[str, Any], warning: str) -> None:
    changed = state.restore(checkpoint, path)
    if warning:
        logger.warning(f'warning: {warning}')
    steps = f' and {state.position} of {state.steps_per_epoch} steps' if state.position else ''
    logger.info(f'resuming {path} after epoch {state.epoch}{steps}')
    if changed:
        logger.warning(f'warning: not the settings it was written with: {"; ".join(changed)}')
    if state.pending_rng is None:
        logger.warning('warning: another number of processes: what follows is not bit-identical to an undisturbed run')


@contextmanager
def _signals(saving: CheckpointHook) -> Iterator[None]:
    """Sends SIGINT and SIGTERM to the hook; only the main thread can."""
    handled = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, saving.receive) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
