"""A checkpoint file is whole or refused, executes nothing, and fits its model or changes nothing."""

import argparse
import builtins
import functools
import importlib
import os
import pickle
import random
import runpy
import shutil
import signal
import subprocess
import time
import zipfile

import pytest
import safetensors.torch
import timm
import torch

from tests.runs import PROCESSES, complete, last, said, save_for_ever, save_with_little_room, write_config
from vimamba.checkpoint import load_checkpoint, load_weights, model_weights, save_checkpoint
from vimamba.errors import UsageError


def refused(path):
    """The one line with which a file is refused."""
    with pytest.raises(UsageError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert '\n' not in message
    return message


class Calls:
    """Pickles to an instruction to call something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(canary):
    touch = f'open({str(canary)!r}, "w").close()'
    return {
        'os.system': Calls(os.system, f'touch {canary}'),
        'subprocess.Popen': Calls(subprocess.Popen, ['touch', str(canary)]),
        'exec': Calls(exec, touch),
        'eval': Calls(eval, touch),
        'open': Calls(open, str(canary), 'w'),
        'getattr': Calls(builtins.getattr, Calls(importlib.import_module, 'os'), 'system'),
        'import_module': Calls(importlib.import_module, 'antigravity'),
        'runpy': Calls(runpy.run_path, str(canary)),
        'partial': Calls(functools.partial, os.system, f'touch {canary}'),
        'pickle.loads': Calls(pickle.loads, pickle.dumps(Calls(os.system, f'touch {canary}'))),
        'shutil.copy': Calls(shutil.copy, __file__, str(canary)),
        'in a Namespace': argparse.Namespace(lr=Calls(os.system, f'touch {canary}')),
    }


@pytest.mark.parametrize('archive', [True, False], ids=['zip', 'before torch 1.6'])
@pytest.mark.parametrize('name', list(hostile('')))
def test_a_hostile_pickle_is_refused_by_name_and_not_executed(tmp_path, name, archive):
    canary, path = tmp_path / 'canary', tmp_path / 'model.pth'
    contents = {'model': {'weight': torch.ones(1)}, 'args': hostile(canary)[name]}
    torch.save(contents, path, _use_new_zipfile_serialization=archive)
    message = refused(path)
    assert 'nothing in it was executed' in message
    function = {'os.system': 'posix.system', 'in a Namespace': 'posix.system', 'partial': 'functools.partial'}
    assert function.get(name, name.rpartition('.')[2]) in message
    assert not canary.exists()


def test_the_canary_of_these_tests_would_sing(tmp_path):
    torch.save(hostile(tmp_path / 'canary')['os.system'], tmp_path / 'model.pth')
    torch.load(tmp_path / 'model.pth', weights_only=False)
    assert (tmp_path / 'canary').exists()


def test_a_bare_pickle_is_refused(tmp_path):
    (tmp_path / 'model.pth').write_bytes(pickle.dumps(Calls(os.system, f'touch {tmp_path / "canary"}')))
    refused(tmp_path / 'model.pth')
    assert not (tmp_path / 'canary').exists()


def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)), tmp_path / 'model.pth')
    refused(tmp_path / 'model.pth')


def test_an_official_file_with_a_namespace_is_read(tmp_path):
    official = {'model': {'weight': torch.ones(2)}, 'args': argparse.Namespace(lr=0.1, betas=[0.9, 0.99])}
    torch.save(official, tmp_path / 'model.pth')
    checkpoint = load_checkpoint(tmp_path / 'model.pth')
    assert checkpoint['args'].betas == [0.9, 0.99]
    assert model_weights(checkpoint, 'model.pth')['weight'].tolist() == [1, 1]


def test_a_torch_that_can_be_tricked_reads_nothing(tmp_path, monkeypatch):
    save_checkpoint({'model': {'weight': torch.ones(1)}}, tmp_path / 'model.pth')
    monkeypatch.setattr(torch, '__version__', '2.9.1+cpu')
    assert 'torch >= 2.10' in refused(tmp_path / 'model.pth')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp('whole') / 'model.pth'
    model = timm.create_model('test_vit', num_classes=10, img_size=32)
    save_checkpoint({'model': model.state_dict(), 'epoch': 3, 'best': {'top1': 91.5}}, path)
    return path.read_bytes()


def test_any_flipped_bit_and_any_cut_is_refused(whole, tmp_path):
    path, chance = tmp_path / 'model.pth', random.Random(0)
    flips = [*range(100), *range(len(whole) - 200, len(whole)), *(chance.randrange(len(whole)) for _ in range(200))]
    for position in flips:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        refused(path)
    for size in (0, 1, 21, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(200))):
        path.write_bytes(whole[:size])
        refused(path)


def test_a_damaged_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / 'model.pth'
    torch.save({'model': {'weight': torch.arange(1000.0)}}, path)
    data = bytearray(path.read_bytes())
    assert load_checkpoint(path)['model']['weight'][7] == 7
    place = data.index(torch.arange(1000.0).numpy().tobytes()[:64])
    data[place + 40] ^= 1
    path.write_bytes(data)
    assert 'damaged' in refused(path)


def test_safetensors_are_read_and_damaged_ones_refused(tmp_path):
    path = tmp_path / 'model.safetensors'
    safetensors.torch.save_file({'weight': torch.arange(3.0)}, path)
    assert model_weights(load_checkpoint(path), path)['weight'].tolist() == [0, 1, 2]
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        refused(path)


@pytest.mark.parametrize('name', ['absent.pth', '.'])
def test_no_file_is_one_line(tmp_path, name):
    refused(tmp_path / name)


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_a_file_that_may_not_be_read_is_one_line(unprivileged, name):
    (unprivileged / name).write_bytes(b'PK\x03\x04')
    (unprivileged / name).chmod(0)
    with pytest.raises(UsageError, match=rf'^\S+/{name}: cannot be read \(Permission denied.*\)$'):
        load_checkpoint(unprivileged / name)


def test_other_programs_read_the_files(tmp_path):
    model = timm.create_model('test_vit', num_classes=10, img_size=32)
    save_checkpoint({'model': model.state_dict()}, tmp_path / 'model.pth')
    assert zipfile.ZipFile(tmp_path / 'model.pth').testzip() is None
    again = timm.create_model('test_vit', num_classes=10, img_size=32, checkpoint_path=tmp_path / 'model.pth')
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_kill_9_while_saving_leaves_a_whole_file(tmp_path):
    """100 kills at random moments; after each the file loads and is complete."""
    path, chance = tmp_path / 'last.pth', random.Random(0)
    unfinished = 0
    for _ in range(100):
        path.unlink(missing_ok=True)
        process = PROCESSES.Process(target=save_for_ever, args=(path,))
        process.start()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(chance.random() * 0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        checkpoint = load_checkpoint(path)
        assert bool((checkpoint['weight'] == checkpoint['number']).all())
        unfinished += (tmp_path / '.part.last.pth').exists()
    assert unfinished >= 10, 'too few of the kills hit a save for this test to mean anything'
    save_checkpoint({'number': 0}, path)
    assert [file.name for file in tmp_path.iterdir()] == ['last.pth'], 'what a killed save left is cleared by the next'


@pytest.mark.parametrize('room', [0, *(1 + 20_011 * i for i in range(19))])
def test_a_full_disk_leaves_the_file_before(tmp_path, room):
    path = tmp_path / 'last.pth'
    save_checkpoint({'number': 1}, path)
    messages = PROCESSES.SimpleQueue()
    process = PROCESSES.Process(target=save_with_little_room, args=(path, room, messages))
    process.start()
    message = messages.get()
    process.join()
    assert str(path) in message
    assert f'after {room} bytes' in message
    assert load_checkpoint(path) == {'number': 1}
    assert [file.name for file in tmp_path.iterdir()] == ['last.pth']


@pytest.mark.parametrize(
    ('other', 'said'),
    [
        pytest.param({'num_classes': 5}, '2 of another shape (first: head.weight, (5, 64) in the file', id='classes'),
        pytest.param({'img_size': 64}, '1 of another shape (first: pos_embed', id='size'),
        pytest.param({'depth': 3}, '36 missing (first: blocks.3', id='fewer blocks'),
        pytest.param({'depth': 7}, '12 unexpected (first: blocks.6', id='more blocks'),
    ],
)
def test_weights_of_another_model_change_nothing(other, said):
    model = timm.create_model('test_vit', num_classes=10, img_size=32, depth=6)
    weights = timm.create_model('test_vit', **{'num_classes': 10, 'img_size': 32, 'depth': 6, **other}).state_dict()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load_weights(model, weights, 'a.pth', 'test_vit')
    assert said.split(',')[0] in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp('run')
    config = write_config(base / 'small.py', schedule={'epochs': 2, 'warmup_epochs': 0})
    folder = base / 'run'
    assert complete(config, folder)[0] == 0, said(folder)
    return config, folder


def test_resume_takes_up_the_one_before_a_damaged_one(run, tmp_path):
    config, folder = run
    copy = shutil.copytree(folder, tmp_path / 'run')
    data = bytearray((copy / 'last.pth').read_bytes())
    data[len(data) // 2] ^= 1
    (copy / 'last.pth').write_bytes(data)
    code, text = complete(config, copy, resume=True)
    assert code == 0, text
    assert 'warning' in text
    assert 'damaged' in text
    assert 'previous.pth' in text
    assert all(torch.equal(a, b) for a, b in zip(last(copy)['model'].values(), last(folder)['model'].values()))


@pytest.mark.parametrize(
    ('sections', 'says'),
    [
        pytest.param({'model': {'name': 'test_vit2'}}, "are of 'test_vit', not of 'test_vit2'", id='model'),
        pytest.param({'model': {'depth': 2}}, 'unexpected', id='depth'),
        pytest.param({'optim': {'name': 'sgd'}}, "optim.name='adamw'", id='optimizer'),
        pytest.param({'optim': {'weight_decay': 0.0, 'layer_decay': 0.9}}, 'groups parameters', id='groups'),
    ],
)
def test_resume_of_another_run_is_one_line(run, tmp_path, sections, says):
    _, folder = run
    copy = shutil.copytree(folder, tmp_path / 'run')
    code, text = complete(write_config(tmp_path / 'other.py', **sections), copy, resume=True)
    assert code == 2, text
    assert says in text.splitlines()[-1]
    assert (copy / 'last.pth').read_bytes() == (folder / 'last.pth').read_bytes()


@pytest.mark.parametrize('in_the_file', [False, True])
def test_a_worker_lost_while_a_checkpoint_is_written_is_told_as_that(tmp_path, monkeypatch, in_the_file):
    """torch tells of it between any two instructions; inside its own file, the end of the file fails after it."""

    def lost(*arguments):
        try:
            raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.')
        finally:
            if in_the_file:
                raise RuntimeError('unexpected pos 3342 vs 3236')

    monkeypatch.setattr(torch, 'save', lost)
    with pytest.raises(RuntimeError, match=r'DataLoader worker \(pid 7\)'):
        save_checkpoint({'a': 1}, tmp_path / 'a.pth')
    assert not (tmp_path / 'a.pth').exists()
