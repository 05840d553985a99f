"""What a run says: its log, a summary before, a table and curves after."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from mmengine import dist

from vimamba.errors import UsageError
from vimamba.memory import peak_memory
from vimamba.outputs import check_output, write_text
from vimamba.visualize.plots import plot_curves

from .hooks import read_log
from .state import TrainingState

__all__ = ['logging_to', 'report', 'summary']

logger = logging.getLogger('vimamba')


def summary(state: TrainingState, train_loader: Any, val_loader: Any, folder: Path) -> str:
    config = state.config
    parameters = sum(p.numel() for p in state.task.model.parameters())
    processes = f' x {dist.get_world_size()} processes' if dist.get_world_size() > 1 else ''
    accumulate = f' x {config.optim.accumulate} accumulated' if config.optim.accumulate > 1 else ''
    what = state.task.what
    return (
        f'{config.model.name}: {parameters / 1e6:.2f} M parameters, {len(state.classes)} classes, '
        f'on {state.device} in {config.run.amp or "fp32"}\n'
        f'{config.data.name}: {len(train_loader.dataset)} training and {len(val_loader.dataset)} validation {what}\n'
        f'{config.schedule.epochs} epochs x {state.steps_per_epoch} steps of {config.data.batch_size} {what}{processes}'
        f'{accumulate}, into {folder}'
    )


def report(state: TrainingState, folder: Path, broken: dict[str, str], seconds: float) -> None:
    """The final table, also in ``summary.txt``, and the curves."""
    every_broken = {path: why for part in dist.all_gather_object(broken) for path, why in part.items()}
    if not dist.is_main_process():
        return
    records = read_log(folder)
    losses = {r['step']: r for r in records if r['kind'] == 'train'}
    rows = [{**losses.get(r['step'], {}), 'val': r} for r in records if r['kind'] == 'val']
    best, skip = state.best.get('epoch'), -(-len(rows) // 20)  # about 20 lines, the last and the best among them
    chosen = [row for i, row in enumerate(rows[::-1]) if i % skip == 0 or row['val']['epoch'] == best][::-1]
    others = ('kind', 'epoch', 'step', 'images', 'videos')
    names = [name for name in (rows[-1]['val'] if rows else {}) if name not in others]
    lines = [f'{"epoch":>6} {"lr":>9} {"train loss":>10} ' + ' '.join(f'{"val " + n:>9}' for n in names)]
    for row in chosen:
        values = ' '.join(f'{row["val"][n]:>9.4f}' if n == 'loss' else f'{row["val"][n]:>9.2f}' for n in names)
        mark = '  best' if row['val']['epoch'] == best else ''
        rate, loss = row.get('lr', float('nan')), row.get('loss', float('nan'))
        lines.append(f'{row["val"]["epoch"]:>6} {rate:>9.2e} {loss:>10.4f} {values}{mark}')
    lines.append(
        f'{timedelta(seconds=round(seconds))} in this session, peak memory {peak_memory(state.device):.0f} MiB'
    )
    lines += [f'left out of training: {path}: {why}' for path, why in sorted(every_broken.items())]
    if rows:
        lines.append(f'best weights in {folder / "best.pth"}')
        plot_curves(folder / 'log.jsonl', folder / 'curves.png')
        lines.append(f'curves in {folder / "curves.png"}')
    table = '\n'.join(lines)
    write_text(folder / 'summary.txt', table + '\n')
    logger.info(table)


class _Log(logging.FileHandler):
    """``train.log``, which a full disk ends in one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        else:
            raise UsageError(f'{self.baseFilename}: cannot be written ({error.strerror}): make room') from error


@contextmanager
def logging_to(folder: Path) -> Iterator[Callable[[], None]]:
    """Messages to the terminal and to ``train.log``, of the first process only; warnings as one line each.

    Nothing is written into the folder before the function that this gives is called.
    """
    file = _Log(folder / 'train.log', delay=True)
    file.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%Y-%m-%d %H:%M:%S'))
    waiting = MemoryHandler(sys.maxsize, flushLevel=sys.maxsize, target=file, flushOnClose=False)
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if dist.is_main_process():
        check_output('run.work_dir', folder, folder=True)
        handlers = [logging.StreamHandler(sys.stdout), waiting]
    for handler in handlers:
        logger.addHandler(handler)

    def open_log() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        waiting.capacity = 0  # from now on each message goes through
        waiting.flush()

    logger.setLevel(logging.INFO)
    logger.propagate = False
    show = warnings.showwarning

    def one_line(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if category is UserWarning:
            logger.warning(f'warning: {" ".join(str(message).split())}')

    def in_a_thread(failed: Any) -> None:
        if isinstance(failed.exc_value, OSError):  # TensorBoard's, on a full disk
            print(f'warning: {failed.thread.name}: {failed.exc_value.strerror}', file=sys.stderr)
        else:
            threading.__excepthook__(failed)

    warnings.showwarning = one_line  # type: ignore[assignment]
    threading.excepthook = in_a_thread
    try:
        yield open_log
    finally:
        warnings.showwarning, threading.excepthook = show, threading.__excepthook__
        for handler in handlers:
            logger.removeHandler(handler)
        waiting.close()
        file.close()
        with suppress(OSError):  # a run that did not start leaves no folder
            folder.rmdir()
