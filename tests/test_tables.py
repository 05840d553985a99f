"""The tables of the README are what the results files say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_no_table_is_stale():
    check = [sys.executable, 'benchmarks/tables.py', '--check']
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f'{done.stdout}{done.stderr}: run python benchmarks/tables.py'
