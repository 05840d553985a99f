"""Comparisons of tensors, and the tolerances of the test suite."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['PARITY', 'RMS', 'assert_close_to_float64', 'assert_parity', 'relative_l2']

PARITY = 2e-5  # relative L2 against an official implementation in float32, whose noise is 4e-7 to 2e-6
RMS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 5e-3}


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||, in float64; 0 when both are zero or empty.

    >>> relative_l2(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]))
    0.0
    """
    actual, expected = actual.detach().double(), expected.detach().double()
    if actual.shape != expected.shape:
        raise AssertionError(f'shape {tuple(actual.shape)}, expected {tuple(expected.shape)}')
    error, norm = (actual - expected).norm().item(), expected.norm().item()
    return error if norm == 0 else error / norm


def assert_parity(actual: Tensor, expected: Tensor, what: str = 'output', tolerance: float = PARITY) -> None:
    """Asserts agreement with an official implementation's float32 output."""
    error = relative_l2(actual, expected)
    assert error <= tolerance, f'{what}: relative L2 error {error:.2e} > {tolerance:.0e}'


def assert_close_to_float64(actual: Tensor, twin: Tensor, dtype: torch.dtype, what: str = 'output') -> None:
    """Asserts that a computation with ``dtype`` inputs agrees with its float64 twin on the same (rounded) inputs.

    The root-mean-square error relative to the twin is at most 1e-12 (float64), 1e-5 (float32) or 5e-3 (16 bits).
    """
    error = relative_l2(actual, twin)
    assert error <= RMS[dtype], f'{what}: relative RMS error {error:.2e} > {RMS[dtype]:.0e} for {dtype}'
