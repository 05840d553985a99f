"""Chooses the backend of an operator."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from vimamba.errors import bad_argument

from .cpu.library import is_built, library

__all__ = ['choose']


def choose(backend: str, device_type: str, triton: bool, cpu: bool = False, limits: str = '') -> str:
    """The backend that computes. 'auto' takes Triton if VIMAMBA_TRITON=1, else the compiled library, else 'portable'.

    The Triton kernels have not run on a GPU yet, so users must opt in.

    Args:
        backend: 'auto' or the name of a backend.
        device_type: device type of the tensors.
        triton, cpu: whether these backends can compute the arguments, on a device that they run on.
        limits: the arguments that these backends accept, in words, for the error.

    Raises:
        UsageError: the backend cannot compute the arguments or is not there.
    """
    if backend == 'auto':
        if triton and os.environ.get('VIMAMBA_TRITON') == '1' and _triton_runs(device_type):
            return 'triton'
        return 'cpu' if cpu and device_type == 'cpu' and is_built() else 'portable'
    fits = {'triton': triton and _triton_runs(device_type), 'cpu': cpu and device_type == 'cpu'}
    if not fits.get(backend, True):
        where = {'triton': 'on a GPU, with Triton', 'cpu': 'on a CPU'}[backend]
        expected = f"'portable' on {device_type} for these tensors"
        raise bad_argument('backend', expected, repr(backend), f'it runs {where}, and takes {limits}')
    if backend == 'cpu':
        library()
    return backend


def _triton_runs(device_type: str) -> bool:
    """Whether Triton can run on this device: a GPU, or any device under Triton's interpreter."""
    return (device_type == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1') and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec('triton') is not None
