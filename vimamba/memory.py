"""Memory of this process and of a GPU: its peak, and what malloc keeps."""

import ctypes
import resource
import sys
from pathlib import Path
from typing import Any

__all__ = ['keep_memory', 'peak_memory']

_STATUS = Path('/proc/self/status')
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def peak_memory(device: Any = None) -> float:
    """Peak memory so far in MiB: of tensors on a CUDA `torch.device`, else of the process since its start.

    Linux reports the program alone (VmHWM). getrusage, used elsewhere, also counts what the process held before it
    became this program.
    """
    if device is not None and device.type == 'cuda':
        import torch  # a command reads its arguments without it

        return torch.cuda.max_memory_allocated(device) / 2**20
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    for line in lines:
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 1024)


def keep_memory(megabytes: int = 512) -> bool:
    """Makes glibc keep up to ``megabytes`` of freed memory. Returns False if the options cannot be set.

    By default, the activations of a large image are given back to the system and faulted in again, page by page, in
    every layer, which on a virtual machine can cost half of the computation. The environment variables
    ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` (bytes) do the same for any program.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    return all(set_option(option, megabytes << 20) for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
