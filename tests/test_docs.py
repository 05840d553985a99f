"""README and docs: their Python runs and prints what they show, their commands work, their links lead somewhere."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent


PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md'))]
COMMANDS = {'train': 'tools/train.py', 'test': 'tools/test.py', 'predict': 'tools/predict.py'}


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
def test_a_new_order_is_trained_tested_and_predicted_with_as_the_page_says(tmp_path):
    page = (ROOT / 'docs' / 'compose.md').read_text()
    [order] = [block for block in re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL) if 'def spiral' in block]
    (tmp_path / 'spiral.py').write_text(order)
    Image.effect_noise((16, 16), 90).save(tmp_path / 'image.png')
    (block,) = re.findall(r'```bash\n(.*?)```', page, flags=re.DOTALL)
    for name, place in (('runs/spiral', 'run'), ('spiral.py', 'spiral.py'), ('IMAGES', 'image.png')):
        block = block.replace(name, str(tmp_path / place))
    short = 'model.scan=spiral schedule.epochs=1 schedule.warmup_epochs=0 data.fraction=0.1'
    assert block.count('model.scan=spiral') == 1
    lines = [line.split() for line in block.replace('model.scan=spiral', short).splitlines()]
    commands = [[sys.executable, COMMANDS[name], *arguments] for _, name, *arguments in lines]
    for command in commands:
        at = command.index('--import')
        done = run(command[:at] + command[at + 2 :])
        assert (done.returncode, done.stderr.count('\n')) == (2, 1), done.stderr
        assert "unknown scan order 'spiral'" in done.stderr
        assert 'one of your own is known after --import FILE.py' in done.stderr
        assert 'another copy' not in done.stderr
        done = run(command)
        assert done.returncode == 0, done.stderr[-2000:]
    assert 'spiral' in (tmp_path / 'run' / 'config.json').read_text()
