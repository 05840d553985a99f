"""What a user does: train from a configuration, look at what came out, test it, fine-tune it, with one-line errors."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tests.runs import records, write_config
from vimamba.checkpoint import load_checkpoint
from vimamba.engine.evaluation import evaluate_checkpoint
from vimamba.engine.train import train
from vimamba.errors import UsageError

ROOT = Path(__file__).parents[2]
VIM = {'name': 'vim_nano_patch4_32', 'img_size': 16, 'in_chans': 1, 'embed_dim': 32, 'depth': 2}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A short run by the command line: its configuration, folder and output."""
    base = tmp_path_factory.mktemp('run')
    config = write_config(
        base / 'short.py',
        data={'fraction': 1.0, 'batch_size': 64},
        optim={'lr': 3e-3},
        schedule={'epochs': 4},
        run={'tensorboard': True, 'keep': 2, 'log_interval': 10, 'ema': 0.8},
    )
    command = [sys.executable, ROOT / 'tools/train.py', config, '--work-dir', base / 'out']
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=base)
    assert done.returncode == 0, done.stderr
    return config, base / 'out', done


def test_a_run_learns_and_leaves_everything(run):
    _, folder, _ = run
    names = {path.name for path in folder.iterdir()}
    assert {'last.pth', 'best.pth', 'log.jsonl', 'train.log', 'summary.txt', 'curves.png', 'tensorboard'} <= names
    assert sorted(path.name for path in folder.glob('epoch_*')) == ['epoch_0003.pth', 'epoch_0004.pth']
    assert [path for path in folder.rglob('*') if path.name.startswith('.part')] == []
    assert any((folder / 'tensorboard').iterdir())
    with Image.open(folder / 'curves.png') as picture:
        assert picture.width > 300
    val = [r for r in records(folder) if r['kind'] == 'val']
    assert val[-1]['top1'] > 30
    assert val[-1]['loss'] < val[0]['loss']


def test_the_log_says_what_people_look_for(run):
    _, _, done = run
    first = done.stdout.splitlines()[0]
    assert 'test_vit: 0.27 M parameters' in first
    for word in ('eta', 'images/s', 'lr ', 'MiB', 'loss', 'validation', 'top1', '(best)', 'peak memory'):
        assert word in done.stdout
    assert 'mmengine' not in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) < 40


def test_best_is_the_best_and_records_what_it_is(run):
    _, folder, _ = run
    best = load_checkpoint(folder / 'best.pth')
    figures = {r['epoch']: r['top1'] for r in records(folder) if r['kind'] == 'val'}
    assert best['best']['top1'] == max(figures.values()) == figures[best['epoch']]
    assert best['classes'] == [str(digit) for digit in range(10)]
    assert best['config']['optim']['lr'] == 3e-3
    assert best['config']['model']['name'] == 'test_vit'


def test_testing_a_checkpoint_gives_the_figure_of_training(run, tmp_path):
    _, folder, _ = run
    config = folder / 'config.json'
    command = [sys.executable, ROOT / 'tools/test.py', config, folder / 'best.pth', '--json', tmp_path / 'out.json',
               '--out-dir', tmp_path / 'pictures']  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'out.json').read_text())
    best = load_checkpoint(folder / 'best.pth')['best']
    assert result['top1'] == best['top1']
    assert result['images'] == best['images'] == sum(map(sum, result['confusion']))
    confusion = np.array(result['confusion'])
    assert 100 * confusion.trace() / confusion.sum() == pytest.approx(result['top1'])
    shares = 100 * confusion.diagonal() / confusion.sum(1)
    assert list(result['per_class'].values()) == pytest.approx(shares.tolist())
    assert f'top-1 {result["top1"]:.2f} %' in done.stdout
    for name in ('confusion.png', 'predictions.png'):
        with Image.open(tmp_path / 'pictures' / name) as picture:
            picture.verify()


def test_the_test_split_is_another_one(run, capsys):
    config, folder, _ = run
    assert evaluate_checkpoint(config, folder / 'best.pth', split='test') == 0
    assert 'digits/test, 270 images' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('sections', 'split', 'says'),
    [
        pytest.param({'model': {'depth': 2}}, 'val', 'do not fit', id='another depth'),
        pytest.param(
            {'model': {'name': 'test_vit2'}}, 'val', "are of 'test_vit', not of 'test_vit2'", id='another model'
        ),
        pytest.param({}, 'vall', "did you mean 'val'", id='split'),
    ],
)
def test_testing_the_wrong_thing_is_one_line(run, tmp_path, sections, split, says):
    _, folder, _ = run
    with pytest.raises(UsageError) as caught:
        evaluate_checkpoint(write_config(tmp_path / 'c.py', **sections), folder / 'best.pth', split=split)
    assert says in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_run_is_not_resumed_into_the_folder_of_another(run, tmp_path):
    config, folder, _ = run
    other = tmp_path / 'other'
    shutil.copytree(folder, other)
    with pytest.raises(UsageError, match='holds another run'):
        train(config, work_dir=other, resume=str(folder / 'last.pth'))
    assert (other / 'last.pth').read_bytes() == (folder / 'last.pth').read_bytes()
    fresh = tmp_path / 'fresh'
    options = ['schedule.epochs=5', 'run.keep=0']
    assert train(config, options=options, work_dir=fresh, resume=str(folder / 'last.pth')) == 0
    assert load_checkpoint(fresh / 'best.pth')['epoch'] == 5  # the best of this folder


