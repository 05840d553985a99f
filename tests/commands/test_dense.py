"""Detection and segmentation from files to pictures: train, resume, evaluate, predict, browse; one process or two."""

import json
import pprint
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.dense_files import shapes, write_ade20k, write_coco
from tests.runs import complete, complete_distributed, differences, last, records, said, start
from tests.tasks.settings import TINY, settings
from vimamba.checkpoint import load_checkpoint
from vimamba.engine.train import train
from vimamba.tasks.predict.dense import predict_dense, restore
from vimamba.tasks.predict.files import SHOWN, predict_files
from vimamba.tasks.segmentation import SegmentationTask
from vimamba.visualize.samples import picture

ROOT = Path(__file__).parents[2]
SMALL = {
    'detection': {'name': 'detection', 'head': 'mask_rcnn', 'min_size': 64, 'max_size': 64, 'channels': 32,
                  'hidden': 32, 'mask_channels': 16, 'proposals': 50, 'samples': 16, 'anchor_scale': 5},
    'segmentation': {'name': 'segmentation', 'head': 'segformer', 'channels': 32, 'window': (64, 64)},
}  # fmt: skip
DATA = {'detection': ('coco', write_coco), 'segmentation': ('ade20k', write_ade20k)}


def write(path, task, root, /, **sections):
    """A configuration of two epochs of four steps on a data set of eight images."""
    augment = {'style': 'dense', 'color_jitter': 0.2}
    if task == 'segmentation':
        augment |= {'scale': (0.8, 1.2), 'crop': (64, 64)}
    config = {
        'task': SMALL[task],
        'model': {'name': 'test_vmamba', 'img_size': 64, 'drop_path_rate': 0.1},
        'data': {'name': DATA[task][0], 'root': str(root), 'batch_size': 2, 'workers': 0},
        'augment': augment,
        'optim': {'lr': 2e-3},
        'schedule': {'epochs': 2, 'warmup_epochs': 0.5},
        'run': {'device': 'cpu', 'log_interval': 2, 'tensorboard': False, 'ema': 0.9, 'ema_warmup': True},
    }
    merged = {name: {**config[name], **sections.get(name, {})} for name in config}
    path.write_text('\n'.join(f'{name} = {pprint.pformat(entries)}' for name, entries in merged.items()))
    return path


def tool(name, *arguments):
    command = [sys.executable, ROOT / f'tools/{name}.py', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope='module', params=['detection', 'segmentation'])
def run(request, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    root = DATA[request.param][1](base / 'data')
    config = write(base / 'c.py', request.param, root, run={'tensorboard': True})
    done = tool('train', config, '--work-dir', base / 'run')
    assert done.returncode == 0, done.stderr
    return request.param, base, config, done


def test_training_leaves_figures_and_pictures(run):
    task, base, _, done = run
    values = [r for r in records(base / 'run') if r['kind'] == 'val']
    names = {'detection': {'AP', 'AP50', 'mask_AP'}, 'segmentation': {'mIoU', 'mAcc', 'aAcc'}}[task]
    assert names <= set(values[-1])
    assert values[-1]['images'] == 4
    losses = [r['loss'] for r in records(base / 'run') if r['kind'] == 'train']
    assert losses[-1] < losses[0]
    assert 'validation' in done.stdout
    with Image.open(base / 'run/curves.png') as picture:
        picture.verify()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(base / 'run/tensorboard')).Reload()
    assert len(events.Images('val/predictions')) == 2


def test_the_table_of_a_checkpoint_is_that_of_training(run, tmp_path):
    task, base, config, _ = run
    done = tool('test', config, base / 'run/last.pth', '--json', tmp_path / 'a.json', '--out-dir', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'a.json').read_text())
    trained = [r for r in records(base / 'run') if r['kind'] == 'val'][-1]
    for name in ('AP', 'mask_AP') if task == 'detection' else ('mIoU', 'aAcc'):
        assert result[name] == pytest.approx(trained[name], abs=1e-9)
    assert ('AP50' if task == 'detection' else 'mIoU') in done.stdout
    for path in (tmp_path / 'out').glob('*.png'):
        with Image.open(path) as picture:
            assert picture.width > 200
    assert (tmp_path / 'out/predictions.png').exists()
    assert (tmp_path / 'out/confusion.png').exists() == (task == 'segmentation')


