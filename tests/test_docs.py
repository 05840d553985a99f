"""What the pages say is what happens: their Python runs, and prints what they show."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent


def test_the_page_on_composing_runs_as_it_stands():
    page = (ROOT / 'docs' / 'compose.md').read_text()
    script = '\n'.join(re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL))
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    (shown,) = re.findall(r'<!-- output -->\n```\n(.*?)```', page, flags=re.DOTALL)
    assert shown in done.stdout


@pytest.mark.slow
def test_a_new_order_is_trained_tested_and_predicted_with_as_the_page_says(tmp_path):
    page = (ROOT / 'docs' / 'compose.md').read_text()
    [order] = [
        block for block in re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL) if 'register_order' in block
    ]
    (tmp_path / 'spiral.py').write_text(order)
    Image.effect_noise((16, 16), 90).save(tmp_path / 'image.png')
    (block,) = re.findall(r'```bash\n(.*?)```', page, flags=re.DOTALL)
    for name, place in (('runs/spiral', 'run'), ('spiral.py', 'spiral.py'), ('IMAGES', 'image.png')):
        block = block.replace(name, str(tmp_path / place))
    short = 'model.scan=spiral schedule.epochs=1 schedule.warmup_epochs=0 data.fraction=0.1'
    assert block.count('model.scan=spiral') == 1
    commands = [line.split() for line in block.replace('model.scan=spiral', short).splitlines()]

    def call(command):
        return subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=200)

    for command in commands:
        at = command.index('--import')
        done = call(command[:at] + command[at + 2 :])
        assert (done.returncode, done.stderr.count('\n')) == (2, 1), done.stderr
        assert "unknown scan order 'spiral'" in done.stderr
        assert 'one of your own is known after --import FILE.py' in done.stderr
        assert 'another copy' not in done.stderr
        done = call(command)
        assert done.returncode == 0, done.stderr[-2000:]
    assert 'spiral' in (tmp_path / 'run' / 'config.json').read_text()


def blocks_of(page):
    """Heading -> its Python, with what stood under the headings before that it builds on."""
    parts = re.split(r'^## (.+)$', (ROOT / 'docs' / page).read_text(), flags=re.MULTILINE)
    return {
        heading: '\n'.join(re.findall(r'```python\n(.*?)```', text, flags=re.DOTALL))
        for heading, text in zip(parts[1::2], parts[2::2])
    }


VIDEO = {heading: script for heading, script in blocks_of('video.md').items() if script}


@pytest.mark.parametrize('heading', VIDEO)
def test_the_examples_of_video_run_as_they_stand(heading):
    done = subprocess.run([sys.executable, '-c', VIDEO[heading]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


DOWNSTREAM = blocks_of('downstream.md')


@pytest.mark.parametrize('stack', DOWNSTREAM)
def test_the_examples_in_other_stacks_run_as_they_stand(stack):
    library = stack.replace('-', '_')
    if not find_spec(library):
        pytest.skip(f'{stack} is not installed')
    needs = [] if stack == 'torchvision' else ['import timm, torch, vimamba']
    if stack == 'transformers':
        needs.append('images, labels = torch.rand(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.long)')
    script = '\n'.join([*needs, DOWNSTREAM[stack]])
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=280)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
