"""Promises: batches are a function of (seed, epoch, position); a broken file is never replaced unseen."""

import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.bad_images import BAD_IMAGES, write_bad_images
from vimamba.data import BrokenImage, EpochSampler, create_dataset, create_loader, create_transform
from vimamba.errors import UsageError

SIZE = {'input_size': (3, 16, 16), 'mean': [0.5] * 3, 'std': [0.5] * 3}
WORKERS = pytest.mark.parametrize('workers', [0, 2])
pytestmark = pytest.mark.filterwarnings(
    'ignore::PIL.Image.DecompressionBombWarning', 'ignore:Truncated File Read', 'ignore:.*:DeprecationWarning'
)


def digits(split='train', augmented=True):
    augment = {'style': 'small', 'degrees': 20, 'translate': 0.1, 'auto_augment': 'rand-m5', 're_prob': 0.5,
               'albumentations': [{'type': 'GaussNoise'}]}  # fmt: skip
    transform = create_transform(
        training=augmented, input_size=(1, 8, 8), mean=[0.5], std=[0.5], augment=augment if augmented else None
    )
    return create_dataset('digits', split=split, transform=transform, fraction=0.1 if split == 'train' else 1.0)


def training_loader(workers=0, seed=3, **options):
    return create_loader(digits(), 16, training=True, seed=seed, workers=workers, **options)


def epoch(loader, number, start=0):
    loader.sampler.set_epoch(number, start)
    return list(loader)


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right)
    )


def test_batches_do_not_depend_on_the_number_of_workers():
    alone, helped = training_loader(0), training_loader(2)
    for number in (0, 1, 5):
        assert same(epoch(alone, number), epoch(helped, number))


@WORKERS
def test_a_resumed_epoch_continues_bit_for_bit(workers):
    whole = epoch(training_loader(workers), 4)
    for steps in (0, 1, 5, len(whole)):
        resumed = training_loader(workers)
        assert same(epoch(resumed, 4, start=16 * steps), whole[steps:])
        assert same(epoch(resumed, 5), epoch(training_loader(), 5))  # and the next epoch is whole again


@WORKERS
def test_an_abandoned_epoch_leaves_no_trace(workers):
    loader = training_loader(workers)
    next(iter(loader))
    assert same(epoch(loader, 1), epoch(training_loader(), 1))


def test_epochs_and_seeds_differ_in_order_and_in_augmentation():
    def first(loader, number):
        return epoch(loader, number)[0]

    _, target = first(training_loader(), 0)
    for other in (first(training_loader(), 1), first(training_loader(seed=4), 0)):
        assert not torch.equal(other[1], target)
    dataset = digits()
    keyed = [create_loader(dataset, 1, training=True, seed=s).dataset for s in (0, 1)]
    key = next(iter(training_loader().sampler))
    views = [keyed[0][key], keyed[0][key._replace(epoch=1)], keyed[1][key], keyed[0][key]]
    assert torch.equal(views[0].image, views[3].image)
    assert not torch.equal(views[0].image, views[1].image)
    assert not torch.equal(views[0].image, views[2].image)


@WORKERS
def test_the_global_generators_are_neither_read_nor_moved(workers):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first = epoch(training_loader(workers), 0)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert same(first, epoch(training_loader(workers), 0))


def test_skipping_decodes_nothing(monkeypatch):
    loader = create_loader(digits(), 16, training=True, seed=0)
    seen = []
    inner = loader.dataset.dataset
    monkeypatch.setattr(type(inner), '__getitem__', lambda self, i: seen.append(i) or (torch.zeros(1), 0))
    assert len(epoch(loader, 0, start=96)) == 1
    assert len(seen) == 16


