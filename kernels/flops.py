"""FLOP formulas of the operators, for PyTorch's FlopCounterMode.

For b sequences of l tokens along k routes, with d channels of n states and w taps, a scan counts 9 b k l d n, as in
papers on vision state space models, plus one for each skip and each gate of an output. A convolution counts
2 b k l d w. A backward pass counts as two forward passes, as for a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

__all__ = ['conv_flops', 'register', 'scan_flops']

Shape = tuple[int, ...]


def scan_flops(u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, D: object = None, z: object = None, *_) -> int:
    """FLOPs of ``torch.ops.vimamba.route_scan`` from the shapes of its arguments."""
    k, d, n = A
    return u[0] * u[-1] * d * (9 * k * n + k * (D is not None) + (z is not None))


def conv_flops(x: Shape, weight: Shape, *_) -> int:
    """FLOPs of ``torch.ops.vimamba.route_conv1d`` from the shapes of its arguments."""
    k, d, w = weight
    return 2 * x[0] * x[-1] * k * d * w


def register(operator: str, forward: Callable[..., int], gradients: int) -> None:
    """Registers the formula of an operator and of its backward pass, which takes ``gradients`` gradients first."""
    if getattr(torch.ops.vimamba, operator) in flop_registry:  # by a copy of the module, see `operator.define`
        return
    register_flop_formula(getattr(torch.ops.vimamba, operator))(lambda *shapes, **_: forward(*shapes))
    backward = getattr(torch.ops.vimamba, f'{operator}_backward')
    register_flop_formula(backward)(lambda *shapes, **_: 2 * forward(*shapes[gradients:]))
