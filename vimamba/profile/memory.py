"""How much memory this process has taken at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ['peak_memory']

_STATUS = Path('/proc/self/status')


def peak_memory() -> float:
    """Peak resident memory of the process since its start, in MiB.

    Linux says it of this program alone (VmHWM); elsewhere it is what getrusage says, which counts what a process held
    before it became this program.
    """
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    for line in lines:
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 1024)