def test_an_image_that_cannot_be_evaluated_does_not_cost_the_epoch(pictures, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(pictures, root)
    bad = next((root / 'val' / 'a').iterdir())
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    data = {'name': 'folder', 'root': str(root), 'fraction': 1.0}
    config = write_config(tmp_path / 'c.py', data=data, schedule={'epochs': 1, 'warmup_epochs': 0})
    with pytest.raises(
        UsageError, match=f'{bad.name}: .*; an evaluation leaves none out: mend or remove it, then --resume'
    ):
        train(config, work_dir=tmp_path / 'run')
    assert load_checkpoint(tmp_path / 'run' / 'last.pth')['epoch'] == 1
    bad.write_bytes(good)
    assert train(config, work_dir=tmp_path / 'run', resume=True) == 0
    assert [r['kind'] for r in records(tmp_path / 'run')][-1] == 'val'
    assert (tmp_path / 'run' / 'best.pth').exists()


LEFT = {'last.pth', 'previous.pth', 'best.pth', 'epoch_0003.pth', 'epoch_0004.pth', 'log.jsonl', 'train.log',
        'summary.txt', 'curves.png', 'config.json', 'tensorboard'}  # fmt: skip


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (['data.batch_size=4096'], 'batch_size'),
        (['data.name=folder', 'data.root=/none'], 'no such folder'),
        (['model.checkpoint=none.pth'], 'no such file'),
        (['model.name=vim_nano_patch4_32', 'model.pretrained=True'], 'No pretrained weights'),
        (['optim.name=sgd', 'optim.betas=[0.9,0.99]'], 'has none'),
    ],
)
def test_a_start_that_fails_costs_no_run(run, tmp_path, options, says):
    config, folder, _ = run
    shutil.copytree(folder, tmp_path / 'run')
    with pytest.raises(UsageError, match=says):
        train(config, work_dir=tmp_path / 'run', options=options, overwrite=True)
    before, after = ({p.relative_to(top): p.is_file() and p.read_bytes() for p in top.rglob('*')}
                     for top in (folder, tmp_path / 'run'))  # fmt: skip
    assert before == after


def test_a_run_is_overwritten_with_all_that_it_left_and_nothing_else(run, tmp_path, monkeypatch):
    _, folder, _ = run
    shutil.copytree(folder, tmp_path / 'run')
    assert {path.name for path in folder.iterdir()} == LEFT
    (tmp_path / 'run' / '.part.last.pth').write_bytes(b'of a killed process')
    (tmp_path / 'run' / 'notes.txt').write_text('of the user')
    there = []
    monkeypatch.setattr(
        'vimamba.engine.loop.TrainLoop.run', lambda self: there.extend((tmp_path / 'run').iterdir()) or ()
    )
    config = write_config(tmp_path / 'c.py', schedule={'epochs': 1, 'warmup_epochs': 0})
    train(config, work_dir=tmp_path / 'run', overwrite=True)
    assert {path.name for path in there} == {'notes.txt', 'train.log'}  # before the first step
    said = (tmp_path / 'run/train.log').read_text()
    assert 'test_vit: 0.27 M parameters' in said
    assert '1 epochs' in said
    assert '4 epochs' not in said


@pytest.mark.parametrize('kept', ['epoch_0004.pth', 'summary.txt'])
def test_what_is_left_of_a_run_is_not_overwritten_unasked(run, tmp_path, kept):
    config, folder, _ = run
    (tmp_path / 'run').mkdir()
    shutil.copy(folder / kept, tmp_path / 'run')
    with pytest.raises(UsageError, match='holds a run'):
        train(config, work_dir=tmp_path / 'run')
    assert (tmp_path / 'run' / kept).read_bytes() == (folder / kept).read_bytes()


def test_a_finished_run_keeps_the_settings_it_was_trained_with(run, tmp_path):
    config, folder, _ = run
    shutil.copytree(folder, tmp_path / 'run')
    assert train(config, work_dir=tmp_path / 'run', options=['optim.lr=0.5'], resume=True) == 0
    assert json.loads((tmp_path / 'run/config.json').read_text())['optim']['lr'] == 3e-3
    options = ['optim.lr=1e-4', 'schedule.epochs=5']
    assert train(config, work_dir=tmp_path / 'run', options=options, resume=True) == 0
    assert json.loads((tmp_path / 'run/config.json').read_text())['optim']['lr'] == 1e-4


