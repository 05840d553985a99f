"""A run that is cut off anywhere and taken up again ends as the undisturbed run, bit for bit.

Weights, averaged weights, optimizer, loss scale, random generators, best figure and logged losses are compared with
torch.equal, with everything on that draws random numbers or keeps state: augmentation, mixup and cutmix, drop path,
averaging, bf16, gradient accumulation whose windows do not divide the epoch. Interruptions are signals to real
processes.
"""

import signal

import pytest

from tests.runs import Fault, complete, differences, last, records, said, write_config

EVERYTHING = {
    'model': {'drop_path_rate': 0.2},
    'augment': {'style': 'small', 'degrees': 15.0, 'translate': 0.1, 're_prob': 0.3, 'mixup': 0.4, 'cutmix': 1.0,
                'smoothing': 0.1},
    'optim': {'accumulate': 2, 'clip_grad': 1.0, 'layer_decay': 0.8},
    'run': {'ema': 0.9, 'amp': 'bf16', 'checkpoint_interval': 3},
}  # fmt: skip


@pytest.fixture(scope='module')
def everything(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp('config') / 'everything.py', **EVERYTHING)


@pytest.fixture(scope='module')
def undisturbed(everything, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'undisturbed'
    code, text = complete(everything, folder)
    assert code == 0, text
    return folder


@pytest.mark.parametrize(
    ('step', 'options'),
    [
        pytest.param(8, [], id='between epochs'),
        pytest.param(13, [], id='mid-epoch'),
        pytest.param(13, ['run.checkpoint_interval=0'], id='mid-epoch, saved between epochs only'),
        pytest.param(2, [], id='before the first checkpoint'),
        pytest.param(13, ['data.workers=2'], id='mid-epoch, two workers'),
    ],
)
def test_kill_9_then_resume_is_bit_identical(everything, undisturbed, tmp_path, step, options):
    folder = tmp_path / 'run'
    code, text = complete(everything, folder, [Fault(step, 'kill')], options=options)
    assert code == -signal.SIGKILL, text
    code, text = complete(everything, folder, options=options, resume=True)
    assert code == 0, text
    assert differences(last(undisturbed), last(folder)) == []
    assert records(undisturbed) == records(folder)


def test_killed_again_and_again_is_bit_identical(everything, undisturbed, tmp_path):
    folder = tmp_path / 'run'
    for _ in range(4):
        assert complete(everything, folder, [Fault(6, 'kill')], resume=True)[0] == -signal.SIGKILL, said(folder)
    code, text = complete(everything, folder, resume=True)
    assert code == 0, text
    assert differences(last(undisturbed), last(folder)) == []


@pytest.mark.parametrize(('kind', 'code'), [('term', 143), ('int', 130)])
def test_a_signal_saves_the_step_and_says_how_to_go_on(everything, undisturbed, tmp_path, kind, code):
    folder = tmp_path / 'run'
    exit_code, text = complete(everything, folder, [Fault(9, kind)], options=['run.checkpoint_interval=0'])
    assert exit_code == code, text
    assert '--resume' in text.splitlines()[-1]
    assert last(folder)['step'] == 9  # the ninth closes a window of two in the second epoch
    exit_code, text = complete(everything, folder, resume=True)
    assert exit_code == 0, text
    assert differences(last(undisturbed), last(folder)) == []


@pytest.mark.parametrize(('kind', 'code'), [('term all', 143), ('int all', 130)])
def test_a_signal_to_the_data_workers_too_does_not_keep_the_step_from_being_saved(everything, tmp_path, kind, code):
    """As schedulers and terminals send it; the window of the eighth step needs another batch."""
    folder = tmp_path / 'run'
    options = ['run.checkpoint_interval=0', 'data.workers=2']
    exit_code, text = complete(everything, folder, [Fault(8, kind)], options=options)
    assert exit_code == code, text
    assert '--resume' in text.splitlines()[-1]
    assert last(folder)['step'] == 9


def test_a_run_in_the_folder_is_not_overwritten(everything, undisturbed):
    before = (undisturbed / 'last.pth').read_bytes()
    code, text = complete(everything, undisturbed)
    assert code == 2
    assert '--resume' in text.splitlines()[-1]
    assert (undisturbed / 'last.pth').read_bytes() == before


def test_a_lost_data_worker_stops_the_run_and_costs_one_interval(everything, undisturbed, tmp_path):
    folder = tmp_path / 'run'
    code, text = complete(everything, folder, [Fault(10, 'kill worker')], options=['data.workers=1'])
    assert code == 2, text
    assert '/dev/shm' in text.splitlines()[-1]
    assert last(folder)['step'] >= 7
    assert complete(everything, folder, resume=True)[0] == 0
    assert differences(last(undisturbed), last(folder)) == []


def test_out_of_memory_says_how_much_and_what_to_change(everything, tmp_path):
    code, text = complete(everything, tmp_path / 'run', [Fault(5, 'oom')])
    assert code == 2
    assert 'out of memory at step 5: batch of 16 x (1, 32, 32), peak 0.' in text.splitlines()[-1]
    assert 'data.batch_size' in text.splitlines()[-1]
