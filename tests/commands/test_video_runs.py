"""Models of clips from mp4 files to figures: train, resume, test, browse; one process or two; clips part by part."""

import json
import pprint
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.test_video_datasets import folder_of_videos, hmdb, lists, something, ucf, videos
from tests.runs import Fault, complete, complete_distributed, differences, last, records, said
from vimamba.checkpoint import load_checkpoint
from vimamba.engine.evaluation import evaluate_checkpoint
from vimamba.engine.train import train

pytest.importorskip('av')
ROOT = Path(__file__).parents[2]
EVERYTHING = {
    'style': 'clip', 'auto_augment': 'rand-m9-n3-mstd0.5-inc1', 're_prob': 0.5, 'mixup': 0.4, 'cutmix': 1.0,
    'smoothing': 0.1,
}  # fmt: skip
PLAIN = {  # where two ways of computing the same are compared
    'model': {'drop_path_rate': 0.0},
    'augment': None,
    'optim': {'name': 'sgd', 'lr': 0.1, 'weight_decay': 0.0},
    'schedule': {'epochs': 1, 'warmup_epochs': 0, 'name': 'constant'},
    'run': {'log_interval': 1},
}


def write(path, data, /, **sections):
    """A configuration of two epochs, with everything on that draws random numbers."""
    config = {
        'task': {'name': 'video'},
        'model': {'name': 'test_videomamba', 'img_size': 16, 'depth': 2, 'embed_dim': 32, 'drop_path_rate': 0.1},
        'data': {**data, 'root': str(data['root']), 'batch_size': 2, 'workers': 0, 'repeats': 2},
        'augment': EVERYTHING,
        'optim': {'lr': 2e-3},
        'schedule': {'epochs': 2, 'warmup_epochs': 0.5},
        'run': {'device': 'cpu', 'log_interval': 1, 'tensorboard': False, 'ema': 0.9, 'ema_warmup': True},
    }
    merged = {
        name: {} if sections.get(name, {}) is None else {**config[name], **sections.get(name, {})} for name in config
    }
    path.write_text('\n'.join(f'{name} = {pprint.pformat(entries)}' for name, entries in merged.items()))
    return path