def test_a_run_that_does_not_start_leaves_nothing(tmp_path):
    (tmp_path / 'data' / 'train').mkdir(parents=True)
    (tmp_path / 'data' / 'val').mkdir()
    (tmp_path / 'data' / 'train' / 'loose.png').write_bytes(b'')
    config = write_config(tmp_path / 'c.py', data={'name': 'folder', 'root': str(tmp_path / 'data')})
    with pytest.raises(UsageError, match='expected train/<class>/<image>'):
        train(config, work_dir=tmp_path / 'runs' / 'run')
    assert not (tmp_path / 'runs').exists()


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Folders of three digits as PNG, in train/ and val/."""
    root, digits = tmp_path_factory.mktemp('pictures'), load_digits()
    for i in np.flatnonzero(digits.target < 3)[:120]:
        folder = root / ('val' if i % 5 == 0 else 'train') / 'abc'[digits.target[i]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15.9).astype(np.uint8)).resize((20, 20)).save(folder / f'{i}.png')
    return root


def test_fine_tuning_on_a_folder_starts_from_a_checkpoint(pictures, tmp_path):
    """Of another number of classes and another image size: the head is new, positions are resized, the rest is kept."""
    constant = {'name': 'constant', 'epochs': 1, 'warmup_epochs': 0}
    common = {'schedule': constant, 'optim': {'lr': 0.0, 'weight_decay': 0.0}}
    first = write_config(tmp_path / 'first.py', model=VIM, **common)
    assert train(first, work_dir=tmp_path / 'first') == 0
    model = {**VIM, 'img_size': (16, 24), 'checkpoint': str(tmp_path / 'first/last.pth')}
    text = write_config(tmp_path / 'c.py', model=model, **common).read_text()
    data = {'name': 'folder', 'root': str(pictures), 'batch_size': 8, 'workers': 0}
    second = tmp_path / 'second.py'
    second.write_text(text + f'\ndata = {data!r}\n')
    assert train(second, work_dir=tmp_path / 'second') == 0
    old, new = (load_checkpoint(tmp_path / name / 'last.pth')['model'] for name in ('first', 'second'))
    assert new['head.weight'].shape[0] == 3
    assert old['pos_embed'].shape != new['pos_embed'].shape
    assert all(torch.equal(old[key], new[key]) for key in old if not key.startswith(('head.', 'pos_embed')))


def test_a_checkpoint_of_another_model_is_not_started_from(run, tmp_path):
    _, folder, _ = run
    config = write_config(tmp_path / 'c.py', model={'depth': 7, 'checkpoint': str(folder / 'best.pth')})
    with pytest.raises(UsageError, match='12 missing'):
        train(config, work_dir=tmp_path / 'run')


def test_a_broken_training_image_is_reported_and_an_evaluation_image_is_fatal(pictures, tmp_path):
    root = shutil.copytree(pictures, tmp_path / 'pictures')
    broken = sorted((root / 'train').rglob('*.png'))[3]
    broken.write_bytes(broken.read_bytes()[:60])
    base = write_config(tmp_path / 'base.py', schedule={'epochs': 1, 'warmup_epochs': 0}).read_text()
    data = {'name': 'folder', 'root': str(root), 'batch_size': 8, 'workers': 0, 'max_broken': 0.05}
    config = tmp_path / 'c.py'
    config.write_text(base + f'\ndata = {data!r}\n')
    assert train(config, work_dir=tmp_path / 'run') == 0
    assert f'left out of training: {broken}' in (tmp_path / 'run/summary.txt').read_text()
    broken = sorted((root / 'val').rglob('*.png'))[2]
    broken.write_bytes(b'')
    with pytest.raises(UsageError, match=str(broken)):
        train(config, work_dir=tmp_path / 'again')


def test_timm_loads_a_checkpoint_of_ours(run):
    _, folder, _ = run
    model = timm.create_model(
        'test_vit', num_classes=10, in_chans=1, img_size=32, checkpoint_path=str(folder / 'best.pth')
    )
    ours = load_checkpoint(folder / 'best.pth')['model_ema']
    assert all(torch.equal(value, ours[key]) for key, value in model.state_dict().items())


def test_recomputing_activations_changes_no_weight(tmp_path):
    ends = {}
    for option in ('run.seed=0', 'run.grad_checkpointing=True'):
        folder = tmp_path / option
        config = write_config(tmp_path / 'c.py', schedule={'epochs': 1, 'warmup_epochs': 0})
        assert train(config, work_dir=folder, options=[option]) == 0
        ends[option] = load_checkpoint(folder / 'last.pth')['model']
    a, b = ends.values()
    assert all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)
