"""tools/convert_checkpoint.py: an official file becomes one that loads anywhere, with every key accounted for.

Promised: the converted model gives the same logits; every renamed and dropped key is printed; a file of another model
is an error that counts the keys, and leaves nothing behind; bad arguments are one line.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import vimamba  # noqa: F401  (registers the models)
from tests.models.official import Case

ROOT = Path(__file__).parents[2]
CASE = Case('vim_tiny_224')


def convert(*arguments):
    command = [sys.executable, 'tools/convert_checkpoint.py', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    file = tmp_path_factory.mktemp('official') / 'vim_t.pth'
    torch.save({'model': CASE.state_dict(), 'epoch': 299}, file)
    return file


def test_the_converted_file_is_the_same_model(tmp_path, official):
    target = tmp_path / 'vim.safetensors'
    done = convert(official, 'vim_tiny_patch16_224', target)
    assert done.returncode == 0, done.stderr
    assert 'layers.3.mixer.A_b_log -> blocks.3.mixer.routes.1.A_log' in done.stdout
    assert 'dropped: 0' in done.stdout
    overlay = {'file': str(target)}
    model = timm.create_model('vim_tiny_patch16_224', pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        assert torch.allclose(model(CASE.input()), CASE.outputs['logits'], atol=1e-4)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('vim_small_patch16_224', 'a.safetensors'), 'of another shape (first: cls_token'),
        (('vmamba_tiny_s1l8', 'a.safetensors'), 'missing (first: stem.2.weight)'),
        (('vim_tiny', 'a.safetensors'), "unknown model 'vim_tiny': did you mean 'vim_tiny_patch16_224'"),
        (('vim_tiny_patch16_224', 'a.pth'), 'ends in .safetensors'),
        (('vim_tiny_patch16_224', 'a.safetensors', '--option', 'depth'), 'expected KEY=VALUE'),
        (
            ('vim_tiny_patch16_224', 'a.safetensors', '--option', 'foo=1'),
            '--option foo=1: vim_tiny_patch16_224 does not',
        ),
    ],
)
def test_what_does_not_fit_is_said_and_leaves_nothing(tmp_path, official, arguments, message):
    model, target, *more = arguments
    done = convert(official, model, tmp_path / target, *more)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.count('\n') == 1
    assert len(done.stderr) < 1000
    assert list(tmp_path.iterdir()) == []
