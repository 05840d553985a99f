"""Arrows point down: what each part of the package may import, read from the source with `ast`.

tools -> commands -> engine, export, profile, visualize -> tasks -> config, data, models
models -> layers, mixers -> scans, kernels
scans -> torch only      kernels -> torch, triton      config, data -> no model, layer, scan or kernel
"""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vimamba

ROOT = Path(__file__).parent.parent
FOUNDATION = {'errors', 'outputs', 'checkpoint', 'memory'}  # they import nothing of ours but each other
ALLOWED = {  # part -> parts of vimamba it may import, besides itself
    'errors': set(),
    'outputs': {'errors'},
    'checkpoint': {'errors', 'outputs'},
    'memory': set(),
    'kernels': {'errors'},
    'scans': {'errors'},
    'layers': {'errors', 'kernels', 'scans'},
    'mixers': {'errors', 'kernels', 'layers', 'scans'},
    'models': {*FOUNDATION, 'layers', 'mixers', 'scans'},
    'data': FOUNDATION,
    'profile': {'errors', 'outputs', 'memory', 'data', 'kernels', 'layers', 'models', 'scans'},
    'visualize': {'errors', 'outputs', 'data', 'layers', 'models', 'scans'},
    'config': {'errors'},
    'export': {'errors', 'outputs', 'kernels'},
    'engine': {*FOUNDATION, 'config', 'data', 'tasks', 'visualize'},
    'tasks': {*FOUNDATION, 'config', 'data', 'models'},
    'testing': set(),
    'cli': {'errors', 'models'},
    'commands': {
        *FOUNDATION,
        'cli',
        'config',
        'data',
        'engine',
        'export',
        'models',
        'profile',
        'scans',
        'tasks',
        'visualize',
    },
    'tools': {'commands'},
    '__main__': {'commands'},
    '__init__': {'models'},
}
ONLY_IMPORTERS = {  # third-party package -> the only place that may import it
    'mmengine': 'vimamba/engine/',
    'albumentations': 'vimamba/data/transforms.py',
    'triton': 'kernels/',
}
FIVE_HUNDRED = 500


def source_files():
    files = [*ROOT.glob('vimamba/**/*.py'), *ROOT.glob('kernels/**/*.py'), *ROOT.glob('tools/*.py')]
    return sorted({f.resolve().relative_to(ROOT) for f in files})


def part_of(file):
    if file.parts[0] in ('kernels', 'tools'):
        return file.parts[0]
    return file.parts[1].removesuffix('.py')


def imports(file):
    """Absolute names of every module that a file imports, wherever in the file."""
    package = ['vimamba', *file.parts[:-1]] if file.parts[0] == 'kernels' else list(file.parts[:-1])
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('file', source_files(), ids=str)
def test_imports_point_down(file):
    part = part_of(file)
    ours = {name.split('.')[1] for name in imports(file) if name.startswith('vimamba.') and name.count('.') >= 1}
    ours = {name for name in ours if name in ALLOWED}
    assert ours <= ALLOWED[part] | {part}, f'{file} imports {sorted(ours - ALLOWED[part] - {part})}'
    for package, place in ONLY_IMPORTERS.items():
        if package in {name.split('.')[0] for name in imports(file)}:
            assert str(file).startswith(place), f'{file} imports {package}; only {place} may'


@pytest.mark.parametrize('file', [f for f in source_files() if f.parts[0] == 'tools'], ids=str)
def test_tools_hold_no_logic(file):
    """They differ in the name of the command alone."""
    command = {'convert_checkpoint': 'convert'}.get(file.stem, file.stem)
    expected = (ROOT / 'tools/train.py').read_text().replace('train', command)
    assert command == 'checkout' or (ROOT / file).read_text() == expected


@pytest.mark.parametrize('file', source_files(), ids=str)
def test_a_file_is_one_idea(file):
    assert len((ROOT / file).read_text().splitlines()) <= FIVE_HUNDRED


def test_every_part_is_known():
    parts = {part_of(f) for f in source_files()}
    assert parts <= set(ALLOWED), f'say in ALLOWED what {sorted(parts - set(ALLOWED))} may import'


def test_the_kernels_are_a_link_and_shadow_nothing():
    assert (ROOT / 'vimamba' / 'kernels').resolve() == ROOT / 'kernels'
    assert not (ROOT / 'kernels' / '__init__.py').exists()


def test_the_package_is_typed_and_citable_by_its_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= set(citation)
    assert citation['version'] == vimamba.__version__
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    assert (citation['license'], setup['options.package_data']['vimamba']) == (setup['metadata']['license'], 'py.typed')
    assert (ROOT / 'vimamba/py.typed').exists()


def test_commits_are_checked_as_make_check_does():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    assert [hook['id'] for repo in hooks for hook in repo['hooks']] == ['ruff-format', 'ruff-check', 'mypy']


BLOCKER = """
import socket, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

def refuse(*args, **kwargs):
    raise AssertionError('the import opened a network connection')

sys.meta_path.insert(0, Blocker())
socket.socket.connect = socket.getaddrinfo = refuse
"""


def test_core_import_needs_no_extra_and_no_network():
    """`import vimamba` and a forward pass with triton, mmengine, albumentations and the plotting stack absent."""
    blocked = {'triton', 'mmengine', 'albumentations', 'cv2'}
    code = BLOCKER.format(blocked=blocked) + (
        'import torch, timm, vimamba\n'
        "model = timm.create_model('vim_nano_patch4_32', num_classes=10)\n"
        'model(torch.zeros(1, 3, 32, 32)).sum().backward()\n'
        "assert not {'matplotlib', 'sklearn', 'tensorboard'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