def test_predictions_of_files(run, tmp_path):
    task, base, _, _ = run
    Image.fromarray(shapes(3)[0]).save(tmp_path / 'a.png')
    Image.fromarray(np.full((50, 70), 40_000, np.uint16)).save(tmp_path / 'b.png')
    (tmp_path / 'c.png').write_bytes(b'no image')
    done = tool('predict', tmp_path, '--checkpoint', base / 'run/last.pth', '--json', tmp_path / 'o.json', '--picture',
                tmp_path / 'o.png', *(['--threshold', 0.0] if task == 'detection' else []))  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert 'c.png: not an image' in done.stderr
    result = json.loads((tmp_path / 'o.json').read_text())
    assert [Path(row['path']).name for row in result['images']] == ['a.png', 'b.png']
    for row in result['images']:
        if task == 'detection':
            for found in row['objects']:
                assert found['class'] in ('rectangle', 'disc')
                assert 0 <= found['score'] <= 1
        else:
            assert sum(row['shares'].values()) == pytest.approx(1)
    drawn = np.asarray(Image.open(tmp_path / 'o.png'))
    threshold = 1.0 if task == 'detection' else None
    sure = predict_files([f'{tmp_path}/{name}.png' for name in 'ab'], None, base / 'run/last.pth', threshold=threshold)
    images, outputs, names = zip(*((r.image, r.output, Path(r.path).name) for r in sure.found))
    expected = np.asarray(picture(task, images, None, outputs, sure.classes, names))
    assert np.array_equal(drawn, expected) == (task == 'segmentation')  # no score of this detector is 1


def test_json_holds_the_masks_of_objects_as_coco_reads_them(run, tmp_path):
    from faster_coco_eval.core import mask as coding

    task, base, _, _ = run
    Image.fromarray(shapes(3)[0]).save(tmp_path / 'a.png')
    state = load_checkpoint(base / 'run/last.pth')
    _, _, dense = restore(state, 'last.pth', [task])
    (result,) = predict_dense(dense, 3, [str(tmp_path / 'a.png')], threshold=0.0)
    if task == 'segmentation':
        assert set(result.as_json()) == {'path', 'shares'}
        return
    objects = json.loads(json.dumps(result.as_json()))['objects']
    assert len(objects) == len(result.output['masks']) > 0
    for found, mask in zip(objects, result.output['masks']):
        assert np.array_equal(coding.decode(found['mask']), mask.numpy())


def test_maps_are_written_as_they_are(run, tmp_path):
    task, base, _, _ = run
    (tmp_path / 'more').mkdir()
    Image.fromarray(shapes(3)[0]).save(tmp_path / 'a.png')
    Image.fromarray(shapes(4)[0]).save(tmp_path / 'more/b.jpg')
    predict = ('predict', tmp_path, '--checkpoint', base / 'run/last.pth', '--maps')
    done = tool(*predict, tmp_path / 'out', '--json', tmp_path / 'o.json')
    if task == 'detection':
        assert (done.returncode, done.stderr.count('\n')) == (2, 1)
        assert 'a model of detection, which makes no maps: leave --maps out' in done.stderr
        return
    assert done.returncode == 0, done.stderr
    for row in json.loads((tmp_path / 'o.json').read_text())['images']:
        labels = np.asarray(Image.open(tmp_path / 'out' / f'{Path(row["path"]).stem}.png'))
        assert labels.dtype == np.uint8
        shares = [share for name, share in row['shares'].items()]
        counts = np.bincount(labels.ravel())
        assert np.allclose(counts[counts > 0] / labels.size, shares)
    done = tool(*predict, tmp_path)
    assert done.stderr.startswith(f'error: --maps: {tmp_path / "a.png"} is an image to be read')
    Image.new('RGB', (8, 8)).save(tmp_path / 'more/a.jpg')
    done = tool(*predict, tmp_path / 'maps')
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)
    assert f'would both be {tmp_path / "maps/a.png"}' in done.stderr


def test_of_many_images_only_the_pixels_that_are_drawn_are_kept(run, tmp_path):
    _, base, _, _ = run
    for i in range(SHOWN + 2):
        Image.new('RGB', (16, 16)).save(tmp_path / f'{i:02}.png')
    (tmp_path / '00.png').write_bytes(b'')
    said = predict_files([str(tmp_path)], checkpoint=base / 'run/last.pth')
    assert [result.image is not None for result in said.found] == [True] * SHOWN + [False]
    assert [result.output is not None for result in said.found] == [True] * SHOWN + [False]
    assert len(said.broken) == 1
    assert len(said.as_json()['images']) == SHOWN + 1


def test_what_has_no_effect_is_refused(run, tmp_path):
    task, base, _, _ = run
    Image.new('RGB', (32, 32)).save(tmp_path / 'a.png')
    for option, message in [
        (('--model', 'resnet18'), "written by 'test_vmamba', not 'resnet18': leave --model out"),
        (('--views', 2, 1), f'a model of {task}, which has no views: leave --views out'),
        (('--topk', 2), f'a model of {task}, which gives a file no classes: leave --topk out'),
    ]:
        done = tool('predict', tmp_path / 'a.png', '--checkpoint', base / 'run/best.pth', *option)
        assert (done.returncode, done.stderr.count('\n')) == (2, 1)
        assert message in done.stderr


