"""What the tool promises: a checkpoint of a training becomes a file for other runtimes, or one line says why not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch

import vimamba  # noqa: F401  (registers the models)
from vimamba.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from vimamba.models import Stream

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'export.py'
OPTIONS = {'depth': 1, 'embed_dim': 32}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model('vim_nano_patch4_32', num_classes=3, in_chans=1, img_size=16, **OPTIONS).eval()


@pytest.fixture
def checkpoint(tmp_path, model):
    entries = {'name': 'vim_nano_patch4_32', 'pretrained': False, 'checkpoint': None, 'drop_path_rate': 0.0}
    config = {
        'model': {**entries, 'img_size': 16, 'in_chans': 1, 'options': OPTIONS},
        'data': {'name': 'digits', 'mean': (0.4,), 'std': (0.3,), 'interpolation': None, 'crop_pct': 1.0},
    }
    content = {'format': FORMAT, 'model': model.state_dict(), 'classes': ['a', 'b', 'c'], 'config': config}
    save_checkpoint(content, tmp_path / 'best.pth')
    return str(tmp_path / 'best.pth')


def export(*arguments):
    return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True)


def test_a_checkpoint_becomes_onnx(tmp_path, checkpoint, model):
    done = export(tmp_path / 'new' / 'model.onnx', '--checkpoint', checkpoint)
    assert done.returncode == 0, done.stderr
    assert 'any number of images of 1 x 16 x 16 to 3 logits' in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / 'new' / 'model.onnx')
    notes = session.get_modelmeta().custom_metadata_map
    assert (json.loads(notes['classes']), json.loads(notes['mean'])) == (['a', 'b', 'c'], [0.4])
    images = torch.randn(3, 1, 16, 16)
    (logits,) = session.run(['logits'], {'images': images.numpy()})
    np.testing.assert_allclose(logits, model(images).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_another_size_and_one_image(tmp_path, checkpoint, model):
    done = export(tmp_path / 'model.pt2', '--checkpoint', checkpoint, '--img-size', 8, 20, '--batch', 1)
    assert done.returncode == 0, done.stderr
    model.set_input_size((8, 20))
    images = torch.randn(1, 1, 8, 20)
    torch.testing.assert_close(torch.export.load(tmp_path / 'model.pt2').module()(images), model(images))


@pytest.mark.slow
def test_a_model_of_clips(tmp_path):
    model = timm.create_model('test_videomamba', num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / 'clips.pth')
    done = export(tmp_path / 'model.pt2', '--model', 'test_videomamba', '--checkpoint', tmp_path / 'clips.pth')
    assert done.returncode == 0, done.stderr
    assert 'any number of clips of 3 x 4 x 64 x 64 to 3 logits' in done.stdout
    clips = torch.randn(3, 3, 4, 64, 64)
    torch.testing.assert_close(torch.export.load(tmp_path / 'model.pt2').module()(clips), model(clips))


@pytest.mark.slow
def test_a_model_of_frames_as_they_come(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model('test_videomamba_causal', num_classes=3).eval()
    torch.nn.init.normal_(model.get_classifier().weight)
    entries = {'name': 'test_videomamba_causal', 'pretrained': False, 'checkpoint': None, 'drop_path_rate': 0.0}
    config = {
        'model': {**entries, 'img_size': 64, 'in_chans': 3, 'options': {}},
        'data': {'name': 'video_list', 'mean': (0.5,) * 3, 'std': (0.5,) * 3, 'interpolation': None, 'crop_pct': 1.0,
                 'options': {'sampling': 'dense', 'frame_interval': 2}},
        'task': {'name': 'video', 'options': {}},
    }  # fmt: skip
    content = {'format': FORMAT, 'model': model.state_dict(), 'classes': ['a', 'b', 'c'], 'config': config}
    save_checkpoint(content, tmp_path / 'causal.pth')
    for name in ('stream.onnx', 'stream.pt2'):
        done = export(tmp_path / name, '--checkpoint', tmp_path / 'causal.pth', '--stream')
        assert done.returncode == 0, done.stderr
        assert 'any number of streams of 3 x 1 x 64 x 64 to 3 logits' in done.stdout
    clips = torch.randn(3, 3, 5, 64, 64)
    step, state = torch.export.load(tmp_path / 'stream.pt2').module(), Stream(model).start(3)
    for seen, frame in enumerate(clips.split(1, 2), 1):
        scores, *state = step(frame, *state)
        with torch.no_grad():
            torch.testing.assert_close(scores, model(clips[:, :, :seen]))
    assert state[-1] == 5 * 64  # tokens

    blocks = re.findall(r'```py\n(.*?)```', (ROOT / 'docs' / 'video.md').read_text(), flags=re.DOTALL)
    (example,) = (block for block in blocks if 'onnxruntime' in block)
    monkeypatch.chdir(tmp_path)
    known = {'frames': [frame.numpy() for frame in clips[:1].split(1, 2)]}
    exec(example, known)
    np.testing.assert_allclose(known['scores'], scores[:1].detach(), rtol=1e-4, atol=1e-5)
    assert [entry.name for entry in known['session'].get_outputs()][1] == 'next_inputs'
    assert known['session'].get_modelmeta().custom_metadata_map['frame_interval'] == '2'


def test_a_model_of_images_is_no_stream(tmp_path, checkpoint):
    done = export(tmp_path / 'model.onnx', '--checkpoint', checkpoint, '--stream')
    assert done.returncode == 2
    said = 'error: vim_nano_patch4_32 takes images: a stream of frames needs a causal VideoMamba (causal=True)\n'
    assert done.stderr == said
    assert not (tmp_path / 'model.onnx').exists()


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_a_checkpoint_of_another_task_is_one_line(tmp_path, checkpoint, task):
    content = load_checkpoint(checkpoint)
    content['config']['task'] = {'name': task, 'options': {}}
    save_checkpoint(content, checkpoint)
    done = export(tmp_path / 'model.onnx', '--checkpoint', checkpoint)
    assert done.returncode == 2
    assert done.stderr.startswith(f'error: {checkpoint}: a checkpoint of {task}; expected classification or video\n')
    assert done.stderr.count('\n') == 1


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['model.tflite', '--model', 'vim_nano_patch4_32'], 'expected a file name that ends in .onnx or .pt2'),
        (['model.onnx', '--model', 'vim_nan'], "unknown model 'vim_nan': did you mean 'vim_nano_patch4_32'?"),
        (['model.onnx', '--model', 'vim_nan', '--import', 'gone.py'], '--import gone.py: no such file'),
        (['model.onnx', '--model', 'vim_nan', '--import', 'gone.code'], '--import gone.code: no such module'),
        (['model.onnx', '--batch', '0'], '--batch: expected an integer >= 1, got 0'),
        (['model.onnx', '--checkpoint', 'gone.pth'], 'gone.pth'),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, said):
    done = export(tmp_path / arguments[0], *arguments[1:])
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count('\n') == 1
    assert not list(tmp_path.iterdir())
