"""The tables of the README are what the results files say."""

import re
import subprocess
import sys
from pathlib import Path

from benchmarks import tables

ROOT = Path(__file__).parent.parent


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
        'CPU time of one thread, medians, 2026-01-01 and 2026-02-02, a processor, torch 2.10 and 2.11, float32.'
    )
