"""Promises of benchmarks/h200.py: each section yields its rows, and none stops another, whatever becomes of it.

Without a GPU its sections run at tiny shapes under Triton's interpreter, `--dry-run`, beside a mamba_ssm whose operator
is ours: its arguments have the same names and shapes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('triton', reason='Triton is not installed: no GPU backend to time')

ROOT = Path(__file__).parents[2]
OURS = """
from functools import partial
from vimamba.kernels.selective_scan import selective_scan
selective_scan_fn = partial(selective_scan, backend='portable')
"""
WRONG = 'selective_scan_fn = lambda u, *args, **kwargs: u'
ROWS = {
    'check': 25,  # 13 scans, 2 repeats, 3 convolutions, 3 of SSD, 2 long ones, 2 models
    'scans': 17,  # a copy, and 4 directions of 4 models
    'conv': 8,  # 2 directions of 2 implementations at 2 shapes
    'mamba_ssm': 26,  # 2 directions of 2 operators at 6 shapes, and the means
    'models': 2,
    'ssd': 8,  # 2 directions of 2 operators at 2 sizes
    'clips': 4,
    'training': 2,
}


def run(*arguments: str, mamba_ssm: str | None = None, folder: Path | None = None) -> subprocess.CompletedProcess:
    paths = [str(ROOT)]
    if mamba_ssm is not None:
        (folder / 'mamba_ssm/ops').mkdir(parents=True)
        (folder / 'mamba_ssm/ops/selective_scan_interface.py').write_text(mamba_ssm)
        paths.append(str(folder))
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    command = [sys.executable, 'benchmarks/h200.py', *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=860)


def sections(printed: str) -> dict[str, list[str]]:
    """Section -> what it printed, but for the machine."""
    found = re.findall(r'^== (\w+)\n(.*?)(?=^$)', printed, flags=re.DOTALL | re.MULTILINE)
    return {name: said.splitlines()[1:] for name, said in found}


@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes on an idle machine
def test_every_section_yields_its_rows(tmp_path):
    results = tmp_path / 'results.csv'
    done = run('--dry-run', '--results', str(results), mamba_ssm=OURS, folder=tmp_path)
    found = sections(done.stdout)
    assert {name: len(rows) for name, rows in found.items()} == ROWS, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith('every section is complete\n')
    assert all('reached' in line for line in found['check'])
    for name in ('scans', 'mamba_ssm', 'ssd'):
        assert any(re.search(r'[\d.]+ ms .* x .*, target [<>]= [\d.]+: (reached|MISSED)', line) for line in found[name])
    assert not results.exists()  # times of an interpreter are nobody's figures


@pytest.mark.slow
def test_a_section_that_fails_or_hangs_stops_no_other(tmp_path):
    done = run('mamba_ssm', 'ssd', '--dry-run', mamba_ssm=WRONG, folder=tmp_path)
    found = sections(done.stdout)
    assert found['mamba_ssm'][1].startswith(
        'mamba_ssm, vim_tiny 1248: UsageError: mamba_ssm computes something else: relative L2 '
    )
    assert found['mamba_ssm'][-1] == 'mamba_ssm, geometric mean: UsageError: 0 of 6 shapes were measured'
    assert len(found['ssd']) == ROWS['ssd']
    assert done.stdout.endswith('failed or incomplete: mamba_ssm\n')
    assert done.returncode == 1
    done = run('scans', 'models', '--dry-run', '--minutes', '0.001')
    assert re.findall(r'^(\w+): stopped after 0 s, its share', done.stdout, re.MULTILINE) == ['scans', 'models']
    assert done.returncode == 1


@pytest.mark.slow
def test_every_layout_may_be_timed():
    done = run('--plans', '--dry-run')
    (lines,) = sections(done.stdout).values()
    assert sum('Plan(block=32, steps=4, chunks=1)' in line for line in lines) == 7 * 4
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'error: no CUDA device: run it where there is one, or --dry-run\n'),
        (['scan'], "error: unknown section 'scan': did you mean 'scans'?"),
        (['--minutes', '0'], 'error: --minutes: expected more than 0, got 0\n'),
    ],
    ids=['no GPU', 'section', 'minutes'],
)
def test_mistakes_are_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
