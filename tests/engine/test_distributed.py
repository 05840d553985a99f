"""Two processes do what one does with the same total batch: the same gradients, exact metrics, one writer."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.runs import Fault, complete, complete_distributed, last, records, said, write_config

PLAIN = {
    'optim': {'name': 'sgd', 'lr': 0.1, 'weight_decay': 0.0},
    'schedule': {'epochs': 1, 'warmup_epochs': 0, 'name': 'constant'},
    'run': {'log_interval': 1},
}


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    base = tmp_path_factory.mktemp('alone')
    config = write_config(base / 'c.py', **PLAIN)
    code, text = complete(config, base / 'run')
    assert code == 0, text
    return base / 'run'


def close(a, b):
    return all(torch.allclose(a['model'][key], b['model'][key], rtol=1e-4, atol=1e-5) for key in a['model'])


def test_two_processes_are_one_of_twice_the_batch(alone, tmp_path):
    folder = tmp_path / 'run'
    config = write_config(tmp_path / 'c.py', **{**PLAIN, 'data': {'batch_size': 8}})
    assert complete_distributed(config, folder) == [0, 0], said(folder)
    assert last(folder)['step'] == last(alone)['step'] == 7
    assert close(last(folder), last(alone))
    assert len(last(folder)['ranks']) == 2
    losses = [[r['loss'] for r in records(where) if r['kind'] == 'train'] for where in (folder, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert said(folder).count('epoch 1/1  validation') == 1  # the first process alone speaks


def test_a_start_that_fails_in_another_process_costs_no_run(alone, tmp_path):
    folder = Path(shutil.copytree(alone, tmp_path / 'run'))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = write_config(tmp_path / 'c.py')
    assert 0 not in complete_distributed(config, folder, faults=[Fault(0, 'start', rank=1)], overwrite=True)
    assert 'of rank 1 alone' in said(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_accumulation_is_a_larger_batch(tmp_path):
    ends = {}
    for batch, accumulate in ((16, 1), (8, 2)):
        folder = tmp_path / str(batch)
        data = {'batch_size': batch, 'fraction': 0.105}
        sections = {**PLAIN, 'data': data, 'optim': {**PLAIN['optim'], 'accumulate': accumulate, 'clip_grad': 0.5}}
        assert complete(write_config(tmp_path / 'c.py', **sections), folder)[0] == 0, said(folder)
        ends[batch] = last(folder)
    assert (ends[16]['step'], ends[8]['step']) == (8, 16)
    assert close(ends[16], ends[8])


def test_each_validation_image_counts_once(tmp_path):
    """With a learning rate of 0 the weights agree bit for bit, and so must the figures: 269 images on 2 processes."""
    figures = []
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        sections = {**PLAIN, 'optim': {'name': 'sgd', 'lr': 0.0, 'weight_decay': 0.0}}
        config = write_config(tmp_path / 'c.py', **sections)
        assert complete_distributed(config, folder, world_size) == [0] * world_size, said(folder)
        [record] = [r for r in records(folder) if r['kind'] == 'val']
        assert record['images'] == 269
        figures.append((record['top1'], record['top5'], pytest.approx(record['loss'], rel=1e-6)))
    assert figures[0] == figures[1]
