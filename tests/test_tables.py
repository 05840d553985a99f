"""The tables of the README are what the results files say."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def test_no_table_is_stale():
    check = [sys.executable, 'benchmarks/tables.py', '--check']
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f'{done.stdout}{done.stderr}: run python benchmarks/tables.py'


def test_no_table_is_empty():
    for table in re.findall(r'<!-- table: (?:models|digits) -->\n(.*?)<!-- end -->', README, flags=re.DOTALL):
        assert len(table.strip().splitlines()) > 2, table
