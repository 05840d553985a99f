"""Promises of tools/benchmark.py: rows of what was asked for, and no work before a mistake is told."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCAN = ['scan', '--cases', 'vmamba_tiny 224, stage 4', '--repeats', '1']


def benchmark(*arguments):
    command = [sys.executable, 'tools/benchmark.py', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_rows_are_added_to_a_file_of_such_rows(tmp_path):
    file = tmp_path / 'rows.csv'
    for times in (1, 2):
        done = benchmark(*SCAN, '--append', file)
        assert done.returncode == 0, done.stderr
        with open(file, newline='') as rows:
            found = list(csv.DictReader(rows))
        assert done.stdout.endswith(f'{len(found) // times} rows added to {file}\n')
        assert all(float(row['p20_ms']) <= float(row['median_ms']) <= float(row['p80_ms']) for row in found)
        assert {row['direction'] for row in found} == {'forward', 'forward + backward'}


@pytest.mark.slow
def test_columns_are_below_their_names_however_long_a_name():
    model = 'deit_small_distilled_patch16_224'
    done = benchmark('models', '--cases', 'test_vit', model, '--sizes', 32, '--repeats', 1)
    assert done.returncode == 0, done.stderr
    _, head, *rows = done.stdout.splitlines()
    assert head.split() == ['case', 'direction', 'median', 'ms', 'p20', 'p80', 'batch', 'inputs/s', 'implementation']
    assert {line[head.index('implementation') :].partition(',')[0] for line in rows} == {'test_vit', model}
    for line in rows:  # numbers end where their column's name does
        assert [line[head.index(name) + len(name) :][:1] for name in ('median ms', 'p80', 'inputs/s')] == [' '] * 3
        rate = line[: head.index(' implementation')].split()[-1]
        assert float(rate) == pytest.approx(1e3 / float(line.split()[3]), rel=1e-3)


@pytest.mark.slow
def test_a_mistake_is_told_before_the_work(tmp_path):
    other = tmp_path / 'other.csv'
    other.write_text('name,price\n')
    for arguments, said in (
        ([*SCAN, '--append', other], f'{other}: not a results file'),
        ([*SCAN, '--training'], '--training has no effect on scan'),
        ([*SCAN, '--threads', 100_000], '--threads: expected at most'),
        (
            ['scan', '--cases', 'vim'],
            "unknown case 'vim': did you mean 'vim_tiny 224'? known: 'vim_small 224', 'vim_tiny",
        ),
        (['models', '--cases', 'videomamba_tiny_patch16_224_f8'], 'videomamba_tiny_patch16_224_f8 takes clips'),
    ):
        done = benchmark(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f'error: {said}')
        assert done.stderr.count('\n') == 1
        assert ' ms ' not in done.stdout.partition('case')[2].partition('\n')[2]
    assert other.read_text() == 'name,price\n'