@pytest.mark.parametrize('threshold', ['1.5', '-0.1', 'nan'])
def test_a_threshold_that_is_no_score_is_refused(run, tmp_path, threshold):
    task, base, _, _ = run
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    done = tool('predict', tmp_path, '--checkpoint', base / 'run/last.pth', f'--threshold={threshold}')
    assert done.returncode == 2
    said = f'--threshold: expected a number >= 0 and <= 1, got {float(threshold)}'
    if task == 'segmentation':
        said = f'{base}/run/last.pth: a model of segmentation, which finds no boxes: leave --threshold out'
    assert done.stderr.splitlines() == [f'error: {said}']


def test_evaluation_names_a_broken_image_and_stops(run, tmp_path):
    task, base, config, _ = run
    shutil.copytree(base / 'data', tmp_path / 'data')
    broken = tmp_path / 'data' / {'detection': 'val2017/0101.png', 'segmentation': 'images/validation/101.jpg'}[task]
    broken.write_bytes(b'no image')
    done = tool('test', config, base / 'run/last.pth', '--cfg-options', f'data.root={tmp_path / "data"}')
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f'error: {broken}: not an image in a format that PIL can read; an evaluation leaves none out: mend or remove it'
    ]


def test_an_image_too_large_for_the_model_does_not_stop_the_others(tmp_path):
    config = settings('segmentation', 'local_vim', {'head': 'segformer', 'channels': 32})
    task = SegmentationTask.build(config, ['a', 'b']).eval()

    paths = [tmp_path / 'large.png', tmp_path / 'small.png']
    for path, side in zip(paths, (80, 40)):
        Image.new('RGB', (side, side)).save(path)
    large, small = predict_dense(task, 3, list(map(str, paths)))
    assert 'large.png: images: expected at most (64, 64) for this backbone, got (80, 80)' in str(large)
    assert small.output.shape == (40, 40)


def test_browsing_shows_what_is_trained_on(run, tmp_path):
    _, _, config, _ = run
    done = tool('browse', config, '--out', tmp_path / 'b.png', '--count', 4)
    assert done.returncode == 0, done.stderr
    assert '4 of 8 images' in done.stdout
    with Image.open(tmp_path / 'b.png') as picture:
        assert picture.width > 200


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_a_run_that_was_killed_ends_as_an_undisturbed_one(task, tmp_path):
    root = DATA[task][1](tmp_path / 'data')
    config = write(tmp_path / 'c.py', task, root, run={'checkpoint_interval': 1, 'ema': 0.9})
    assert complete(config, tmp_path / 'undisturbed')[0] == 0, said(tmp_path / 'undisturbed')
    process = start(config, tmp_path / 'run')
    while not (tmp_path / 'run/previous.pth').exists():
        assert process.is_alive(), said(tmp_path / 'run')
        time.sleep(0.005)
    process.kill()
    process.join()
    assert load_checkpoint(tmp_path / 'run/previous.pth')['step'] < 8
    assert complete(config, tmp_path / 'run', resume=True)[0] == 0, said(tmp_path / 'run')
    assert not differences(last(tmp_path / 'undisturbed'), last(tmp_path / 'run'))


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_two_processes_evaluate_to_the_figures_of_one(task, tmp_path):
    """Three validation images over two processes: one of them sees a repetition, which must not count."""
    root = DATA[task][1](tmp_path / 'data', val=3)
    config = write(tmp_path / 'c.py', task, root, schedule={'epochs': 1})
    assert complete_distributed(config, tmp_path / 'two') == [0, 0], said(tmp_path / 'two')
    done = tool('test', config, tmp_path / 'two/last.pth', '--json', tmp_path / 'one.json')
    assert done.returncode == 0, done.stderr
    one = json.loads((tmp_path / 'one.json').read_text())
    two = [r for r in records(tmp_path / 'two') if r['kind'] == 'val'][-1]
    assert two['images'] == one['images'] == 3
    compared = [name for name in two if name in one and name != 'images' and isinstance(one[name], float)]
    assert len(compared) >= 3
    for name in compared:
        assert two[name] == pytest.approx(one[name], abs=1e-9), name


@pytest.mark.parametrize('model', [name for name in TINY if name != 'vmamba'])
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_another_backbone_takes_one_option(task, model, tmp_path):
    """The same file, with nothing changed but the model."""
    name, _ = TINY[model]
    root = DATA[task][1](tmp_path / 'data', train=4, val=1)
    config = write(tmp_path / 'c.py', task, root, schedule={'epochs': 1, 'warmup_epochs': 0})
    assert train(config, options=[f'model.name={name}'], work_dir=str(tmp_path / 'run')) == 0
    assert load_checkpoint(tmp_path / 'run/last.pth')['config']['model']['name'] == name