def tool(name, *arguments):
    command = [sys.executable, ROOT / f'tools/{name}.py', *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def eight(tmp_path_factory):
    """Eight videos for training, three for validation."""
    root = tmp_path_factory.mktemp('eight')
    videos(root, [f'train/{name}/{i}.mp4' for name in ('run', 'walk') for i in range(4)])
    videos(root, ['val/run/0.mp4', 'val/run/1.mp4', 'val/walk/2.mp4'])
    return {'name': 'video_folder', 'root': root}


@pytest.fixture(scope='module')
def everything(eight, tmp_path_factory):
    options = {'optim': {'accumulate': 2, 'clip_grad': 1.0, 'layer_decay': 0.8}}
    run = {'amp': 'bf16', 'checkpoint_interval': 1}
    return write(tmp_path_factory.mktemp('config') / 'c.py', eight, **options, run=run)


@pytest.fixture(scope='module')
def undisturbed(everything, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'undisturbed'
    code, text = complete(everything, folder)
    assert code == 0, text
    return folder


def moving(root):
    import vimamba.data.moving_digits as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, '_CLIPS', {'train': 4, 'val': 4, 'test': 4})
        for split in ('train', 'val'):
            module.MovingDigits(root=root, split=split)
    return {'name': 'moving_digits', 'root': root}


@pytest.mark.parametrize('make', [folder_of_videos, lists, something, ucf, hmdb, moving])
def test_every_layout_trains_and_is_evaluated_over_views(tmp_path, make, capsys):
    data = make(tmp_path / 'data')
    digits = data['name'] == 'moving_digits'
    options = ['schedule.epochs=1', 'schedule.warmup_epochs=0']
    config = write(tmp_path / 'c.py', data)
    if digits:
        config.write_text(config.read_text().replace("'repeats': 2,", ''))
    assert train(config, options=options, work_dir=str(tmp_path / 'run')) == 0
    steps = [r for r in records(tmp_path / 'run') if r['kind'] == 'train']
    assert len(steps) == last(tmp_path / 'run')['step'] >= 1
    views = ['data.num_crops=3'] if digits else ['data.num_crops=3', 'data.num_clips=2']
    out = tmp_path / 'out.json'
    evaluate_checkpoint(config, tmp_path / 'run/last.pth', options=views, json_file=str(out))
    [validated] = [r for r in records(tmp_path / 'run') if r['kind'] == 'val']
    result = json.loads(out.read_text())
    assert result['videos'] == validated['videos'] == sum(map(sum, result['confusion']))
    output = capsys.readouterr().out
    assert f'{data["name"]}/val, {result["videos"]} videos' in output
    assert 'class  videos  accuracy' in re.sub(' +', '  ', output)
    log = (tmp_path / 'run/train.log').read_text()
    assert ' videos/s ' in log
    assert 'images' not in log + output


@pytest.mark.parametrize(
    ('step', 'options'),
    [
        pytest.param(5, [], id='between epochs'),
        pytest.param(7, [], id='mid-epoch'),
        pytest.param(7, ['data.workers=2'], id='mid-epoch, two workers'),
    ],
)
def test_kill_9_then_resume_is_bit_identical(everything, undisturbed, tmp_path, step, options):
    folder = tmp_path / 'run'
    code, text = complete(everything, folder, [Fault(step, 'kill')], options=options)
    assert code == -signal.SIGKILL, text
    code, text = complete(everything, folder, options=options, resume=True)
    assert code == 0, text
    assert f'resuming {folder / "last.pth"}' in text
    assert differences(last(undisturbed), last(folder)) == []
    assert records(undisturbed) == records(folder)


def test_a_worker_killed_while_it_decodes_stops_the_run_with_one_line_and_costs_one_epoch(
    everything, undisturbed, tmp_path
):
    folder = tmp_path / 'run'
    options = ['data.workers=1', 'run.checkpoint_interval=0']
    code, text = complete(everything, folder, [Fault(13, 'kill decoder')], options=options)
    assert code == 2, text
    assert text.splitlines()[-1].startswith('error: DataLoader worker ')
    assert '/dev/shm' in text.splitlines()[-1]
    assert 'Traceback' not in text
    assert last(folder)['step'] == 4
    assert complete(everything, folder, resume=True)[0] == 0, said(folder)
    assert differences(last(undisturbed), last(folder)) == []


@pytest.mark.parametrize('workers', [0, 1])
def test_broken_videos_are_told_at_the_end_or_stop_the_run_with_one_line(tmp_path, workers):
    data = folder_of_videos(tmp_path / 'data')
    bad = tmp_path / 'data/train/run/0.mp4'
    bad.write_bytes(bad.read_bytes()[:900])
    config = write(tmp_path / 'c.py', data, data={'workers': workers})
    code, text = complete(config, tmp_path / 'few', options=['data.max_broken=0.25'])
    assert code == 0, text
    assert text.count(f'{bad}: ') == 2  # when it is met, and in the report
    assert re.search(rf'left out of training: {bad}: \w', text)
    code, text = complete(config, tmp_path / 'many')
    assert code == 2
    assert text.splitlines()[-1].startswith('error: 1 of 4 training videos cannot be read, more than the 0 that')
    assert f'the first: {bad}: ' in text.splitlines()[-1]
    assert 'Traceback' not in text


@pytest.mark.parametrize('workers', [0, 1])
def test_a_broken_video_ends_an_evaluation_by_its_name(tmp_path, workers):
    data = folder_of_videos(tmp_path / 'data')
    bad = tmp_path / 'data/val/walk/1.mp4'
    bad.write_bytes(b'')
    code, text = complete(write(tmp_path / 'c.py', data, data={'workers': workers}), tmp_path / 'run')
    assert code == 2
    to_do = 'an evaluation leaves none out: mend or remove it, then --resume goes on from here'
    assert text.splitlines()[-1] == f'error: {bad}: the file is empty (0 bytes); {to_do}'
    assert 'Traceback' not in text


def test_the_table_of_a_checkpoint_is_that_of_training(everything, undisturbed, tmp_path):
    """On one view; of several, the views are averaged as probabilities."""
    out = tmp_path / 'a.json'
    said = tool('test', everything, undisturbed / 'best.pth', '--json', out, '--out-dir', tmp_path / 'out')
    best = max((r for r in records(undisturbed) if r['kind'] == 'val'), key=lambda r: r['top1'])
    result = json.loads(out.read_text())
    assert (result['videos'], 'images' in result) == (3, False)
    assert result['top1'] == pytest.approx(best['top1'], abs=1e-9)
    assert re.search(r'video_folder/val, 3 videos\ntop-1 \d+\.\d\d %   top-5 100.00 %   loss', said)
    assert re.search(r'\nrun +2 +\d+\.00\nwalk +1 +\d+\.00\n', said)
    for name in ('predictions', 'confusion'):
        with Image.open(tmp_path / f'out/{name}.png') as picture:
            assert picture.width > 100


def test_browsing_shows_the_frames_of_a_clip(everything, tmp_path):
    assert '4 of 8 videos' in tool('browse', everything, '--out', tmp_path / 'b.png', '--count', 4)
    with Image.open(tmp_path / 'b.png') as picture:
        assert picture.size == (
            4 * (96 + 4) - 4 + 32,
            4 * (96 + 2 * 24 + 16) + 16,
        )  # four frames a row, two lines below


def test_two_processes_are_one_of_twice_the_batch(eight, tmp_path):
    """The same weights after training, and the same figures over views: three videos, of which none counts twice."""
    ends, figures = {}, {}
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        data = {'batch_size': 4 // world_size, 'num_clips': 2, 'num_crops': 3}
        config = write(tmp_path / f'{world_size}.py', eight, **PLAIN, data=data)
        assert complete_distributed(config, folder, world_size) == [0] * world_size, said(folder)
        ends[world_size] = last(folder)['model']
        [figures[world_size]] = [r for r in records(folder) if r['kind'] == 'val']
    assert figures[1]['videos'] == figures[2]['videos'] == 3
    assert figures[2]['loss'] == pytest.approx(figures[1]['loss'], rel=1e-4)
    assert figures[2]['top1'] == figures[1]['top1']
    for key, value in ends[1].items():
        torch.testing.assert_close(ends[2][key], value, rtol=1e-4, atol=1e-5)


def test_torchrun_trains_as_the_recipes_say(eight, tmp_path):
    config = write(tmp_path / 'c.py', eight, **PLAIN)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
               ROOT / 'tools/train.py', config, '--work-dir', tmp_path / 'run', '--cfg-options',
               'data.batch_size=2', 'data.repeats=1']  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert last(tmp_path / 'run')['step'] == 2
    assert len(last(tmp_path / 'run')['ranks']) == 2


def test_a_clip_is_trained_part_by_part_from_the_command_line(eight, tmp_path):
    """Parts and recomputed activations change the memory that training takes, not what it learns."""
    causal = {**PLAIN, 'model': {'name': 'test_videomamba_causal', 'drop_path_rate': 0.0, 'num_frames': 8}}
    config = write(tmp_path / 'c.py', eight, **causal)
    assert train(config, work_dir=str(tmp_path / 'whole')) == 0
    memory = ['model.chunk_frames=2', 'run.grad_checkpointing=True']
    tool('train', config, '--work-dir', tmp_path / 'parts', '--cfg-options', *memory)
    written = load_checkpoint(tmp_path / 'parts/last.pth')['config']
    assert (written['model']['options'], written['run']['grad_checkpointing']) == (
        {'chunk_frames': 2, 'depth': 2, 'embed_dim': 32, 'num_frames': 8},
        True,
    )
    losses = [[r['loss'] for r in records(tmp_path / name) if r['kind'] == 'train'] for name in ('whole', 'parts')]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for key, value in last(tmp_path / 'whole')['model'].items():
        torch.testing.assert_close(last(tmp_path / 'parts')['model'][key], value, rtol=1e-4, atol=1e-5)


def test_a_length_of_parts_that_cannot_be_is_one_line(eight, tmp_path):
    config = write(tmp_path / 'c.py', eight)
    code, text = complete(config, tmp_path / 'run', options=['model.chunk_frames=2'])
    assert code == 2
    assert 'chunk_frames: expected 0, or a causal model (causal=True), got 2' in text.splitlines()[-1]
