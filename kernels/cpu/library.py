"""The compiled CPU kernels: a shared library without torch or Python headers, called through ctypes.

`pip install` builds it where there is a C++ compiler; without it every operator has a path in plain PyTorch.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vimamba.errors import UsageError

__all__ = ['describe', 'fields', 'is_built', 'library', 'pointer', 'sum_parts', 'threads', 'token_rows']

_P, _N = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS = {
    'scan_forward': [_P, _N],
    'scan_backward': [_P, _P, _N],
    'conv_forward': [_P, _N],
    'conv_backward': [_P, _P, _N],
    'sum_parts': [_P, _P, _N, _N, _N],
}
_WORTH = 100e-6  # seconds of work for which a thread is started


def _path() -> Path | None:
    files = (Path(__file__).with_name(f'_kernels{suffix}') for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


@cache
def is_built() -> bool:
    """Whether there is a compiled library that this process can load."""
    try:
        library()
    except UsageError:
        return False
    return True


@cache
def library() -> ctypes.CDLL:
    """The library.

    Raises:
        UsageError: it was not built, or cannot be loaded.
    """
    path = _path()
    if path is None:
        raise UsageError("backend 'cpu' was not built: install a C++ compiler and run pip install again")
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.vimamba_cpu.restype = ctypes.c_char_p
        for name, arguments in _FUNCTIONS.items():
            function = getattr(loaded, f'vimamba_{name}')
            function.restype, function.argtypes = None, arguments
        loaded.vimamba_scan_parts.argtypes, loaded.vimamba_scan_parts.restype = [_P, _N], _N
    except (OSError, AttributeError) as error:
        raise UsageError(f"backend 'cpu': {path} cannot be loaded ({error}): run pip install again") from error
    return loaded


def describe() -> str:
    """The instruction set in use."""
    return f'compiled, {library().vimamba_cpu().decode()}'


def threads(seconds: float) -> int:
    """How many of torch's threads so much work is worth; the result of an operator does not depend on it."""
    return max(1, min(torch.get_num_threads(), int(seconds / _WORTH)))


def fields(names: str, kind: type) -> list[tuple[str, type]]:
    """Fields of a ctypes.Structure."""
    return [(name, kind) for name in names.split()]


def pointer(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def token_rows(t: Tensor) -> Tensor:
    """(..., m, l) -> (..., l, m) in float32 with the m values of a token adjacent."""
    t = t.float().transpose(-1, -2)
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def sum_parts(t: Tensor, count: int) -> Tensor:
    """The sum over the first axis, in order whatever the number of threads."""
    if len(t) == 1:
        return t[0]
    total = t.new_zeros(t.shape[1:])
    if len(t):
        library().vimamba_sum_parts(t.data_ptr(), total.data_ptr(), len(t), total.numel(), count)
    return total
