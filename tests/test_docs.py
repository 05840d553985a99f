"""What the pages say is what happens: their Python runs, and prints what they show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vimamba  # noqa: F401  (registers the models)

ROOT = Path(__file__).parent.parent
DOWNSTREAM = (ROOT / 'docs' / 'downstream.md').read_text()
BLOCKS = re.findall(r'<!-- needs: (\w+) -->\n```python\n(.*?)```', DOWNSTREAM, flags=re.DOTALL)


def test_the_page_on_composing_runs_as_it_stands(tmp_path):
    page = (ROOT / 'docs' / 'compose.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL)
    script = '\n'.join(blocks).replace("'runs/spiral'", f"'{tmp_path}/spiral'")
    assert script.count("['model.scan=spiral']") == 1
    script = script.replace(
        "['model.scan=spiral']", "['model.scan=spiral', 'schedule.epochs=1', 'schedule.warmup_epochs=0']"
    )
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    (shown,) = re.findall(r'<!-- output -->\n```\n(.*?)```', page, flags=re.DOTALL)
    assert shown in done.stdout
    assert 'spiral' in (tmp_path / 'spiral' / 'config.json').read_text()
    assert (tmp_path / 'spiral' / 'last.pth').is_file()


def test_every_block_on_other_stacks_is_tested_or_says_not():
    assert len(BLOCKS) == DOWNSTREAM.count('```python\n')


@pytest.mark.parametrize(('needs', 'block'), BLOCKS, ids=[f'{needs}-{i}' for i, (needs, _) in enumerate(BLOCKS)])
def test_a_block_on_other_stacks_trains_and_predicts(needs, block):
    """Offline, in a process of its own; skipped, saying so, where the other library is absent."""
    pytest.importorskip(needs)
    env = {**os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', block], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize('decoder', ['DeepLabV3', 'DeepLabV3Plus', 'PAN'])
def test_heads_with_an_output_stride_do_not_work(decoder):
    smp = pytest.importorskip('segmentation_models_pytorch')
    with pytest.raises(TypeError, match='output_stride'):
        getattr(smp, decoder)('tu-test_vmamba', encoder_weights=None)
