"""What every backend of the selective scan is given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

CHUNK = 32  # steps between two saved states


class Scan(NamedTuple):
    """K scans over one copy of the tokens. Everything is in token order; (b, .., l) may have any strides.

    Legend: b batch, k routes, d channels, g groups, n states a channel, l tokens.
    """

    u: Tensor  # (b, d, l), read by every route, or (b, k, d, l)
    delta: Tensor  # (b, k, d, l)
    A: Tensor  # (k, d, n)
    B: Tensor  # (b, k, g, n, l)
    C: Tensor  # (b, k, g, n, l)
    D: Tensor | None  # (k, d)
    z: Tensor | None  # (b, d, l)
    delta_bias: Tensor | None  # (k, d)
    initial_state: Tensor | None  # (b, k, d, n)
    rows: Tensor | None  # (k, l) int32: the token that a route reads at each position
    steps: list[int]  # k steps, where there is no table: see `vimamba.kernels.routes`
    softplus: bool

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """What is differentiated."""
        return (self.u, self.delta, self.A, self.B, self.C, self.D, self.z, self.delta_bias, self.initial_state)
