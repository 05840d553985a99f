"""Promises: labels are the model's own, never of random weights; a broken file costs only itself."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

import vimamba  # noqa: F401
from tests.data.bad_images import BAD_IMAGES, write_bad_images
from vimamba.checkpoint import FORMAT, save_checkpoint
from vimamba.commands.predict import main
from vimamba.data import create_dataset, create_transform
from vimamba.errors import UsageError, run
from vimamba.tasks.predict.classify import load_classifier, predict

TOOL = Path(__file__).parents[2] / 'tools' / 'predict.py'
NANO = {'in_chans': 1, 'img_size': 16, 'depth': 2, 'embed_dim': 32}
CLASSES = [f'digit {i}' for i in range(10)]


def nano(num_classes=10, seed=0, **options):
    torch.manual_seed(seed)
    model = timm.create_model('vim_nano_patch4_32', num_classes=num_classes, **{**NANO, **options})
    torch.nn.init.normal_(model.get_classifier().weight)  # so that the classes differ
    return model.eval()


@pytest.fixture
def checkpoint(tmp_path):
    """As training writes it: the averaged weights are the ones to use."""
    model = {'name': 'vim_nano_patch4_32', 'pretrained': True, 'checkpoint': 'gone.pth', 'img_size': 16, 'in_chans': 1}
    model |= {'drop_path_rate': 0.1, 'options': {'depth': 2, 'embed_dim': 32}}
    data = {'name': 'digits', 'mean': (0.4,), 'std': (0.3,), 'interpolation': None, 'crop_pct': 1.0}
    content = {
        'format': FORMAT,
        'model': nano(seed=1).state_dict(),
        'model_ema': nano().state_dict(),
        'classes': CLASSES,
        'config': {'model': model, 'data': data},
    }
    save_checkpoint(content, tmp_path / 'best.pth')
    return tmp_path / 'best.pth'


@pytest.fixture
def images(tmp_path):
    digits = create_dataset('digits', split='test')
    (folder := tmp_path / 'images').mkdir()
    for i in range(6):
        Image.fromarray(digits.images[i]).resize((8 + i, 9)).save(folder / f'{i}.png')
    return sorted(map(str, folder.iterdir()))


def probabilities(images):
    transform = create_transform(training=False, input_size=(1, 16, 16), mean=[0.4], std=[0.3], crop_pct=1.0)
    with torch.inference_mode():
        return nano()(torch.stack([transform(Image.open(path)) for path in images])).softmax(1)


def agree(found, expected):
    assert len(found) == len(expected)
    for prediction, row in zip(found, expected):
        values, indices = row.topk(len(prediction.scores))
        assert prediction.indices == indices.tolist()
        assert prediction.scores == pytest.approx(values.tolist(), abs=1e-5)


@pytest.fixture
def tool(capsys):
    """Runs the command in this process; gives exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            run(lambda: main(['--device', 'cpu', *map(str, arguments)]))
        return end.value.code, *capsys.readouterr()

    return call


