"""Mamba-1: selective scans along the routes, as a core and as the block of published sequence models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import vimamba.kernels.selective_scan  # noqa: F401  (registers its operator in torch.ops.vimamba)
from vimamba.layers.channel_attention import ChannelAttention
from vimamba.layers.linear import dense, is_plain
from vimamba.layers.norm import widen
from vimamba.scans import ScanOrder

from .init import init_A_log, init_dt
from .mixer import Core, SequenceMixer, convolve, merge_routes, project, register_mixer
from .routes import IN_ORDER, FixedScan, MapScan, Routes

__all__ = ['Mamba1', 'SelectiveScan', 'project_scan', 'scan']


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor | None,
    routes: Routes,
    z: Tensor | None = None,
    state: Tensor | None = None,
    each: bool = False,
) -> tuple[Tensor, Tensor]:
    """`vimamba.kernels.selective_scan.route_scan` with softplus: its sum (b, l, d), and the last state of each route.

    With ``each`` the output of every route instead of their sum, (b, k, l, d).
    """
    tensors = (u, delta, A, B.unsqueeze(2), C.unsqueeze(2), D, z, bias, state)
    options = (routes.rows, routes.steps, True, each, torch.is_grad_enabled(), 'auto')
    y, last = torch.ops.vimamba.route_scan(*tensors, *options)[:2]
    return y.transpose(-1, -2), last


def project_scan(u: Tensor, x_proj: Tensor, dt_proj: Tensor, splits: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(delta, B, C) of Mamba-1 for k routes; the bias of delta enters in the scan.

    Args:
        u: (b, l, d), read by every route, or (b, k, l, d).
        x_proj: (k, dt_rank + 2 n, d).
        dt_proj: (k, dt_rank, d).
        splits: (dt_rank, n, n).

    Returns:
        delta (b, k, d, l), B and C (b, k, n, l).
    """
    dt, B, C = project(u, x_proj).split(splits, -1)
    delta = torch.bmm(dt.flatten(1, 2), dt_proj.to(dt.dtype)).view(dt.shape[:3] + dt_proj.shape[2:])
    return tuple([t.permute(1, 0, 3, 2) for t in (delta, B, C)])


