"""The arguments of every backend of the selective scan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vimamba.kernels.routes import swap


class Scan(NamedTuple):
    """K scans over one copy of the tokens, everything in token order. Tensors (b, .., l) may have any strides.

    Legend: b batch, k routes, d channels, g groups, n states a channel, l tokens.
    """

    u: Tensor  # (b, d, l) shared by the routes, or (b, k, d, l)
    delta: Tensor  # (b, k, d, l)
    A: Tensor  # (k, d, n)
    B: Tensor  # (b, k, g, n, l)
    C: Tensor  # (b, k, g, n, l)
    D: Tensor | None  # (k, d)
    z: Tensor | None  # (b, d, l)
    delta_bias: Tensor | None  # (k, d)
    initial_state: Tensor | None  # (b, k, d, n)
    rows: Tensor | None  # (k, l) int32: the token of each position of a route
    steps: list[int]  # k steps, used if there is no table: see `vimamba.kernels.routes`
    softplus: bool
    each: bool = False  # the output is (b, k, d, l), one for each route, instead of their sum (b, d, l)


def empty_output(s: Scan, dtype: torch.dtype) -> Tensor:
    """The output, not filled: (b, d, l) in memory as (b, l, d), or (b, k, d, l) in memory as (k, b, l, d)."""
    (k, d, _), b, l = s.A.shape, s.u.shape[0], s.u.shape[-1]
    return swap(torch.empty((k, b, l, d) if s.each else (b, l, d), dtype=dtype, device=s.u.device))


def differentiated(s: Scan) -> tuple[Tensor | None, ...]:
    """The tensors that have gradients. It is not a method, because torch 2.10's compiler does not trace those."""
    return s[:9]


AXES = {'u': 'bkdl', 'delta': 'bkdl', 'A': 'kdn', 'B': 'bkgnl', 'C': 'bkgnl', 'D': 'kd', 'z': 'bdl',
        'delta_bias': 'kd', 'initial_state': 'bkdn'}  # fmt: skip


def empty_grads(s: Scan, memory: Mapping[str, str]) -> list[Tensor]:
    """Empty gradients of the tensors that are not None, with the strides of a backend.

    Args:
        s: the scan.
        memory: name -> axes in the order of memory, the last one adjacent. The default is the order of `AXES`.
    """
    grads = []
    for name, t in zip(AXES, differentiated(s)):
        if t is not None:
            axes = AXES[name] if t.ndim == len(AXES[name]) else 'bdl'  # u, shared by the routes
            order = [axes.index(axis) for axis in memory.get(name, axes) if axis in axes]
            grad = t.new_empty([t.shape[i] for i in order])
            grads.append(grad.permute([order.index(i) for i in range(len(order))]))
    return grads
