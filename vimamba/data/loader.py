"""Batches that are a function of (seed, epoch, position) alone.

Neither the number of workers, nor an interruption, nor other random draws of the program change a batch:
`EpochSampler` computes the order of an epoch from (seed, epoch), and each sample is augmented under a seed made from
(seed, epoch, item). Skipping to any position of an epoch decodes nothing.

Files that cannot be read:

    training      The file is left out. Another image, drawn uniformly under the same seed, replaces it, so that every
                  batch is full (timm's Mixup needs an even number) and the same in every run. `Loader.broken` keeps
                  each path and reason, with one warning each. More than ``max_broken`` of the data set: UsageError.
    evaluation    A UsageError names the file. Evaluation never replaces an image.
"""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from threading import Thread
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, _utils, default_collate

from vimamba.data.image import BrokenImage
from vimamba.errors import UsageError, bad_argument, check_integers, check_numbers, first_line, number

__all__ = ['EpochSampler', 'Loader', 'SampleKey', 'create_loader', 'end_workers', 'lost_worker', 'seeded']


class SampleKey(NamedTuple):
    """The sampler's message to a worker: all that a sample depends on, besides the seed."""

    epoch: int
    item: int
    valid: bool = True  # False for padding


class EpochSampler(Sampler[SampleKey]):
    """The part of each epoch that one process reads.

    Training: a permutation made from (seed, epoch), dealt out to the processes in turn; ``drop_last`` leaves out the
    last ``length % world_size`` of it, otherwise its beginning is repeated. Evaluation: all indices in order; the
    repetitions that give each process the same number are marked as padding. The arguments are those of `create_loader`
    for ``length`` samples.

    >>> sampler = EpochSampler(5, training=False, world_size=2, rank=1)
    >>> [(key.item, key.valid) for key in sampler]
    [(1, True), (3, True), (0, False)]
    """

    def __init__(
        self, length: int, *, training: bool, seed: int = 0, rank: int = 0, world_size: int = 1, drop_last: bool = False
    ):
        if not 0 <= rank < world_size:
            raise bad_argument('rank', f'0 to world_size - 1 = {world_size - 1}', rank)
        self.length, self.training, self.seed = length, training, seed
        self.rank, self.world_size = rank, world_size
        self.per_rank = length // world_size if drop_last else -(-length // world_size)
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Sets the next epoch, without the first ``start`` samples of this process."""
        if not 0 <= start <= self.per_rank:
            raise bad_argument('start', f'0 to {self.per_rank}, the samples of an epoch', start)
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Samples of a whole epoch, regardless of its start."""
        return self.per_rank

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.arange(self.length)
        if self.training:
            generator = torch.Generator().manual_seed(_seeds(1, self.seed, self.epoch)[0])
            order = torch.randperm(self.length, generator=generator).numpy()
        epoch = self.epoch
        for position in range(self.rank, self.per_rank * self.world_size, self.world_size)[self.start :]:
            yield SampleKey(epoch, int(order[position % self.length]), self.training or position < self.length)


def create_loader(
    dataset: Any,
    batch_size: int,
    *,
    training: bool,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool | None = None,
    max_broken: float = 0.001,
    timeout: float = 120,
    lists: bool = False,
) -> Loader:
    """A DataLoader of ``[images (B, C, H, W), targets (B,) int64]``; the module docstring states its promises.

    Args:
        dataset: from `create_dataset`.
        batch_size: images per batch and process.
        training: shuffles, drops the last incomplete batch, skips unreadable files.
        seed: a non-negative integer, the same in every process.
        workers: number of decoding processes; 0 decodes in this process.
        rank, world_size: index of this process, and number of processes. In evaluation each process gets the same
            number of samples; padding has target -1.
        drop_last: None for ``training``.
        max_broken: fraction of the data set; training stops if more of it is unreadable.
        timeout: seconds to wait for a worker.
        lists: return two lists instead, of images (C, H, W) of any size and targets of any kind; padding has the
            target None.

    >>> from vimamba.data import create_dataset
    >>> loader = create_loader(create_dataset('digits', split='val'), 64, training=False, seed=0)
    >>> [len(targets) for images, targets in loader]
    [64, 64, 64, 64, 13]

    Raises:
        UsageError: for an argument out of range, or a batch larger than the training set.
    """
    drop_last = training if drop_last is None else drop_last
    if drop_last and not training:
        raise bad_argument('drop_last', 'False in evaluation', True, 'every sample counts')
    check_integers(1, batch_size=batch_size)
    check_integers(0, seed=seed, workers=workers)
    check_numbers(0, 1, max_broken=max_broken)
    if workers:
        number(above=0)(timeout, 'timeout')
    sampler = EpochSampler(
        len(dataset), training=training, seed=seed, rank=rank, world_size=world_size, drop_last=drop_last
    )
    if drop_last and batch_size > len(sampler):
        expected = f'at most the {len(sampler)} training {getattr(dataset, "what", "images")} of each process'
        raise bad_argument('batch_size', expected, batch_size)
    return Loader(
        _Samples(dataset, training, seed, max_broken, padding=None if lists else -1),
        batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=workers,
        persistent_workers=workers > 0,
        timeout=timeout if workers else 0,
        collate_fn=_as_lists if lists else _as_tensors,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # otherwise it would draw from the global one
        worker_init_fn=_outlive_signals,
    )


