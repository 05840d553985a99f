"""A configuration is data: it cannot execute anything, hang the reader or fill the memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vimamba.config import schema
from vimamba.config.reading import Table, apply_option, read_config
from vimamba.errors import UsageError
from vimamba.scans import schedule

ROOT = Path(__file__).parents[2]
TOUCH = "__import__('os').system('touch CANARY')"
HOSTILE = {
    'a call': f'x = {TOUCH}',
    'an import': 'import os\nos.system("touch CANARY")',
    'an import from': 'from os import system',
    'exec': 'exec(\'open("CANARY", "w")\')',
    'open': "x = open('CANARY', 'w')",
    'an attribute': 'x = ().__class__.__base__.__subclasses__()',
    'a lambda': f'x = (lambda: {TOUCH})()',
    'a comprehension': f'x = [{TOUCH} for _ in (1,)]',
    'an f-string': f'x = f"{{{TOUCH}}}"',
    'a decorator': '@print\ndef f(): pass',
    'a default argument': f'def f(x={TOUCH}): pass',
    'a class': f'class A:\n    x = {TOUCH}',
    'an annotation': f'x: {TOUCH} = 1',
    'an assertion': f'assert {TOUCH}',
    'a condition': f'x = 1 if {TOUCH} else 2',
    'a walrus': f'x = (y := {TOUCH})',
    'a subscript': f'x = [1][{TOUCH}]',
    'a with block': "with open('CANARY', 'w') as f: pass",
    'a dict that calls': f'x = dict(a={TOUCH})',
    'type by dict': "x = dict.fromkeys(['a'])",
    'a renamed builtin': 'dict = eval\nx = dict("1")',
    'a format': "x = '{0.__class__}'.format(1)",
    'percent': "x = '%s' % (1,)",
    'star': 'x = [*open("CANARY", "w")]',
    'delete': 'del x',
    'a bytes': "x = b'a'",
    'a set': 'x = {1, 2}',
    'mmengine lazy import': 'with read_base():\n    from .a import *',
}
GREEDY = {
    'a power': 'x = 9**9**9',
    'many powers': 'x = 10**300\ny = x*x',
    'repeated text': "x = 'a' * 10**10",
    'repeated list': 'x = [0] * 10**10',
    'doubled text': "x = 'ab'\n" + 'x = x + x\n' * 60,
    'a billion laughs': 'a0 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n'
    + '\n'.join(f'a{i + 1} = [a{i}, a{i}, a{i}, a{i}, a{i}, a{i}, a{i}, a{i}, a{i}, a{i}]' for i in range(12)),
    'deep brackets': 'x = ' + '[' * 50_000,
    'deep signs': 'x = ' + '-' * 50_000 + '1',
    'deep sums': 'x = ' + '1+' * 50_000 + '1',
    'a large file': '# ' + 'x' * (1 << 18),
    'division by zero': 'x = 1 / 0',
    'a zero byte': 'x = 1\0',
}
HOSTILE_YAML = {
    'a python object': 'x: !!python/object/apply:os.system ["touch CANARY"]',
    'a python map': 'x: !!python/object/new:os.system {a: 1}',
    'a python name': 'x: !!python/name:os.system',
    'a billion laughs': 'a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]',
    'a cycle': 'a: &a {b: *a}',
    'two documents': 'a: 1\n---\nb: 2',
    'a repeated key': 'a: 1\na: 2',
    'a date': 'a: 2020-01-01',
}
HOSTILE_OPTIONS = [
    f'run.seed={TOUCH}',
    f'run.seed=[{TOUCH}]',
    'run.seed=[x for x in (1,)]',
    'data.mean=[(lambda: 1)()]',
    f'model.name=({TOUCH})',
]


def write(path, text, canary):
    path.write_text(text.replace('CANARY', str(canary)))
    return path


@pytest.mark.parametrize('name', [*HOSTILE, *GREEDY])
def test_a_hostile_file_is_refused_with_its_line(tmp_path, name):
    path = write(tmp_path / 'c.py', {**HOSTILE, **GREEDY}[name], tmp_path / 'canary')
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f'{path}:')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'canary').exists()


@pytest.mark.parametrize('name', list(HOSTILE_YAML))
def test_hostile_yaml_is_refused(tmp_path, name):
    path = write(tmp_path / 'c.yaml', HOSTILE_YAML[name], tmp_path / 'canary')
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'canary').exists()


@pytest.mark.parametrize('option', HOSTILE_OPTIONS)
def test_a_hostile_option_is_text_or_refused(tmp_path, option):
    table = Table()
    try:
        apply_option(table, option.replace('CANARY', str(tmp_path / 'canary')))
    except UsageError:
        pass
    else:
        assert all(isinstance(value, str) for section in table.values() for value in section.values())
    assert not (tmp_path / 'canary').exists()


def test_the_tool_executes_nothing_either(tmp_path):
    path = write(tmp_path / 'c.py', f'model = dict(name={TOUCH})', tmp_path / 'canary')
    done = subprocess.run([sys.executable, ROOT / 'tools/train.py', path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f'error: {path}:1: ')
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / 'canary').exists()


def test_what_a_file_may_say(tmp_path):
    (tmp_path / 'base.py').write_text("model = dict(name='a', size=1)\ndata = dict(root='x', mean=[1, 2])\nkeep = 3\n")
    (tmp_path / 'c.py').write_text(
        '"""A docstring."""\n'
        "_base_ = ['base.py']\n"
        '_batch = 2 * 64\n'
        "_common = {'deep': -1.5}\n"
        "model = dict(name='b' + 'c', batch=_batch // 4, **_common)\n"
        "data = dict(_delete_=True, mean=(1e-3, +2), more=list((True, None)), path=dict(a=dict(b='c')))\n"
    )
    config = read_config(tmp_path / 'c.py')
    assert config == {
        'model': {'name': 'bc', 'size': 1, 'batch': 32, 'deep': -1.5},
        'data': {'mean': (1e-3, 2), 'more': [True, None], 'path': {'a': {'b': 'c'}}},
        'keep': 3,
    }
    assert config['model'].where['batch'] == f'{tmp_path / "c.py"}:5'
    assert config['model'].where['size'] == f'{tmp_path / "base.py"}:1'


def test_json_and_yaml_hold_the_same_with_the_same_lines(tmp_path):
    as_json, yaml = tmp_path / 'c.json', tmp_path / 'c.yaml'
    as_json.write_text('\n{"model":\n  {"name": "a", "deep": [1, 2.5, true, null]},\n "run": {"seed": -1}}')
    yaml.write_text('\nmodel:\n  {name: a, deep: [1, 2.5, true, null]}\nrun:\n  seed: -1\n')
    a, b = read_config(as_json), read_config(yaml)
    assert a == b == {'model': {'name': 'a', 'deep': [1, 2.5, True, None]}, 'run': {'seed': -1}}
    assert a['model'].where['name'] == f'{as_json}:3'
    assert b['model'].where['name'] == f'{yaml}:3'


def test_json_is_read_as_json(tmp_path):
    path = tmp_path / 'c.json'
    path.write_text(r'{"run": {"work_dir": "a\/b\/\/\"\\d", "name": "\ud83d\ude00", "big": 1E3}}' + '\n')
    assert read_config(path) == json.loads(path.read_text())
    for text, says in [
        ('{"run": {"lr": NaN}}', 'NaN'),
        ('{\n"run": {},\n"run": {}}', r'c\.json:3: .*new key'),
        ('[1]', '1: exp'),
    ]:
        path.write_text(text)
        with pytest.raises(UsageError, match=says):
            read_config(path)


@pytest.mark.parametrize(
    'text', ["_base_ = 'c.py'", "_base_ = 'absent.py'", '_base_ = 3', "_base_ = '/etc/passwd'", "_base_ = 'dir.py'"]
)
def test_a_wrong_base_is_one_line(tmp_path, text):
    (tmp_path / 'dir.py').mkdir()
    (tmp_path / 'c.py').write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(tmp_path / 'c.py')
    assert '\n' not in str(caught.value)
    assert 'root:' not in str(caught.value)


@pytest.mark.parametrize(
    ('option', 'expected'),
    [
        ('a.b=1', {'a': {'b': 1, 'l': [1, {'x': 2}]}}),
        ('a.b=1e-3', {'a': {'b': 1e-3, 'l': [1, {'x': 2}]}}),
        ('a.b=true', {'a': {'b': True, 'l': [1, {'x': 2}]}}),
        ('a.b=None', {'a': {'b': None, 'l': [1, {'x': 2}]}}),
        ('a.b=1,2', {'a': {'b': (1, 2), 'l': [1, {'x': 2}]}}),
        ('a.b="1"', {'a': {'b': '1', 'l': [1, {'x': 2}]}}),
        ('a.b=x=y', {'a': {'b': 'x=y', 'l': [1, {'x': 2}]}}),
        ('a.b=/data/my set', {'a': {'b': '/data/my set', 'l': [1, {'x': 2}]}}),
        ('a.l.0=9', {'a': {'b': 0, 'l': [9, {'x': 2}]}}),
        ('a.l.1.x=9', {'a': {'b': 0, 'l': [1, {'x': 9}]}}),
        ('new.key=dict', {'a': {'b': 0, 'l': [1, {'x': 2}]}, 'new': {'key': 'dict'}}),
    ],
)
def test_options(option, expected):
    table = Table({'a': Table({'b': 0, 'l': [1, Table({'x': 2})]})})
    apply_option(table, option)
    assert table == expected


@pytest.mark.parametrize(
    'scan', ['cross', ('raster', 'column'), ['raster', 'column'], [('raster', 'column'), 'hilbert']], ids=str
)
def test_the_scan_of_a_model_means_the_same_when_it_is_written_and_beside_options(tmp_path, scan):
    """A tuple is the routes of several orders together, a list one for each block."""
    (tmp_path / 'a.py').write_text(
        f"model = dict(name='vim_nano_patch4_32', scan={scan!r})\ndata = dict(name='digits')"
    )
    config = schema.check(read_config(tmp_path / 'a.py', ['model.in_chans=1']))
    (tmp_path / 'b.json').write_text(json.dumps(config.as_written()))
    written = schema.check(read_config(tmp_path / 'b.json'))
    for said in (config, written):
        assert schedule(said.model.options['scan'], 4) == schedule(scan, 4)


@pytest.mark.parametrize('option', ['a', '=1', 'a..b=1', 'a.l.2=1', 'a.l.x=1', 'a.b.c=1', 'a.l.0.x=1', 'a.b=[x'])
def test_a_wrong_option_is_one_line(option):
    with pytest.raises(UsageError, match='--cfg-options'):
        apply_option(Table({'a': Table({'b': 0, 'l': [1]})}), option)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(value=values)
def test_every_literal_comes_back(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / 'literal.py'
    path.write_text(f'x = {value!r}', encoding='utf-8')
    assert read_config(path) == {'x': value}
