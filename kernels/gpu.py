"""Whether operators use their Triton kernels."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

__all__ = ['triton_runs', 'triton_wanted']


def triton_runs(device_type: str) -> bool:
    """Whether Triton can run on this device: a GPU, or any device under Triton's interpreter."""
    return (device_type == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1') and _has_triton()


def triton_wanted() -> bool:
    """Whether VIMAMBA_TRITON=1. The kernels have not run on a GPU yet, so users must opt in."""
    return os.environ.get('VIMAMBA_TRITON') == '1'


@cache
def _has_triton() -> bool:
    return find_spec('triton') is not None
