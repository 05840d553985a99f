"""A mistake in a configuration is one line with file:line and the nearest valid name, before any data is read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import write_config
from vimamba.config import schema
from vimamba.config.reading import read_config
from vimamba.config.schema import Config, check
from vimamba.data.factory import DATASETS, arguments_of, options_of
from vimamba.engine.train import train
from vimamba.errors import UsageError
from vimamba.models.videomamba import VideoMamba
from vimamba.tasks import ClassificationTask, describe, load_task

ROOT = Path(__file__).parents[2]
GOOD = """\
model = dict(
    name='test_vit',
    img_size=32,
)
data = dict(
    name='folder',
    root='/does/not/exist',
    batch_size=16,
)
augment = dict(
    style='small',
    degrees=5.0,
)
optim = dict(
    name='adamw',
    lr=1e-3,
)
schedule = dict(
    name='cosine',
    epochs=3,
    warmup_epochs=1,
)
run = dict(
    seed=1,
    amp='bf16',
)
"""
MISTAKES = [  # the line that is wrong, what it becomes, what the message says
    (2, "    name='vim_tinny_patch16_224',", "did you mean 'vim_tiny_patch16_224'"),
    (2, "    nme='test_vit', name='test_vit',", 'nme'),
    (3, '    img_siz=32,', "did you mean 'img_size'"),
    (3, "    img_size='32',", 'expected an integer'),
    (3, '    img_size=-1,', 'an integer >= 1'),
    (3, '    drop_path_rate=2,', 'a number >= 0 and <= 1'),
    (6, "    name='digit', ", "did you mean 'digits'"),
    (8, '    batchsize=16,', "did you mean 'batch_size'"),
    (8, '    batch_size=16.5,', 'expected an integer'),
    (8, '    batch_size=True,', 'expected an integer'),
    (8, '    mean=(0.5, "x"),', 'each a number'),
    (10, 'augmnt = dict(', "did you mean 'augment'"),
    (11, "    style='smal',", "did you mean 'small'"),
    (12, '    degres=5.0,', "did you mean 'degrees'"),
    (12, '    mixup=-1,', 'a number >= 0'),
    (15, "    name='adamww',", "did you mean 'adamw'"),
    (16, '    learning_rate=1e-3,', 'known: '),
    (16, "    lr='1e-3',", 'a number has no quotes'),
    (16, '    lr=0.1 accumulate=2', 'invalid syntax'),
    (19, "    name='cosin',", "did you mean 'cosine'"),
    (21, '    warmup_epochs=3,', 'less than schedule.epochs'),
    (21, '    warmup_epochs=1, min_lr=0.1,', 'at most optim.lr'),
    (16, '    lr=1e-6,', 'optim.lr: expected at least schedule.min_lr'),
    (23, 'runn = dict(', "did you mean 'run'"),
    (24, '    sed=1,', "did you mean 'seed'"),
    (25, "    amp='bf17',", "did you mean 'bf16'"),
    (25, '    ema=1.0,', '< 1'),
]


@pytest.mark.parametrize(('line', 'text', 'says'), MISTAKES, ids=[text.strip() for _, text, _ in MISTAKES])
def test_a_mistake_is_answered_where_it_is(tmp_path, line, text, says):
    lines = GOOD.splitlines()
    lines[line - 1] = text
    path = tmp_path / 'c.py'
    path.write_text('\n'.join(lines))
    with pytest.raises(UsageError) as caught:
        train(path, work_dir=tmp_path / 'run')
    message = str(caught.value)
    assert message.startswith(f'{path}:{line}: '), message
    assert says in message
    assert '\n' not in message
    assert not (tmp_path / 'run').exists()


def test_without_a_mistake_the_data_is_next(tmp_path):
    (tmp_path / 'c.py').write_text(GOOD)
    with pytest.raises(UsageError, match='/does/not/exist: no such folder'):
        train(tmp_path / 'c.py', work_dir=tmp_path / 'run')


def test_a_mistake_in_a_base_and_in_an_option_is_found(tmp_path):
    (tmp_path / 'base.py').write_text(GOOD.replace('seed', 'sed'))
    (tmp_path / 'c.py').write_text("_base_ = 'base.py'")
    with pytest.raises(UsageError, match=r"base\.py:24: .*did you mean 'seed'"):
        check(read_config(tmp_path / 'c.py'))
    (tmp_path / 'c.py').write_text(GOOD)
    with pytest.raises(UsageError, match=r"--cfg-options optim\.lrr: .*did you mean 'lr'"):
        check(read_config(tmp_path / 'c.py', ['optim.lrr=1']))


@pytest.mark.parametrize(
    ('sections', 'says'),
    [
        pytest.param({'model': {'drop_pth_rate': 0.1}}, "did you mean 'drop_path_rate'", id='argument'),
        pytest.param({'model': {'checkpoint_path': 'a.pth'}}, 'weights come from model.pretrained', id='factory'),
        pytest.param({'model': {'img_size': (32, 33)}}, 'does not take (1, 32, 33) images', id='size'),
        pytest.param({'data': {'batch_size': 15}, 'augment': {'mixup': 0.2}}, 'an even number', id='odd mixup'),
        pytest.param({'data': {'fold': 7}}, 'fold', id='fold'),
        pytest.param({'data': {'batch_size': 4096}}, 'batch_size', id='large batch'),
        pytest.param(
            {'augment': {'style': 'small', 'hflip': 3.0}},
            'augment.hflip: expected a number >= 0 and <= 1',
            id='probability',
        ),
        pytest.param({'optim': {'name': 'sgd', 'betas': (0.9, 0.99)}}, "'sgd' has none", id='betas of sgd'),
        pytest.param({'model': {'checkpoint': 'absent.pth'}}, 'absent.pth: no such file', id='no checkpoint'),
        pytest.param({'model': {'name': 'test_mamba_nd_2d'}}, '', id='images of a family that takes clips too'),
        pytest.param({'model': {'name': 'test_byobnet'}, 'run': {'grad_checkpointing': True}}, '', id='fine'),
    ],
)
def test_what_only_building_can_tell_is_one_line_too(tmp_path, sections, says):
    path = write_config(tmp_path / 'c.py', schedule={'epochs': 1, 'warmup_epochs': 0}, **sections)
    if not says:
        assert train(path, work_dir=tmp_path / 'run') == 0
        return
    with pytest.raises(UsageError) as caught:
        train(path, work_dir=tmp_path / 'run')
    assert says in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('option', 'says'),
    [
        ('augment.hflip=2', 'augment.hflip: expected a number >= 0 and <= 1, got 2'),
        ('augment.auto_augment=rnd', "augment.auto_augment: Unknown AA policy rnd, got 'rnd'"),
        ('augment.color_jitter=much', 'augment.color_jitter: expected a number >= 0'),
        ('augment.re_mode=x', "augment.re_mode: unknown re_mode 'x': known: const, pixel, rand"),
        ('model.tubelet_size=3', 'num_frames: expected a positive multiple of tubelet_size, 3, got 4'),
        ('model.pretrained=True', 'No pretrained weights exist'),
        ('model.scan=hilbrt', "did you mean 'hilbert'?"),
        ('data.sampling=unifrom', "unknown sampling 'unifrom': did you mean 'uniform'?"),
        ('data.time=sideways', "unknown time 'sideways': known: backward"),
        ('data.interpolation=cubic', 'data.interpolation: expected'),
        ('data.crop_pct=7', 'data.crop_pct: expected a number > 0 and <= 1'),
        ('data.batch_size=99', 'data.batch_size: expected at most the 4 training videos'),
    ],
)
def test_a_value_that_cannot_be_is_answered_where_it_was_given(tmp_path, option, says):
    """On the command line, or in its line of the file; which of the two tells that it is not the other by chance."""
    for part in ('train', 'val'):
        (tmp_path / f'{part}.txt').write_text('a.mp4 0\nb.mp4 1\n' * 2)
    key, _, value = option.partition('=')
    section, _, key = key.partition('.')
    value = repr(value) if value[0].islower() else value
    sections = {
        'task': {'name': "'video'"},
        'model': {'name': "'test_videomamba_causal'", 'img_size': '32', 'depth': '2'},
        'data': {'name': "'video_list'", 'root': repr(str(tmp_path)), 'batch_size': '2', 'workers': '0'},
        'augment': {'style': "'clip'"},
    }
    for given in (True, False):
        entries = {name: dict(entries) for name, entries in sections.items()}
        if not given:
            entries[section].pop(key, None)
            entries[section][key] = value
        lines = [line for name, own in entries.items()
                 for line in (f'{name} = dict(', *(f'    {k}={v},' for k, v in own.items()), ')')]  # fmt: skip
        (path := tmp_path / 'c.py').write_text('\n'.join(lines))
        where = f'--cfg-options {section}.{key}: '
        if not given:
            where = f'{path}:{lines.index(f"    {key}={value},") + 1}: '
        with pytest.raises(UsageError) as caught:
            train(path, work_dir=tmp_path / 'run', options=[option] * given)
        if key == 'tubelet_size':  # the model names num_frames, which is not written
            where = f'{path}:'
        assert str(caught.value).startswith(where), caught.value
        assert says in str(caught.value)
        assert 'imagenet' not in str(caught.value)


def test_an_unknown_argument_is_answered_with_those_that_the_model_takes(tmp_path):
    """Those of its base too, and none that it takes in general or refuses."""
    path = write_config(tmp_path / 'c.py', model={'name': 'vim_nano_patch4_32'})
    for wrong, near in (('options', ''), ('patch_sze', 'patch_size'), ('num_clsses', '')):
        with pytest.raises(UsageError, match=f'model.{wrong}: unknown argument of model') as caught:
            train(path, work_dir=tmp_path / 'run', options=[f'model.{wrong}=1'])
        assert (f"did you mean '{near}'?" in str(caught.value)) == bool(near)
    names = {parameter.name for parameter in arguments_of(VideoMamba)}
    assert {'depth', 'embed_dim', 'patch_size', 'scan', 'causal'} <= names
    assert not {'self', 'options'} & names


def test_every_key_is_documented_and_has_a_default():
    text = describe()
    for section in schema._SECTIONS:
        for name in schema.keys_of(section):
            [line] = [line for line in text.splitlines() if line.startswith(f'    {name} = ')][:1] or [None]
            assert line, f'{section}.{name}'
            assert len(line.split(maxsplit=3)) == 4, f'{section}.{name} has no meaning'


@pytest.mark.parametrize(('task', 'name'), [(task, name) for task, names in DATASETS.items() for name in names])
def test_the_options_of_a_data_set_are_listed_as_they_are_taken(tmp_path, task, name):
    """What is listed can be written into a configuration as it stands."""
    [line] = [line for line in describe().splitlines() if line.split(':')[0] == f'    {task} {name}']
    listed = line.partition(': ')[2]
    file = tmp_path / 'a.py'
    file.write_text(f"task = dict(name='{task}')\nmodel = dict(name='a')\ndata = dict(name='{name}', {listed})\n")
    options = check(read_config(file)).data.options
    assert list(options) == re.findall(r'(\w+)=', listed)
    dataset = {key: value for key, value in options.items() if key != 'num_crops'}
    assert dataset.items() <= options_of(DATASETS[task][name]).items()
    assert ('num_crops' in options) == ('num_clips' in options) == (task == 'video')


@pytest.mark.parametrize('path', sorted(ROOT.glob('configs/classification/*.py')), ids=lambda path: path.stem)
def test_every_configuration_that_is_delivered_is_valid(path):
    config, task = load_task(path)
    assert isinstance(config, Config)
    assert task is ClassificationTask
    assert task.trial(config).preprocessing.input_size[0] in (1, 3)


def test_the_tool_from_anywhere_without_an_install(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/train.py', '--help-config'],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env={key: value for key, value in os.environ.items() if key != 'PYTHONPATH'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'layer_decay' in done.stdout
