"""What a tool does to its own process before it computes; a library does not."""

from __future__ import annotations

import ctypes
import sys

__all__ = ['keep_memory']

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory(megabytes: int = 512) -> bool:
    """Lets freed memory stay with the process, up to so much, where malloc is glibc's; whether it is.

    Otherwise the activations of a large image are given back to the system and faulted in again, page by page, in every
    layer, which on a virtual machine can cost as much as half of the computation. The environment variables
    ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` (bytes) do the same for any program.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    return all(set_option(option, megabytes << 20) for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
