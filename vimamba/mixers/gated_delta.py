"""Gated DeltaNet: each token decays, corrects and reads the state."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimamba.errors import bad_argument
from vimamba.kernels.gated_delta import gated_delta
from vimamba.layers.norm import RMSNorm, widen

from .init import init_dt_bias
from .mixer import Core, merge_routes, project, register_mixer
from .routes import IN_ORDER, Routes

__all__ = ['GatedDelta']


@register_mixer('gated_delta')
class GatedDelta(Core):
    """Gated delta rule along the routes, with parameters for each route (arXiv:2412.06464, Eq. 10 and Fig. 1).

        q_k, k_k, a_k, b_k = x_proj_k(u), heads of u are the values
        g_k = -exp(A_log_k) softplus(a_k + dt_bias_k)
        y_k = norm(gated_delta(q_k / |q_k|, k_k / |k_k|, u, g_k, sigmoid(b_k)))      along route k
        out = sum_k merge(y_k)

    Shape: u (b, l, dim) or (b, K, l, dim) -> (b, l - pads, dim).

    Args:
        dim: channels (d_inner).
        routes: K.
        d_model: not used.
        d_state: channels of a query or key of each head.
        headdim: channels of a value, which heads divide ``dim`` into.

    Raises:
        UsageError: ``headdim`` does not divide ``dim``.
    """

    no_weight_decay = ('A_log', 'dt_bias')

    def __init__(
        self,
        dim: int,
        routes: int,
        d_model: int | None = None,
        d_state: int = 16,
        headdim: int = 32,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if dim % headdim:
            raise bad_argument('headdim', f'a divisor of the {dim} channels', headdim)
        dd = {'device': device, 'dtype': dtype}
        heads, self.headdim = dim // headdim, headdim
        self.splits = [heads * d_state, heads * d_state, heads, heads]
        self.x_proj = nn.Parameter(torch.empty(routes, sum(self.splits), dim, **dd))
        self.dt_bias = nn.Parameter(torch.empty(routes, heads, **dd))
        self.A_log = nn.Parameter(torch.empty(routes, heads, **dd))
        self.norm = RMSNorm(headdim, **dd)

    def reset_parameters(self) -> None:
        """x_proj uniform in dim^-1/2; A uniform in [1, 16]; softplus of dt_bias log-uniform in [0.001, 0.1]; norm 1."""
        bound = self.x_proj.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj, -bound, bound)
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
        init_dt_bias(self.dt_bias)
        self.norm.reset_parameters()

    def forward(self, u: Tensor, routes: Routes) -> Tensor:
        return merge_routes(self.run(u, routes)[0], routes, self.merge)

    def resume(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        y, state = self.run(u, IN_ORDER, None if state is None else state.flatten(1, 2))
        return y[:, 0], state.unsqueeze(1)

    def run(self, u: Tensor, routes: Routes, state: Tensor | None = None) -> tuple[Tensor, Any]:
        """The output of every route (b, K, l, dim) and their last states (b, K * heads, d_state, headdim)."""
        projected = project(u, self.x_proj).permute(1, 0, 3, 2)
        u = u.unsqueeze(1) if u.ndim == 3 else u
        # (b, l, K, .) in scan order
        u, projected = (routes.read(t).permute(0, 3, 1, 2) for t in (u.transpose(2, 3), projected))
        q, k, a, b = projected.split(self.splits, -1)
        g = -torch.exp(widen(self.A_log)) * F.softplus(widen(a) + widen(self.dt_bias))
        q, k, v = (t.unflatten(-1, (self.splits[2], -1)).flatten(2, 3) for t in (q, k, u))  # (b, l, K * heads, .)
        q, k = F.normalize(widen(q), dim=-1), F.normalize(widen(k), dim=-1)  # float16 has no 1e-12
        y, state = gated_delta(
            q, k, v, g.flatten(2), b.sigmoid().flatten(2), initial_state=state, return_last_state=True
        )
        y = self.norm(y).view(u.shape)
        return routes.unread(y.permute(0, 2, 3, 1)).transpose(2, 3), state
