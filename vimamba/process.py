"""What a tool does to its own process before it computes; a library does not."""

from __future__ import annotations

import ctypes
import sys

__all__ = ['keep_memory']

_M_TOP_PAD = -2


def keep_memory(megabytes: int = 256) -> bool:
    """Lets freed memory stay with the process, up to so much, where malloc is glibc's; whether it is.

    Otherwise the activations of a large image are given back to the system and faulted in again, page by page, in every
    layer; on a virtual machine that costs as much as half of the computation. The environment variable
    ``MALLOC_TOP_PAD_`` (bytes), jemalloc or tcmalloc do the same for any program.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_TOP_PAD, megabytes << 20))
    except AttributeError:  # musl has no mallopt
        return False