def _outlive_signals(_: int) -> None:
    """Workers ignore group signals; the main process still needs data until it stops.

    Schedulers send SIGTERM to all processes, a terminal sends SIGINT. SIGTERM from the main process ends a worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_for, args=(parent_process(),), daemon=True).start()


def _end_for(parent: Any) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)


class Loader(DataLoader):
    """The DataLoader of `create_loader`.

    Attributes:
        broken: path -> reason of the unreadable training files met so far.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.broken: dict[str, str] = {}

    def __iter__(self) -> Iterator[list[Any]]:  # type: ignore[override]
        batches = super().__iter__()
        if self.num_workers:
            _running.add(batches)
        return self._checked(batches)

    def _checked(self, batches: Iterator[_Sample]) -> Iterator[list[Any]]:
        try:
            for batch in batches:
                if batch.error:
                    raise batch.error
                self._count(batch.broken)
                yield [batch.image, batch.target]
        except (RuntimeError, ConnectionError, EOFError, UsageError) as error:
            lost = lost_worker(error)
            if lost or isinstance(error, UsageError):
                self._iterator = None  # the traceback keeps it alive, but the workers have to end now
                if self.num_workers:
                    _end(batches)
            if lost:
                raise lost from error
            raise

    def _count(self, broken: dict[str, str]) -> None:
        for path, reason in broken.items():
            if path not in self.broken:
                self.broken[path] = reason
                warnings.warn(f'{path}: {reason}; left out', stacklevel=4)
        samples: _Samples = self.dataset  # type: ignore[assignment]
        if len(self.broken) > samples.allowed:
            path, reason = next(iter(self.broken.items()))
            enough = min(1, (1000 * len(self.broken) // len(samples) + 1) / 1000)
            raise UsageError(
                f'{len(self.broken)} of {len(samples)} training {samples.what} cannot be read, '
                f'more than the {samples.allowed} that data.max_broken={samples.max_broken:g} allows; '
                f'the first: {path}: {reason}; mend or remove it, or set data.max_broken={enough:g} or more'
            )


_running: WeakSet[Any] = WeakSet()  # iterators with workers


def end_workers() -> None:
    """Ends the workers of every loader after one was lost."""
    for batches in list(_running):
        _end(batches)


def _end(batches: Any) -> None:
    """Kills workers. torch's shutdown can deadlock on a lock held by a killed worker."""
    with suppress(RuntimeError):  # torch's signal handler would report the lost worker again
        _utils.signal_handling._remove_worker_pids(id(batches))
    batches._shutdown, batches._worker_pids_set = True, False
    if hasattr(batches, '_pin_memory_thread'):
        batches._pin_memory_thread_done_event.set()
    for worker in batches._workers:
        worker.kill()
    for worker in batches._workers:
        worker.join()
    for queue in batches._index_queues:
        queue.cancel_join_thread()
        queue.close()
    _running.discard(batches)


def lost_worker(error: Exception) -> UsageError | None:
    """The UsageError for an error of torch that reports a dead or hanging data worker; None for any other error.

    torch raises this RuntimeError anywhere in the main thread, not only while it waits for a batch.

    >>> lost_worker(RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.'))  # doctest: +ELLIPSIS
    UsageError('DataLoader worker (pid 7) is killed by signal: Killed; memory or shared memory (/dev/shm) ...
    """
    message = first_line(error).strip('. ')
    if isinstance(error, (ConnectionError, EOFError)) and not message.startswith('Caught '):  # in a worker's own code
        message = 'DataLoader worker is gone'
    if not message.startswith('DataLoader '):
        return None
    return UsageError(
        f'{message}; memory or shared memory (/dev/shm) may be too small: use fewer workers or a smaller batch; '
        'for a slow disk, a longer timeout'
    )


class _Sample(NamedTuple):
    """A sample, or a batch of them; errors travel as data, because a worker's exceptions lose their type."""

    image: Any
    target: Any
    broken: dict[str, str]
    error: UsageError | None


class _Samples(Dataset):
    """Indexes a data set by `SampleKey`."""

    def __init__(self, dataset: Any, training: bool, seed: int, max_broken: float, padding: int | None):
        self.dataset, self.training, self.seed, self.padding = dataset, training, seed, padding
        self.max_broken, self.allowed = max_broken, int(max_broken * len(dataset))
        self.classes, self.sample_path = dataset.classes, dataset.sample_path
        self.what = getattr(dataset, 'what', 'images')

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> _Sample:
        broken: dict[str, str] = {}
        item = key.item
        with seeded(self.seed, key.epoch, key.item):
            while len(broken) <= self.allowed:
                try:
                    image, target = self.dataset[item]
                    return _Sample(image, target if key.valid else self.padding, broken, None)
                except UsageError as error:
                    if not (self.training and isinstance(error, BrokenImage)):
                        return _Sample(None, self.padding, {}, error)
                    broken[error.path] = error.reason
                    item = random.randrange(len(self.dataset))
        return _Sample(None, self.padding, broken, None)  # enough to stop the run


def _as_lists(samples: list[_Sample]) -> _Sample:
    images, targets, skipped, errors = map(list, zip(*samples))
    broken = {path: reason for found in skipped for path, reason in found.items()}
    return _Sample(images, targets, broken, next(filter(None, errors), None))


def _as_tensors(samples: list[_Sample]) -> _Sample:
    batch = _as_lists(samples)
    whole = all(image is not None for image in batch.image)  # else the run is about to stop
    return batch._replace(image=default_collate(batch.image) if whole else None, target=torch.tensor(batch.target))


def _seeds(count: int, *entropy: int) -> list[int]:
    return np.random.SeedSequence(entropy).generate_state(count, np.uint64).tolist()


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seeds Python's, NumPy's and torch's CPU generators from ``entropy``; restores them on exit."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seeds = _seeds(3, *entropy)
    random.seed(seeds[0])
    np.random.seed(seeds[1] % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seeds[2])  # torch.manual_seed would seed the GPU's too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
