"""What a tool does to its own process before it computes; a library does not."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from vimamba.errors import UsageError, unknown_name

__all__ = ['find_device', 'keep_memory']

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


def find_device(name: str) -> Any:
    """The torch device of a name; 'auto' is a GPU where there is one.

    Raises:
        UsageError: there is no such device.
    """
    import torch  # here, because a tool sets what torch reads at its import before

    if name.split(':')[0] not in (known := ('auto', 'cpu', 'cuda', 'mps')):
        raise unknown_name('--device', name, known)
    if name == 'auto':
        return torch.accelerator.current_accelerator(check_available=True) or torch.device('cpu')
    if name.startswith('mps') and not torch.backends.mps.is_available():
        raise UsageError(f'--device {name}: this machine has none; --device cpu always works')
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f'--device {name}: {str(error).splitlines()[0]}; --device cpu always works') from error
    return torch.device(name)
