"""Marks what `make check` leaves out: whole runs, faults, subprocesses that import everything, compiled kernels."""

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
SLOW = (
    'engine',
    'faults',
    'commands',
    'kernels/test_triton_scan.py',
    'scans/test_draw.py',
    'visualize/test_plots.py',
    'test_configs.py',
    'test_video_configs.py',
    'test_docs.py',
    'test_tables.py',
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(ROOT) and str(item.path.relative_to(ROOT)).startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def unprivileged():
    """A folder of a user whom permissions hold for: inside of the test, root is nobody."""
    with tempfile.TemporaryDirectory() as folder:
        if root := hasattr(os, 'geteuid') and os.geteuid() == 0:
            nobody = 65534
            os.chown(folder, nobody, nobody)
            os.seteuid(nobody)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)
