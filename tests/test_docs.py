"""README and docs: their Python runs and prints what they show, their commands work, their links lead somewhere."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent


PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md'))]


def python_of(text):
    return '\n'.join(re.findall(r'```python\n(.*?)```', text, flags=re.DOTALL))


def scripts():
    """The Python of each page; of docs/downstream.md, of each library."""
    for page in PAGES:
        text = page.read_text()
        parts = re.split(r'^## (.+)$', text, flags=re.MULTILINE)
        named = zip(parts[1::2], parts[2::2]) if page.stem == 'downstream' else [(page.stem, text)]
        yield from ((name, part) for name, part in named if python_of(part))


@pytest.mark.parametrize(('name', 'text'), [pytest.param(*script, id=script[0]) for script in scripts()])
def test_the_examples_run_and_print_what_the_page_shows(name, text):
    library = name.replace('-', '_')
    if library in ('mmpretrain', 'segmentation_models_pytorch', 'torchvision', 'transformers') and not find_spec(
        library
    ):
        pytest.skip(f'{library} is not installed')
    done = run([sys.executable, '-c', python_of(text)])
    assert done.returncode == 0, done.stderr[-2000:]
    for shown in re.findall(r'<!-- output -->\n```\n(.*?)```', text, flags=re.DOTALL):
        assert shown in done.stdout


def run(command):
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)


def test_every_link_leads_to_a_file():
    """Of every page, and to a heading of it where the link names one."""
    pages = [*PAGES, *ROOT.glob('*.md'), *ROOT.glob('model_cards/*.md'), *ROOT.glob('kernels/*/*.md')]
    found = [(page, link) for page in pages for link in re.findall(r'\]\((?!https?:)([^)]+)\)', page.read_text())]
    assert len(found) > 20
    for page, link in found:
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f'{page.name}: {link}'
        if anchor:
            headings = re.findall(r'^#+ (.+)$', target.read_text(), flags=re.MULTILINE)
            assert anchor in {heading.lower().replace(' ', '-') for heading in headings}, f'{page.name}: {link}'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('page', 'file', 'changed', 'unknown'),
    [
        ('compose', 'spiral.py', 'model.scan=spiral', "unknown scan order 'spiral'"),
        ('add_a_family', 'meander.py', 'model.name=meander_nano_patch4_32', "unknown model 'meander_nano_patch4_32'"),
    ],
)
def test_the_commands_of_a_page_work_as_it_says(tmp_path, page, file, changed, unknown):
    """With the page's file for --import, and without it one line that says what is missing."""
    text, name = (ROOT / f'docs/{page}.md').read_text(), Path(file).stem
    code = next(block for block in re.findall(r'```python\n(.*?)```', text, flags=re.DOTALL) if name in block)
    (tmp_path / file).write_text(code)
    Image.effect_noise((16, 16), 90).save(tmp_path / 'image.png')
    (block,) = re.findall(r'```bash\n(.*?)```', text, flags=re.DOTALL)
    for place in (f'runs/{name}', file):
        block = block.replace(place, str(tmp_path / Path(place).name))
    block = block.replace('IMAGES', str(tmp_path / 'image.png'))
    short = f'{changed} schedule.epochs=1 schedule.warmup_epochs=0 data.fraction=0.1'
    assert block.count(changed) == 1
    commands = [[sys.executable, '-m', *line.split()] for line in block.replace(changed, short).splitlines()]
    for command in commands:
        at = command.index('--import')
        done = run(command[:at] + command[at + 2 :])
        assert (done.returncode, done.stderr.count('\n')) == (2, 1), done.stderr
        assert unknown in done.stderr
        assert '--import FILE.py' in done.stderr
        done = run(command)
        assert done.returncode == 0, done.stderr[-2000:]
    assert name in (tmp_path / name / 'config.json').read_text()
    if (model := tmp_path / name / 'model.onnx').exists():
        session = onnxruntime.InferenceSession(model)
        (logits,) = session.run(None, {'images': np.zeros((3, 1, 16, 16), np.float32)})
        assert logits.shape == (3, 10)
        assert np.isfinite(logits).all()
