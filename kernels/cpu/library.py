"""The compiled CPU kernels: a shared library without torch or Python headers, called through ctypes.

`pip install` builds it if there is a C++ compiler. Without it every operator falls back to plain PyTorch.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import logging
import os
import struct
import zlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from vimamba.errors import UsageError, unknown_name

__all__ = ['describe', 'flat', 'is_built', 'library', 'pack', 'pointer', 'sum_parts', 'threads', 'token_rows']

LEVELS = ('avx512', 'avx2', 'generic')  # values of VIMAMBA_CPU: the highest level that isa.h may choose
_P, _N = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS = {  # name -> types of the result and of the arguments
    'scan_forward': (None, _P, _N),
    'scan_backward': (None, _P, _P, _N),
    'scan_parts': (_N, _P, _N),
    'conv_forward': (None, _P, _N),
    'conv_backward': (None, _P, _P, _N),
    'sum_parts': (None, _P, _P, _N, _N, _N),
    'sources': (_N,),
    'cpu': (ctypes.c_char_p,),
}
_WORTH = 100e-6  # seconds of work that justify one more thread


def _path() -> Path | None:
    files = (Path(__file__).with_name(f'_kernels{suffix}') for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def _sources() -> int | None:
    """Checksum of the sources, as setup.py compiles it into the library; None in a wheel, which has no sources."""
    folder = Path(__file__).parents[1]
    files = sorted([*folder.glob('*/*.cpp'), *folder.glob('*/*.h')])
    return zlib.crc32(b''.join(file.read_bytes() for file in files)) if files else None


def _check_level() -> None:
    level = os.environ.get('VIMAMBA_CPU', LEVELS[0])
    if level not in LEVELS:
        raise unknown_name('VIMAMBA_CPU', level, LEVELS)


@cache
def is_built() -> bool:
    """Whether there is a compiled library that this process can load.

    Raises:
        UsageError: VIMAMBA_CPU is not one of `LEVELS`.
    """
    _check_level()
    try:
        library()
    except UsageError as error:
        if _path() is not None:
            logging.getLogger('vimamba').warning('%s; until then, plain PyTorch', error)
        return False
    return True


@cache
def library() -> ctypes.CDLL:
    """The library.

    Raises:
        UsageError: it was not built or cannot be loaded, or VIMAMBA_CPU is not one of `LEVELS`.
    """
    _check_level()
    path = _path()
    if path is None:
        raise UsageError("backend 'cpu' was not built: install a C++ compiler and run pip install again")
    try:
        loaded = ctypes.CDLL(str(path))
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(loaded, f'vimamba_{name}')
            function.restype, function.argtypes = result, arguments
        if loaded.vimamba_sources() != (_sources() or loaded.vimamba_sources()):
            raise OSError('built from other sources')  # its structures may differ from those of cpu.py
    except (OSError, AttributeError) as error:
        raise UsageError(f"backend 'cpu': {path} cannot be loaded ({error}): run pip install again") from error
    return loaded


def describe() -> str:
    """The instruction set in use."""
    return f'compiled, {library().vimamba_cpu().decode()}'


def threads(seconds: float) -> int:
    """How many of torch's threads to use for so much work. The result of an operator does not depend on it."""
    return max(1, min(torch.get_num_threads(), int(seconds / _WORTH)))


def pack(values: list[int]) -> bytes:
    """A C structure of int64_t values and pointers."""
    return struct.pack(f'{len(values)}q', *values)


def pointer(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def flat(t: Tensor | None) -> Tensor | None:
    """The tensor in float32, contiguous."""
    if t is None or (t.dtype is torch.float32 and t.is_contiguous()):
        return t
    return t.float().contiguous()


def token_rows(t: Tensor) -> Tensor:
    """The tensor (..., m, l) in float32, with the m values of a token adjacent in memory."""
    if t.dtype is not torch.float32:
        t = t.float()
    *_, adjacent, apart = t.stride()
    if adjacent == 1 or t.shape[-2] == 1:
        return t
    if apart == 0:  # the same for all tokens, such as the gradient of a sum
        return t[..., :1].contiguous().expand(t.shape)
    return t.transpose(-1, -2).contiguous().transpose(-1, -2)


def sum_parts(t: Tensor, count: int) -> Tensor:
    """Sums over the first axis, in a fixed order for any number of threads."""
    if len(t) == 1:
        return t.squeeze(0)
    total = t.new_zeros(t.shape[1:])
    if len(t):
        library().vimamba_sum_parts(t.data_ptr(), total.data_ptr(), len(t), total.numel(), count)
    return total