class SelectiveScan(Core):
    """Selective scans of Mamba-1, with parameters for each route (arXiv:2401.10166, Fig. 3).

        delta_k, B_k, C_k = project_k(u)
        y_k = selective_scan(u, softplus(delta_k), A_k, B_k, C_k, D_k)      along route k
        out = sum_k merge(y_k)

    Projections are pointwise and run once, in memory order; the kernel reads in scan order and sums.

    Shape: u (b, l, dim) or (b, K, l, dim) -> (b, l - pads, dim).

    Args:
        dim: channels (d_inner).
        routes: K.
        d_state: states per channel (N).
        d_model: width that ``dt_rank`` derives from; ``dim`` if None.
        dt_rank: rank of the projection of delta (R); ceil(d_model / 16) if None.
    """

    no_weight_decay = ('A_log', 'D')

    def __init__(
        self,
        dim: int,
        routes: int,
        d_state: int = 16,
        d_model: int | None = None,
        dt_rank: int | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        dt_rank = dt_rank or math.ceil((d_model or dim) / 16)
        self.splits = [dt_rank, d_state, d_state]
        self.x_proj = nn.Parameter(torch.empty(routes, dt_rank + 2 * d_state, dim, **dd))
        self.dt_proj = nn.Parameter(torch.empty(routes, dim, dt_rank, **dd))
        self.dt_bias = nn.Parameter(torch.empty(routes, dim, **dd))
        self.A_log = nn.Parameter(torch.empty(routes, dim, d_state, **dd))
        self.D = nn.Parameter(torch.empty(routes, dim, **dd))

    def reset_parameters(self) -> None:
        """x_proj uniform in dim^-1/2, dt_proj and dt_bias by `init_dt`, A = -(1 ... d_state), D = 1."""
        bound = self.x_proj.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj, -bound, bound)
        init_dt(self.dt_proj, self.dt_bias)
        init_A_log(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, u: Tensor, routes: Routes) -> Tensor:
        y, _ = scan(*self.operands(u), routes, each=self.merge is not None)
        return y[:, : y.shape[1] - routes.pads] if self.merge is None else merge_routes(y, routes, self.merge)

    def resume(self, u: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return scan(*self.operands(u), IN_ORDER, state=state)

    def operands(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The operands of the scan, u to the bias of delta."""
        delta, B, C = project_scan(u, self.x_proj, self.dt_proj.transpose(1, 2), self.splits)
        A = -torch.exp(widen(self.A_log))
        return u.transpose(-1, -2), delta, A, B, C, widen(self.D), widen(self.dt_bias)


class Projections(nn.Module):
    """Parameters of the convolution and of (delta, B, C) of a Mamba-1 inner block (arXiv:2312.00752, Fig. 3)."""

    no_weight_decay = ('D',)

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1, **dd)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False, **dd)
        self.dt_proj = nn.Linear(dt_rank, d_inner, **dd)
        self.D = nn.Parameter(torch.empty(d_inner, **dd))

    def reset_parameters(self) -> None:
        """dt_proj by `init_dt`; D = 1; PyTorch's values for the rest."""
        self.conv1d.reset_parameters()
        self.x_proj.reset_parameters()
        init_dt(self.dt_proj.weight, self.dt_proj.bias)
        nn.init.ones_(self.D)


class Route(nn.Module):
    """The state matrix of one route, A = -exp(A_log): () -> A_log (d_inner, d_state)."""

    no_weight_decay = ('A_log',)

    def __init__(self, d_inner: int, d_state: int, device=None, dtype=None):
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        init_A_log(self.A_log)

    def forward(self) -> Tensor:
        return self.A_log


class Mamba1(SequenceMixer):
    """Mamba-1 block along K routes, merged in front of one output projection (arXiv:2401.09417, Alg. 1).

        x, z = in_proj(tokens)
        for each route k, in its order:  u = silu(conv1d_k(x));  delta, B, C = project_k(u)
                                         y_k = selective_scan(u, delta, A_k, B, C, D_k) * silu(z)
        out = out_proj(mean_k or sum_k y_k)

    Parameters are laid out as in published checkpoints. The projections of all routes run as one product where they are
    plain layers; adapted, quantised or hooked layers are called one by one.

    Shape: (b, l, d_model) or (b, *grid, d_model), kept; tokens in memory order.

    Args:
        d_model, scan, d_conv, expand, merge: as in `CoreMixer`.
        d_state: states per channel (N).
        dt_rank: rank of the projection of delta; ceil(d_model / 16) if None.
        share_routes: one convolution, in memory order, and one set of projections for all routes; each route keeps its
            own A (Vim's "bimamba v1").
    """

    def __init__(
        self,
        d_model: int,
        scan: ScanOrder | FixedScan | MapScan,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        share_routes: bool = False,
        merge: str = 'mean',
        device=None,
        dtype=None,
    ):
        super().__init__(scan, merge, device)
        dd = {'device': device, 'dtype': dtype}
        d_inner, dt_rank, k = expand * d_model, dt_rank or math.ceil(d_model / 16), self.scan.count
        self.splits = [dt_rank, d_state, d_state]
        self.share_routes = share_routes
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False, **dd)
        self.projections = nn.ModuleList(
            Projections(d_inner, d_state, d_conv, dt_rank, **dd) for _ in range(1 if share_routes else k)
        )
        self.routes = nn.ModuleList(Route(d_inner, d_state, **dd) for _ in range(k))
        self.attention = ChannelAttention(d_inner, **dd) if merge == 'attention' else None
        self.out_proj = nn.Linear(d_inner, d_model, bias=False, **dd)

    @property
    def convs(self) -> list[nn.Conv1d]:  # type: ignore[override]
        return [part.conv1d for part in self.projections]

    def mix(self, x: Tensor, routes: Routes) -> Tensor:
        tokens = x.shape[1]
        x, z = routes.pad(dense(self.in_proj, x)).chunk(2, -1)
        u = convolve(x.transpose(1, 2), self.convs, IN_ORDER if self.share_routes else routes)
        y, _ = scan(*self.operands(u), routes, z.transpose(1, 2), each=self.attention is not None)
        y = y[:, :tokens] if self.attention is None else merge_routes(y, routes, self.attention)
        y = dense(self.out_proj, y)
        return y if self.scale == 1.0 else y * self.scale

    def resume(self, u: Tensor, z: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        return scan(*self.operands(u), IN_ORDER, z.transpose(1, 2), hidden)

    def operands(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """The operands of the scan, u to the bias of delta, from the convolved tokens (b, p, d, l) of p projections."""
        parts, k = self.projections, len(self.routes)
        A = -torch.exp(widen(torch.stack([route() for route in self.routes])))  # (k, d, n)
        D, bias = widen(torch.stack([part.D for part in parts])), None
        x_projs, dt_projs = [part.x_proj for part in parts], [part.dt_proj for part in parts]
        if is_plain(*x_projs, *dt_projs):
            x_proj = torch.stack([layer.weight for layer in x_projs])
            dt_proj = torch.stack([layer.weight.t() for layer in dt_projs])
            bias = widen(torch.stack([layer.bias for layer in dt_projs]))
            delta, B, C = project_scan(u.transpose(2, 3), x_proj, dt_proj, self.splits)
        else:
            projected = []
            for x_proj, dt_proj, u_k in zip(x_projs, dt_projs, u.unbind(1)):
                dt, B, C = x_proj(u_k.mT).split(self.splits, -1)
                projected.append([t.mT for t in (dt_proj(dt), B, C)])
            delta, B, C = (torch.stack(ts, 1) for ts in zip(*projected))
        if self.share_routes:
            u = u.squeeze(1)
            delta, B, C = [t.expand(-1, k, -1, -1) for t in (delta, B, C)]
            D, bias = D.expand(k, -1), None if bias is None else bias.expand(k, -1)
        return u, delta, A, B, C, D, bias


register_mixer('mamba1', Mamba1)(SelectiveScan)
