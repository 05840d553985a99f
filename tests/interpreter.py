"""Test files of Triton kernels, which run themselves where Triton's interpreter does: it decides that at import."""

import os
import subprocess
import sys

import pytest

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
inside = pytest.mark.skipif(not INTERPRETED, reason='runs in the interpreted process')
outside = pytest.mark.skipif(INTERPRETED, reason='is interpreted')


def interpret(file: str) -> None:
    """Runs the tests of a file that are marked ``inside``."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', file]
    done = subprocess.run(command, env={**os.environ, 'TRITON_INTERPRET': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert ' passed' in done.stdout
