"""The tables of README, docs and model cards say what the results files say; only a measurement changes those."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parent.parent
SCRIPTS = [file.stem for file in ROOT.glob('benchmarks/*.py') if '__main__' in file.read_text()]


def script(name, *arguments):
    """What a script of benchmarks/ ends with; it leaves the results files as they are."""
    results = {file: file.read_bytes() for file in ROOT.glob('benchmarks/*.csv')}
    command = [sys.executable, f'benchmarks/{name}.py', *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert {file: file.read_bytes() for file in ROOT.glob('benchmarks/*.csv')} == results
    return done


def test_no_table_is_stale():
    check = [sys.executable, 'benchmarks/tables.py', '--check']
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f'{done.stdout}{done.stderr}: run python benchmarks/tables.py'


def test_no_table_is_empty():
    files = (ROOT / 'README.md', *ROOT.glob('docs/*.md'), *ROOT.glob('model_cards/*.md'))
    found = [re.findall(r'<!-- table: (.*?) -->\n(.*?)<!-- end -->', f.read_text(), flags=re.DOTALL) for f in files]
    bodies = {name: body for each in found for name, body in each}
    assert {name.split()[0] for name in bodies} == set(tables.TABLES)
    for name, body in bodies.items():
        assert len(body.strip().splitlines()) > 2, name


def test_a_table_holds_figures_of_one_kind_and_says_where_each_is_from(monkeypatch):
    row = {'what': 'model', 'clock': 'CPU time', 'dtype': 'float32', 'batch': '1', 'case': '224 px', 'median_ms': '37',
           'implementation': 'vim_tiny_patch16_224', 'direction': 'forward', 'date': '2026-01-01', 'torch': '2.10',
           'device': 'a processor'}  # fmt: skip
    results = [
        row,
        row | {'implementation': 'deit_tiny_patch16_224', 'median_ms': '30', 'date': '2026-02-02', 'torch': '2.11'},
        row | {'batch': '8', 'median_ms': '111'},
        row | {'dtype': 'bfloat16', 'median_ms': '222'},
        row | {'clock': 'wall', 'median_ms': '333'},
    ]
    monkeypatch.setattr(tables, 'rows', lambda name: results)
    lines = tables.resolutions().splitlines()
    assert lines[2] == '| 224 px | 37 | 30 |  |'
    assert lines[-1] == (
        'Median CPU time of one thread, float32: a processor, torch 2.10 and 2.11, 2026-01-01 and 2026-02-02.'
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', SCRIPTS)
def test_help_says_what_a_script_does_and_does_nothing(name):
    done = script(name, '--help')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('usage: ')


@pytest.mark.slow
@pytest.mark.parametrize('arguments', [('scenes', 'none'), ('moving_digits', 'none', 'none'), ('digits', '--jobs', 0)])
def test_without_anything_to_measure_nothing_is_written(arguments):
    done = script(*arguments)
    assert (done.returncode, done.stderr.count('\n')) == (2, 1), done.stderr
    assert done.stderr.startswith('error: ')


@pytest.mark.slow
def test_runs_that_are_not_there_keep_their_rows(tmp_path):
    (run := tmp_path / 'runs/instances').mkdir(parents=True)
    config = {'task': {'head': 'a head'}, 'model': {'name': 'a model'}}
    (run / 'config.json').write_text(json.dumps(config))
    (run / 'test.json').write_text(json.dumps({'images': 8, 'AP': 12.345}))
    (run / 'train.log').write_text('a model: 2.00 M parameters, 10 classes\n')
    (run / 'summary.txt').write_text('1:02:03 in this session, peak memory 900 MiB\n')
    before = tables.rows('scenes.csv')
    (results := tmp_path / 'scenes.csv').write_bytes((ROOT / 'benchmarks/scenes.csv').read_bytes())
    done = script('scenes', tmp_path / 'runs', '--results', results)
    assert done.returncode == 0, done.stderr
    with open(results, newline='') as file:
        after = list(csv.DictReader(file))
    assert [row['target'] for row in after] == [row['target'] for row in before]
    changed = [row for row, old in zip(after, before) if row != old]
    assert [(row['target'], row['AP'], row['train_seconds']) for row in changed] == [('instances', '12.35', '3723')]
