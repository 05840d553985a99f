"""A NaN or infinity stops a run before it reaches the weights, and the message says when, where and what to try."""

import pytest
import torch

from tests.runs import Fault, complete, complete_distributed, last, said, write_config

EVERY_STEP = {'run': {'checkpoint_interval': 1}}


def stopped(config, folder, kind, step, **keywords):
    code, text = complete(config, folder, [Fault(step, kind)], **keywords)
    assert code == 2, text
    message = text.splitlines()[-1]
    assert f'at step {step} (epoch 2, batch {step - 7}) on rank 0' in message
    return message


@pytest.mark.parametrize(
    ('kind', 'where'),
    [
        pytest.param('nan input', 'the images of the batch', id='an image'),
        pytest.param('nan', 'the weights blocks.1.mlp.fc1.weight', id='a weight'),
        pytest.param('inf output', 'the output of blocks.1.attn', id='an activation'),
        pytest.param('nan gradient', 'blocks.2.attn.proj.weight', id='a gradient'),
    ],
)
def test_the_weights_stay_those_of_the_step_before(tmp_path, kind, where):
    config, folder = write_config(tmp_path / 'c.py', **EVERY_STEP), tmp_path / 'run'
    message = stopped(config, folder, kind, 10)
    assert f'first in {where};' in message
    kept = last(folder)
    assert kept['step'] == 9
    assert all(torch.isfinite(value).all() for value in kept['model'].values())
    undisturbed = tmp_path / 'undisturbed'
    complete(config, undisturbed, [Fault(10, 'term')])  # saved after step 10: the one before it is that of step 9
    before = torch.load(undisturbed / 'previous.pth')
    assert before['step'] == 9
    assert all(torch.equal(before['model'][key], value) for key, value in kept['model'].items())


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_mixed_precision_is_watched_too(tmp_path, amp):
    config = write_config(tmp_path / 'c.py', run={'amp': amp})
    assert 'the output of blocks.1.attn' in stopped(config, tmp_path / 'run', 'inf output', 8)


def test_the_rank_is_named(tmp_path):
    folder = tmp_path / 'run'
    config = write_config(tmp_path / 'c.py', data={'batch_size': 8}, run={'checkpoint_interval': 1})
    codes = complete_distributed(config, folder, faults=[Fault(3, 'inf output', rank=1)])
    assert codes[1] == 2
    assert codes[0] != 0
    assert 'at step 3 (epoch 1, batch 3) on rank 1, first in the output of blocks.1.attn' in said(folder)
    assert last(folder)['step'] == 2
