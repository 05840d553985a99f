"""Training runs for tests: real processes that can be killed, forked from one that has made the slow imports."""

import contextlib
import itertools
import json
import multiprocessing
import os
import pprint
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.data import get_worker_info

from vimamba.checkpoint import load_checkpoint, save_checkpoint
from vimamba.engine.train import train
from vimamba.errors import UsageError, run
from vimamba.tasks import TASKS, ClassificationTask, VideoTask

PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload(['tests.runs', 'sklearn.datasets', 'vimamba.data.transforms'])

SMALL = {  # 7 steps of 16 digits an epoch, a model of 0.04 M parameters; about a second
    'model': {'name': 'test_vit', 'in_chans': 1, 'img_size': 32},
    'data': {'name': 'digits', 'fraction': 0.1, 'batch_size': 16, 'workers': 0, 'crop_pct': 1.0},
    'augment': {},
    'optim': {'lr': 2e-3},
    'schedule': {'epochs': 3, 'warmup_epochs': 1},
    'run': {'device': 'cpu', 'log_interval': 2, 'tensorboard': False},
}


def write_config(path: Path, **sections) -> Path:
    """`SMALL` with other entries, as a file."""
    merged = {name: {**SMALL[name], **sections.get(name, {})} for name in SMALL}
    path.write_text('\n'.join(f'{name} = {pprint.pformat(entries)}' for name, entries in merged.items()))
    return path


class Fault:
    """Something that happens in the training forward pass of one step, counted from 1 in each process.

    Args:
        step: which.
        kind: 'kill' (SIGKILL to the own process), 'term' (SIGTERM), 'int' (SIGINT), 'term all' and 'int all' (to the
            data workers, too), 'nan' (in a weight), 'nan input', 'nan gradient', 'inf output', 'oom', 'kill worker'
            (SIGKILL to a data worker), 'kill decoder' (of a data worker while it reads its video of this number),
            'start' (no optimizer can be made).
        rank: only in this process.
    """

    def __init__(self, step, kind, rank=0):
        self.step, self.kind, self.rank = step, kind, rank

    def refuse(self):
        raise UsageError(f'of rank {self.rank} alone')

    def strike(self, task, images):
        number = {'kill': signal.SIGKILL, 'term': signal.SIGTERM, 'int': signal.SIGINT}.get(self.kind)
        if number:
            os.kill(os.getpid(), number)
        elif self.kind in ('term all', 'int all'):  # by another process, as a scheduler or a terminal does
            command = ['kill', '-s', self.kind.split()[0].upper(), '--', f'-{os.getpgrp()}']
            subprocess.run(command, check=True, start_new_session=True)
        elif self.kind == 'kill worker':
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        elif self.kind == 'oom':
            raise torch.OutOfMemoryError('CUDA out of memory')
        elif self.kind == 'nan':
            with torch.no_grad():
                task.model.blocks[1].mlp.fc1.weight[0, 0] = torch.nan
        elif self.kind == 'nan input':
            images[0, 0, 0, 0] = torch.nan
        elif self.kind == 'nan gradient':
            task.model.blocks[2].attn.proj.weight.register_hook(lambda grad: grad * torch.nan)
        elif self.kind == 'inf output':
            task.model.blocks[1].attn.register_forward_hook(lambda module, inputs, output: output * torch.inf)


class Faulty:
    """A task in which `Fault`s happen."""

    faults: tuple = ()
    steps = 0

    def forward(self, images, targets=None, mode='predict'):
        if mode == 'loss':
            type(self).steps += 1
            for fault in self.faults:
                if fault.step == type(self).steps and fault.rank == int(os.environ.get('RANK', 0)):
                    fault.strike(self, images)
        return super().forward(images, targets, mode)


class FaultyTask(Faulty, ClassificationTask):
    @classmethod
    def build(cls, config, classes, with_weights=True):
        task = super().build(config, classes, with_weights)
        for fault in cls.faults:
            if fault.kind == 'start' and fault.rank == int(os.environ.get('RANK', 0)):
                task.model.no_weight_decay = fault.refuse
        return task


class FaultyVideoTask(Faulty, VideoTask):
    @classmethod
    def dataset(cls, config, split, training):
        dataset = super().dataset(config, split, training)
        numbers, choose = itertools.count(1), dataset.choose
        fatal = [fault.step for fault in cls.faults if fault.kind == 'kill decoder' and training]

        def chosen(frames):  # the file is open meanwhile
            if get_worker_info() and next(numbers) in fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return choose(frames)

        dataset.choose = chosen
        return dataset


def _child(log, environment, config, faults, keywords):
    os.setpgrp()  # a signal to all processes of the run is not one to those of the tests
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.update(environment)
    torch.set_num_threads(1)
    Faulty.faults = faults
    TASKS.update(classification=FaultyTask, video=FaultyVideoTask)
    run(lambda: train(config, **keywords))


def start(config, folder, faults=(), environment=None, **keywords):
    """Starts a run in a process of its own; what it says goes to ``folder.out``."""
    arguments = (f'{folder}.out', environment or {}, config, tuple(faults), {'work_dir': str(folder), **keywords})
    process = PROCESSES.Process(target=_child, args=arguments)
    process.start()
    return process


def finish(process, timeout=120):
    """The exit code; negative for a signal."""
    process.join(timeout)
    assert process.exitcode is not None, 'the run hangs'
    return process.exitcode


def complete(config, folder, faults=(), **keywords):
    """Runs to the end of the process; the exit code and what it said."""
    code = finish(start(config, folder, faults, **keywords))
    return code, said(folder)


def said(folder):
    return Path(f'{folder}.out').read_text()


def complete_distributed(config, folder, world_size=2, faults=(), **keywords):
    """Runs with several gloo processes, as torchrun would start them; the exit codes."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(world_size):
        place = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': world_size, 'MASTER_PORT': port}
        environment = {'MASTER_ADDR': '127.0.0.1', **{key: str(value) for key, value in place.items()}}
        ranks.append(start(config, folder, faults, environment, **keywords))
    return [finish(process) for process in ranks]


def differences(a, b, path=''):
    """Where two checkpoints differ in any bit; torch.equal on tensors."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b}, key=str)
        return [d for key in keys for d in differences(a.get(key), b.get(key), f'{path}.{key}')]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f'{path}.{i}')]
    return [] if a == b or (a != a and b != b) else [path]


def last(folder):
    """``last.pth`` without the settings that may differ."""
    checkpoint = load_checkpoint(Path(folder) / 'last.pth')
    return {key: value for key, value in checkpoint.items() if key != 'config'}


def records(folder):
    """``log.jsonl`` without times and memory."""
    lines = (Path(folder) / 'log.jsonl').read_text().splitlines()
    measured = ('images_per_second', 'videos_per_second', 'memory_mib')
    return [{k: v for k, v in json.loads(line).items() if k not in measured} for line in lines]


def save_for_ever(path):
    number = 0
    while True:
        number += 1
        save_checkpoint({'number': number, 'weight': torch.full((200_000,), float(number))}, path)


def save_with_little_room(path, room, messages):
    """Saves where no file may exceed ``room`` bytes; puts the error into a queue."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        save_checkpoint({'number': 2, 'weight': torch.zeros(100_000)}, path)
    except UsageError as error:
        messages.put(str(error))
