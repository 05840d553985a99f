"""Mamba-2: state space duality along the routes, as a core and as the block of sequence models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimamba.errors import bad_argument
from vimamba.kernels.ssd import ssd
from vimamba.layers.channel_attention import ChannelAttention
from vimamba.layers.linear import dense
from vimamba.layers.norm import RMSNorm, widen
from vimamba.scans import ScanOrder

from .init import init_dt_bias
from .mixer import Core, SequenceMixer, convolve, merge_routes, project, register_mixer
from .routes import FixedScan, MapScan, Routes

__all__ = ['SSD', 'Mamba2', 'scan_heads']


def scan_heads(
    u: Tensor, dt: Tensor, B: Tensor, C: Tensor, A_log: Tensor, D: Tensor, dt_bias: Tensor, routes: Routes
) -> Tensor:
    """SSD along K routes (arXiv:2405.21060, Eq. 1), each with h heads; everything in token order.

    Args:
        u: (b, K or 1, h * p, l).
        dt: step sizes before bias and softplus (b, K, h, l).
        B, C: (b, K, n, l).
        A_log, dt_bias: (K, h).
        D: (K, h) or (K, h, p).
        routes: where to read.

    Returns:
        (b, K, l, h * p).
    """
    k, heads = A_log.shape
    u, dt, B, C = (routes.read(t).permute(0, 3, 1, 2) for t in (u, dt, B, C))  # (b, l, K, .)
    y = ssd(
        u.reshape(*u.shape[:2], k * heads, -1),
        dt.flatten(2),
        -torch.exp(widen(A_log)).flatten(),
        B,
        C,
        widen(D).flatten(0, 1),
        dt_bias=widen(dt_bias).flatten(),
        dt_softplus=True,
    )
    return routes.unread(y.reshape(u.shape).permute(0, 2, 3, 1)).transpose(2, 3)


class SSD(Core):
    """State space duality of Mamba-2 (arXiv:2405.21060): one step size and one A per head, parameters for each route.

        dt_k, B_k, C_k = x_proj_k(u);  y_k = ssd(u, softplus(dt_k + dt_bias_k), A_k, B_k, C_k, D_k)  along route k
        out = sum_k merge(y_k)

    Shape: u (b, l, dim) or (b, K, l, dim) -> (b, l - pads, dim).

    Args:
        dim: channels (d_inner).
        routes: K.
        d_state: states per channel (N).
        d_model: not used.
        headdim: channels per head.

    Raises:
        UsageError: ``headdim`` does not divide ``dim``.
    """

    no_weight_decay = ('A_log', 'D')
    grid_act = nn.GELU

    def __init__(
        self,
        dim: int,
        routes: int,
        d_state: int = 64,
        d_model: int | None = None,
        headdim: int = 16,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if dim % headdim:
            raise bad_argument('headdim', f'a divisor of the {dim} channels', headdim)
        dd = {'device': device, 'dtype': dtype}
        heads = dim // headdim
        self.splits = [heads, d_state, d_state]
        self.x_proj = nn.Parameter(torch.empty(routes, heads + 2 * d_state, dim, **dd))
        self.dt_bias = nn.Parameter(torch.empty(routes, heads, **dd))
        self.A_log = nn.Parameter(torch.empty(routes, heads, **dd))
        self.D = nn.Parameter(torch.empty(routes, heads, headdim, **dd))

    def reset_parameters(self) -> None:
        """x_proj uniform in dim^-1/2, dt_bias uniform in [0, 0.1], A = -1, D = 1."""
        bound = self.x_proj.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj, -bound, bound)
        nn.init.uniform_(self.dt_bias, 0, 0.1)
        nn.init.zeros_(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, u: Tensor, routes: Routes) -> Tensor:
        dt, B, C = project(u, self.x_proj).permute(1, 0, 3, 2).split(self.splits, 2)
        u = u.unsqueeze(1) if u.ndim == 3 else u
        y = scan_heads(u.transpose(2, 3), dt, B, C, self.A_log, self.D, self.dt_bias, routes)
        return merge_routes(y, routes, self.merge)


class HeadRoute(nn.Module):
    """Parameters of one route: the convolution of x, B and C; step size, A and D of every head."""

    no_weight_decay = ('A_log', 'D')

    def __init__(self, channels: int, heads: int, d_conv: int, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1, **dd)
        self.dt_bias = nn.Parameter(torch.empty(heads, **dd))
        self.A_log = nn.Parameter(torch.empty(heads, **dd))
        self.D = nn.Parameter(torch.empty(heads, **dd))

    def reset_parameters(self) -> None:
        """-A uniform in [1, 16], softplus of dt_bias log-uniform in [0.001, 0.1], D = 1; PyTorch's convolution."""
        self.conv1d.reset_parameters()
        init_dt_bias(self.dt_bias)
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
        nn.init.ones_(self.D)