def test_the_command_needs_only_the_core_and_a_broken_file_costs_only_itself(checkpoint, images, tmp_path):
    write_bad_images(tmp_path / 'images')
    extras = ('mmengine', 'albumentations', 'cv2', 'matplotlib', 'sklearn', 'tensorboard')
    start = (
        f'import sys, runpy; sys.modules.update(dict.fromkeys({extras})); sys.argv = sys.argv[1:]; '
        f'sys.path.insert(0, {str(TOOL.parent)!r}); '
        'runpy.run_path(sys.argv[0], run_name="__main__")'
    )
    command = [sys.executable, '-c', start, TOOL, tmp_path / 'images', '--checkpoint', checkpoint, '--topk', '3']
    command += ['--json', tmp_path / 'out.json', '--picture', tmp_path / 'out.png', '--batch-size', '4']
    ended = subprocess.run([*map(str, command), '--device', 'cpu'], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 1
    errors = ended.stderr.splitlines()
    assert len(errors) == len(BAD_IMAGES)
    for name in BAD_IMAGES:
        assert sum(line.startswith(f'error: {tmp_path / "images" / name}: ') for line in errors) == 1
    result = json.loads((tmp_path / 'out.json').read_text())
    assert [entry['path'] for entry in result['images']] == images
    for entry, row in zip(result['images'], probabilities(images)):
        values, indices = row.topk(3)
        assert [p['index'] for p in entry['predictions']] == indices.tolist()
        assert [p['class'] for p in entry['predictions']] == [CLASSES[i] for i in indices]
        assert [p['score'] for p in entry['predictions']] == pytest.approx(values.tolist(), abs=1e-5)
    assert {entry['path'] for entry in result['broken']} == {str(tmp_path / 'images' / name) for name in BAD_IMAGES}
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ['image', 'score', 'class']
    assert len(lines) == 1 + 3 * len(images)
    assert len({line.index('%') for line in lines[1:]}) == 1  # aligned
    with Image.open(tmp_path / 'out.png') as picture:
        assert np.asarray(picture).std() > 0


def test_json_on_the_terminal_is_json_alone(tool, checkpoint, images):
    code, out, err = tool(*images[:2], '--checkpoint', checkpoint, '--json', '-')
    assert (code, err) == (0, '')
    assert [len(entry['predictions']) for entry in json.loads(out)['images']] == [5, 5]


@pytest.mark.parametrize('batch_size', [1, 4, 6, 100])
def test_order_and_labels_do_not_depend_on_the_batch(checkpoint, images, batch_size):
    paths = [*images[3:], *images[:3], images[0]]
    found = list(predict(load_classifier(checkpoint=checkpoint), paths, topk=99, batch_size=batch_size))
    assert [p.path for p in found] == paths
    assert all(len(p.scores) == 10 and sum(p.scores) == pytest.approx(1) for p in found)
    agree(found, probabilities(paths))


@pytest.mark.parametrize('num_classes', [3, 1000])
def test_official_files_bring_their_own_number_of_classes(num_classes, tmp_path):
    model = nano(num_classes, in_chans=3, img_size=32, depth=4, embed_dim=64)
    torch.save({'model': model.state_dict(), 'args': argparse.Namespace(lr=1.0)}, tmp_path / 'official.pth')
    Image.effect_noise((40, 50), 90).convert('RGB').save(tmp_path / 'photo.png')
    classifier = load_classifier('vim_nano_patch4_32', tmp_path / 'official.pth')
    words = ImageNetInfo().label_descriptions()
    assert classifier.classes == (words if num_classes == 1000 else ['0', '1', '2'])
    with Image.open(tmp_path / 'photo.png') as photo, torch.inference_mode():
        expected = model(classifier.transform(photo)[None]).softmax(1)
    agree(list(predict(classifier, [str(tmp_path / 'photo.png')])), expected)


def test_weights_that_are_not_finite_are_not_believed(checkpoint, images):
    classifier = load_classifier(checkpoint=checkpoint)
    torch.nn.init.constant_(classifier.model.get_classifier().bias, float('nan'))
    with pytest.raises(UsageError, match='not finite'):
        list(predict(classifier, images))


def mistakes(checkpoint, images):
    """Arguments and what is answered."""
    folder = checkpoint.parent
    (folder / 'empty').mkdir()
    (folder / 'text.pth').write_text('no weights')
    torch.save({'model': nano(depth=1).state_dict()}, folder / 'other.pth')
    with_ours = (images[0], '--checkpoint', checkpoint)
    return [
        ((folder / 'nowhere', '--checkpoint', checkpoint), 'nowhere: no such file or folder'),
        ((folder / 'empty', '--checkpoint', checkpoint), 'no images found in'),
        ((images[0],), 'no model given: add --model NAME, --checkpoint FILE, or both'),
        ((images[0], '--model', 'vim_nan_patch4_32'), "unknown model 'vim_nan_patch4_32': did you mean 'vim_nano"),
        ((images[0], '--model', 'vim_nano_patch4_32'), 'has no published weights: give --checkpoint FILE'),
        ((images[0], '--checkpoint', folder / 'other.pth'), 'does not name its model: add --model NAME'),
        ((images[0], '--checkpoint', folder / 'other.pth', '--model', 'vim_nano_patch4_32'), 'do not fit'),
        ((images[0], '--checkpoint', folder / 'text.pth'), 'text.pth: '),
        ((images[0], '--checkpoint', folder / 'none.pth'), 'none.pth: no such file'),
        ((*with_ours, '--model', 'resnet18'), "written by 'vim_nano_patch4_32', not 'resnet18': leave --model out"),
        ((*with_ours, '--picture', 'labels.pdf'), '--picture labels.pdf: expected a file name that ends in .png'),
        ((*with_ours, '--device', 'cdua'), "unknown --device 'cdua': did you mean 'cuda'? known: auto, cpu, cuda, mps"),
        ((*with_ours, '--threshold', '0.5'), 'a model of classification, which finds no boxes: leave --threshold out'),
        (('--checkpoint', checkpoint), 'no images given: name files or folders of them'),
        ((*with_ours, '--topk', '0'), '--topk: expected an integer >= 1, got 0'),
        ((*with_ours, '--json', folder), f'--json {folder}: is a folder: choose another place'),
        ((*with_ours, '--json', '/proc/out.json'), '--json /proc/out.json: No such file or directory: choose another'),
        ((*with_ours, '--json', '/dev/full'), '/dev/full: cannot be written (No space left on device): make room'),
        ((*with_ours, '--picture', '/proc/none/out.png'), '--picture /proc/none/out.png: No such file or directory'),
    ]


def test_a_mistake_ends_in_one_line_that_says_what_to_do(tool, checkpoint, images):
    for arguments, message in mistakes(checkpoint, images):
        code, _, err = tool(*arguments)
        assert (code, err.count('\n')) == (2, 1), (arguments, err)
        assert err.startswith('error: ')
        assert message in err


@pytest.mark.skipif(torch.backends.mps.is_available(), reason='it is there')
def test_a_device_that_is_not_there_is_told_in_a_short_line(tool, checkpoint, images):
    code, _, err = tool(images[0], '--checkpoint', checkpoint, '--device', 'mps')
    assert (code, err) == (2, 'error: --device mps: this machine has none; --device cpu always works\n')


@pytest.mark.parametrize(
    ('section', 'key', 'value'),
    [
        ('classes', None, None),
        ('classes', None, [1, 2]),
        ('config', None, None),
        ('config', 'model', {}),
        ('config', 'model', {'name': 'vim_nano_patch4_32', 'options': {}}),
        ('config', 'data', {}),
        ('model', 'img_size', 'large'),
        ('model', 'in_chans', [3]),
        ('model', 'options', {'checkpoint_path': 'other.pth'}),
        ('data', 'mean', 'grey'),
    ],
)
def test_a_checkpoint_that_does_not_say_its_training_is_one_line(tool, checkpoint, images, section, key, value):
    content = torch.load(checkpoint)
    if key is None:
        content[section] = value
    else:
        (content['config'] if section == 'config' else content['config'][section])[key] = value
    save_checkpoint(content, checkpoint)
    code, _, err = tool(images[0], '--checkpoint', checkpoint)
    assert (code, err.count('\n')) == (2, 1), err
    assert err.startswith(f'error: {checkpoint}: ')


def test_published_weights_that_cannot_be_had_are_not_replaced(monkeypatch):
    def offline(*arguments, **keywords):
        raise OSError('no route to host')

    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(UsageError, match=r'its published weights cannot be loaded \(no route to host\)'):
        load_classifier('vim_tiny_patch16_224')
