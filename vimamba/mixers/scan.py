"""The operator as mixers call it."""

import torch
from torch import Tensor

import vimamba.kernels.selective_scan  # noqa: F401  (registers the operator in torch.ops.vimamba)

__all__ = ['scan', 'scan_each', 'scan_on']


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    rows: Tensor | None,
    steps: list[int],
) -> Tensor:
    """`vimamba.kernels.selective_scan.route_scan` for modules that are scripted or traced: its sum, as (b, l, d)."""
    save = torch.is_grad_enabled() and not torch.jit.is_tracing()  # a trace is the same with gradients and without
    y = torch.ops.vimamba.route_scan(u, delta, A, B, C, D, z, delta_bias, None, rows, steps, True, False, save, 'auto')[
        0
    ]
    return y.transpose(1, 2)


def scan_on(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`scan` of one route in memory order, from the state where the last part of a sequence ended: with the next."""
    save = torch.is_grad_enabled()
    options = ([1], True, False, save, 'auto')
    y, state = torch.ops.vimamba.route_scan(u, delta, A, B, C, D, z, delta_bias, state, None, *options)[:2]
    return y.transpose(1, 2), state


def scan_each(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None,
    delta_bias: Tensor,
    rows: Tensor | None,
    steps: list[int],
    shared: bool,
) -> list[Tensor]:
    """`scan` without the sum: of every route (b, l, d), for what stands between the routes and their sum.

    ``shared``: every route reads the same u, (b, d, l), instead of its own of (b, k, d, l).
    """
    outputs: list[Tensor] = []
    for k in range(len(steps)):
        one = slice(k, k + 1)
        own: Tensor | None = None
        if rows is not None:
            own = rows[one]
        u_k = u if shared else u[:, k]
        y = scan(u_k, delta[:, one], A[one], B[:, one], C[:, one], D[one], z, delta_bias[one], own, steps[one])
        outputs.append(y)
    return outputs