@given(
    length=st.integers(1, 60),
    world_size=st.integers(1, 7),
    training=st.booleans(),
    drop_last=st.booleans(),
    number=st.integers(0, 1000),
    data=st.data(),
)
def test_ranks_share_an_epoch_evenly(length, world_size, training, drop_last, number, data):
    samplers = [
        EpochSampler(length, training=training, seed=1, rank=r, world_size=world_size, drop_last=drop_last)
        for r in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(number)
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {len(samplers[0])}
    items = [key.item for part in parts for key in part if key.valid]
    if drop_last:
        assert len(set(items)) == len(items) > length - world_size
    else:
        assert set(items) == set(range(length))
        assert training or len(items) == length
    start = data.draw(st.integers(0, len(samplers[0])))
    samplers[-1].set_epoch(number, start)
    assert list(samplers[-1]) == parts[-1][start:]


@pytest.mark.parametrize('world_size', [1, 2, 3, 7])
def test_evaluation_on_several_ranks_counts_each_sample_once(world_size):
    dataset = digits('test', augmented=False)
    batches = [
        list(create_loader(dataset, 32, training=False, seed=0, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({tuple(len(targets) for _, targets in part) for part in batches}) == 1
    targets = torch.cat([targets for part in batches for _, targets in part])
    assert torch.equal(targets[targets >= 0].sort().values, torch.tensor(dataset.targets).sort().values)


def test_batches_are_floats_and_int64():
    images, targets = next(iter(training_loader()))
    assert (images.shape, images.dtype) == ((16, 1, 8, 8), torch.float32)
    assert (targets.shape, targets.dtype) == ((16,), torch.int64)


@pytest.fixture
def folder(tmp_path):
    """40 good images and the 12 bad ones in train; 6 good ones in val."""
    for split, count in (('train', 40), ('val', 6)):
        for i in range(count):
            (part := tmp_path / split / 'ab'[i % 2]).mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (20, 20), (i, i, i)).save(part / f'good{i}.png')
    write_bad_images(tmp_path / 'train' / 'b')
    return tmp_path


def folder_loader(root, split='train', *, batch_size=8, **options):
    training = split == 'train'
    transform = create_transform(training=training, augment={} if training else None, **SIZE)
    dataset = create_dataset('folder', root=root, split=split, transform=transform)
    return create_loader(dataset, batch_size, training=training, seed=0, **options)


@WORKERS
def test_training_leaves_out_broken_files_says_so_once_and_keeps_batches_full(folder, workers):
    loader = folder_loader(folder, workers=workers, max_broken=0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        epochs = [epoch(loader, number) for number in range(6)]
    bad = {str(folder / 'train' / 'b' / name) for name in BAD_IMAGES}
    assert loader.broken.keys() == bad
    said = [str(w.message) for w in caught if str(w.message).endswith('left out')]
    assert sorted(said) == sorted(f'{path}: {reason}; left out' for path, reason in loader.broken.items())
    assert all(len(targets) == 8 and images.isfinite().all() for part in epochs for images, targets in part)
    assert len({len(part) for part in epochs}) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        other = folder_loader(folder, workers=2 - workers, max_broken=0.5)
        assert same(epochs[3], epoch(other, 3))


@WORKERS
def test_training_stops_when_too_many_files_are_broken(folder, workers):
    loader = folder_loader(folder, workers=workers, max_broken=3 / 52)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(UsageError, match=r'of 52 training images cannot be read, more than the 3 .* the first: /'):
            [epoch(loader, number) for number in range(9)]
    assert 3 < len(loader.broken) <= 12


@pytest.mark.parametrize('name', BAD_IMAGES)
@WORKERS
def test_by_default_one_broken_file_in_fifty_stops_training(folder, workers, name):
    for other in BAD_IMAGES.keys() - {name}:
        (folder / 'train' / 'b' / other).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(UsageError, match=f'1 of 41 training images cannot be read.*{name}') as error:
            epoch(folder_loader(folder, workers=workers, batch_size=41), 0)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', BAD_IMAGES)
@WORKERS
def test_evaluation_stops_at_a_broken_file_and_names_it(folder, workers, name):
    bad = folder / 'val' / 'a' / name
    bad.write_bytes(BAD_IMAGES[name])
    loader = folder_loader(folder, 'val', workers=workers)
    with pytest.raises(BrokenImage) as error:
        list(loader)
    assert str(error.value).startswith(f'{bad}: ')
    assert '\n' not in str(error.value)


LOST_WORKER = """
import os, signal
from vimamba.data import create_dataset, create_loader
from vimamba.data import lost_worker
from vimamba.errors import UsageError

if __name__ == '__main__':
    loader = create_loader(create_dataset('digits', split='train'), 16, training=True, seed=0, workers=2, timeout=5)
    batches = iter(loader)
    next(batches)
    try:
        os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
        list(batches)
    except (RuntimeError, ConnectionError, EOFError, UsageError) as error:  # wherever the signal found this thread
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the other worker ends too
        print(error if isinstance(error, UsageError) else lost_worker(error), flush=True)
    os._exit(0)
"""


def test_a_killed_worker_ends_the_run_with_advice(tmp_path):
    """In a process of its own: torch reports the loss by a signal, which may find a test runner anywhere."""
    script = tmp_path / 'lost.py'
    script.write_text(LOST_WORKER)
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert '/dev/shm' in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1


TOLD_ONCE = """
import os, signal
from vimamba.data import create_dataset, create_loader
from vimamba.errors import UsageError

def reset():
    raise ConnectionResetError('as of a tensor whose worker died before it was taken over')

if __name__ == '__main__':
    loader = create_loader(create_dataset('digits', split='train'), 16, training=True, seed=0, workers=1, timeout=5)
    batches = iter(loader)
    next(batches)
    told_by_torch = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker = loader._iterator._workers[0].pid
    loader._iterator._workers_done_event._cond.acquire()  # as the worker may have when it is killed
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    loader._iterator._next_data = reset
    try:
        next(batches)
    except UsageError as error:
        told_by_torch(signal.SIGCHLD, None)  # the signal comes after the error
        print(error, flush=True)
    os._exit(0)
"""


def test_a_killed_worker_is_told_of_once(tmp_path):
    script = tmp_path / 'once.py'
    script.write_text(TOLD_ONCE)
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout.startswith('DataLoader worker is gone'), done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_sigterm_ends_a_worker_from_its_own_process_alone():
    loader = training_loader(workers=1)
    batches = iter(loader)
    next(batches)
    [worker] = loader._iterator._workers
    subprocess.run(['kill', '-s', 'TERM', str(worker.pid)], check=True)
    worker.join(0.2)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_other_errors_keep_their_type():
    class Faulty(list):
        classes, sample_path = (), str

        def __getitem__(self, index):
            raise ZeroDivisionError('a bug in a transform')

    with pytest.raises(ZeroDivisionError, match='a bug in a transform'):
        next(iter(create_loader(Faulty([1, 2]), 1, training=True, seed=0)))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'batch_size': 0}, 'batch_size: expected an integer >= 1'),
        ({'batch_size': 127}, 'batch_size: expected at most the 126 training images of each process, got 127'),
        ({'batch_size': 64, 'world_size': 2}, 'at most the 63 training images'),
        ({'seed': -1}, 'seed: expected an integer >= 0'),
        ({'workers': -1}, 'workers: expected an integer >= 0'),
        ({'workers': 1, 'timeout': 0}, 'timeout: expected a number > 0'),
        ({'max_broken': 1}, 'max_broken: expected a number >= 0 and < 1'),
        ({'rank': 2, 'world_size': 2}, 'rank: expected 0 to world_size - 1'),
        ({'training': False, 'drop_last': True}, 'drop_last: expected False in evaluation'),
    ],
)
def test_a_mistake_is_answered_with_what_is_valid(options, message):
    with pytest.raises(UsageError) as error:
        create_loader(digits(), **{'batch_size': 16, 'training': True, 'seed': 0, **options})
    assert message in str(error.value)


def test_start_must_lie_in_the_epoch():
    with pytest.raises(UsageError, match='start: expected 0 to 126'):
        training_loader().sampler.set_epoch(0, 127)
