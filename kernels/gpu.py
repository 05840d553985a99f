"""Whether an operator takes its Triton kernels."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

__all__ = ['triton_runs', 'triton_wanted']


def triton_runs(device_type: str) -> bool:
    """On a GPU, where Triton is installed; under Triton's interpreter anywhere."""
    return (device_type == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1') and _has_triton()


def triton_wanted() -> bool:
    """Whether the user asked for them: no GPU has run them yet, so they are not chosen for anyone who did not."""
    return os.environ.get('VIMAMBA_TRITON') == '1'


@cache
def _has_triton() -> bool:
    return find_spec('triton') is not None