class Mamba2(SequenceMixer):
    """Mamba-2 block along K routes, merged in front of one gated norm and output projection (arXiv:2405.21060, Fig. 6).

        z, x, (B_k, C_k, dt_k) = in_proj(tokens)
        for each route k, in its order:  u, B, C = silu(conv1d_k(x, B_k, C_k));  y_k = ssd_k(u, dt_k, A_k, B, C, D_k)
        out = out_proj(norm(mean_k or sum_k y_k * silu(z)))

    Shape: (b, l, d_model) or (b, *grid, d_model), kept; tokens in memory order.

    Args:
        d_model, scan, d_conv, expand, merge: as in `CoreMixer`.
        d_state: states per channel (N).
        headdim: channels per head.

    Raises:
        UsageError: ``headdim`` does not divide d_inner.
    """

    def __init__(
        self,
        d_model: int,
        scan: ScanOrder | FixedScan | MapScan,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        merge: str = 'mean',
        device=None,
        dtype=None,
    ):
        super().__init__(scan, merge, device)
        dd = {'device': device, 'dtype': dtype}
        d_inner, k = expand * d_model, self.scan.count
        if d_inner % headdim:
            raise bad_argument('headdim', f'a divisor of the {d_inner} channels', headdim)
        heads = d_inner // headdim
        self.splits = [d_inner, d_inner, *[2 * d_state] * k, *[heads] * k]
        self.in_proj = nn.Linear(d_model, sum(self.splits), bias=False, **dd)
        self.routes = nn.ModuleList(HeadRoute(d_inner + 2 * d_state, heads, d_conv, **dd) for _ in range(k))
        self.attention = ChannelAttention(d_inner, **dd) if merge == 'attention' else None
        self.norm = RMSNorm(d_inner, **dd)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False, **dd)

    def mix(self, x: Tensor, routes: Routes) -> Tensor:
        tokens, k = x.shape[1], len(self.routes)
        z, x, *parts = routes.pad(dense(self.in_proj, x)).split(self.splits, -1)
        d_inner, d_state = x.shape[-1], parts[0].shape[-1] // 2
        convolved = [
            convolve(torch.cat((x, BC), -1).transpose(1, 2), [route.conv1d], routes.only(i))
            for i, (BC, route) in enumerate(zip(parts, self.routes))
        ]
        u, B, C = torch.cat(convolved, 1).split([d_inner, d_state, d_state], 2)  # (b, k, ., l)
        dt = torch.stack(parts[k:], 1).transpose(2, 3)
        A_log, D, dt_bias = (
            torch.stack([getattr(route, name) for route in self.routes]) for name in ('A_log', 'D', 'dt_bias')
        )
        y = merge_routes(scan_heads(u, dt, B, C, A_log, D, dt_bias, routes), routes, self.attention)
        return dense(self.out_proj, self.norm(y * self.scale * F.silu(widen(z[:, :tokens]))))


register_mixer('mamba2', Mamba2)(SSD)
