"""How many operations the operators are worth to a counter; without these, PyTorch's FlopCounterMode counts none.

Of b sequences of l tokens along k routes, with d channels of n states and w taps: a scan is worth 9 b k l d n, the
count of papers on vision state-space models, and one more for each output that has a skip or a gate; a convolution
2 b k l d w. A backward pass is worth two forward passes, as it is of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

__all__ = ['conv_flops', 'register', 'scan_flops']

Shape = tuple[int, ...]


def scan_flops(u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, D: object = None, z: object = None, *_) -> int:
    """Of ``torch.ops.vimamba.route_scan``, from the shapes of its arguments."""
    k, d, n = A
    return u[0] * u[-1] * d * (9 * k * n + k * (D is not None) + (z is not None))


def conv_flops(x: Shape, weight: Shape, *_) -> int:
    """Of ``torch.ops.vimamba.route_conv1d``, from the shapes of its arguments."""
    k, d, w = weight
    return 2 * x[0] * x[-1] * k * d * w


def register(operator: str, forward: Callable[..., int], gradients: int) -> None:
    """Counts an operator, and its backward pass, which takes so many gradients before the same arguments."""
    if getattr(torch.ops.vimamba, operator) in flop_registry:  # by a copy of the module, see `operator.define`
        return
    register_flop_formula(getattr(torch.ops.vimamba, operator))(lambda *shapes, **_: forward(*shapes))
    backward = getattr(torch.ops.vimamba, f'{operator}_backward')
    register_flop_formula(backward)(lambda *shapes, **_: 2 * forward(*shapes[gradients:]))
