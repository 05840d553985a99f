"""What a tool asks of its process: memory that is freed stays, so that a second use of it costs no page faults."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from vimamba.process import keep_memory
import torch
assert keep_memory() == (sys.platform == 'linux')
def fill():
    parts = [torch.ones(4 << 20) for _ in range(6)]  # 16 MiB each
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="mallopt is glibc's")
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True)
    pages = 6 * (16 << 20) // resource.getpagesize()
    assert int(done.stdout) < pages / 2
