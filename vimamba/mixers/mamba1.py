"""Mamba-1 as a sequence mixer: the convolution and the scan run along each route of a scan order."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vimamba.kernels.selective_scan  # noqa: F401  (registers torch.ops.vimamba.selective_scan)
from vimamba.errors import bad_argument
from vimamba.layers.norm import widen
from vimamba.scans import ScanOrder


class Projections(nn.Module):
    """Causal convolution and input-dependent (delta, B, C) of a Mamba-1 inner block (arXiv:2312.00752, Fig. 3).

    Shape: (b, l, d_inner) -> u (b, l, d_inner), delta (b, l, d_inner) without its bias, B and C (b, l, d_state).
    """

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.splits = [dt_rank, d_state, d_state]
        self.pad = d_conv - 1
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=self.pad, **dd)
        self.x_proj = nn.Linear(d_inner, sum(self.splits), bias=False, **dd)
        self.dt_proj = nn.Linear(dt_rank, d_inner, **dd)
        self.D = nn.Parameter(torch.empty(d_inner, **dd))

    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> None:
        """dt_proj such that softplus of its bias is log-uniform in [dt_min, dt_max]; D = 1; the rest PyTorch's."""
        self.conv1d.reset_parameters()
        self.x_proj.reset_parameters()
        bound = self.splits[0] ** -0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        with torch.no_grad():
            log_dt = torch.empty_like(self.dt_proj.bias).uniform_(math.log(dt_min), math.log(dt_max))
            dt = log_dt.exp().clamp(min=dt_floor)
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        nn.init.ones_(self.D)

    def forward(self, x: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # padded on both sides, the convolution is causal in the first l steps of its output and, with the kernel
        # turned round, anti-causal in the last l: a reversed route needs no reversed copy of its input
        weight, skip = self.conv1d.weight, 0
        if reverse:
            weight, skip = weight.flip(-1), self.pad
        u = F.conv1d(x.transpose(1, 2), weight, self.conv1d.bias, padding=self.pad, groups=x.shape[-1])
        u = F.silu(u[..., skip : skip + x.shape[1]]).transpose(1, 2)
        dt, B, C = self.x_proj(u).split(self.splits, -1)
        return u, F.linear(dt, self.dt_proj.weight), B, C  # the bias goes into the softplus, once


class Route(nn.Module):
    """One route: where it reads (set by `set_order`) and its state matrix A."""

    def __init__(self, d_inner: int, d_state: int, device=None, dtype=None):
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state, device=device, dtype=dtype))
        self.reverse = False
        self.register_buffer('index', None, persistent=False)
        self.register_buffer('inverse', None, persistent=False)

    def reset_parameters(self) -> None:
        """A = -(1 ... d_state) for every channel (S4D-real, arXiv:2206.11893)."""
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, self.A_log.shape[1] + 1, device=self.A_log.device).log())

    def set_order(self, index: Tensor, inverse: Tensor) -> None:
        """Reads rows ``index`` (l,). Memory order, forth or back, needs no table and works at any length."""
        rows = torch.arange(len(index), device='cpu')
        self.reverse = len(index) > 1 and torch.equal(index, rows.flip(0))
        table = not self.reverse and not torch.equal(index, rows)
        self.index = index.to(self.A_log.device) if table else None
        self.inverse = inverse.to(self.A_log.device) if table else None

    def read(self, x: Tensor) -> Tensor:
        """Rows of x (b, l, d) in the order of the route; a reversed route is read backwards by the kernels."""
        index = self.index
        return x if index is None else x.index_select(1, index)

    def scan(self, read: list[Tensor], D: Tensor, dt_bias: Tensor) -> Tensor:
        """Gated scan of [u, delta, B, C, z], each (b, l, .) as read along the route; back in memory order."""
        u, delta, B, C, z = [t.transpose(1, 2) for t in read]
        out, _ = torch.ops.vimamba.selective_scan(
            u,
            delta,
            -torch.exp(widen(self.A_log)),
            B.unsqueeze(1),
            C.unsqueeze(1),
            widen(D),
            z,
            widen(dt_bias),
            None,
            True,
            self.reverse,
            'auto',
        )
        inverse = self.inverse
        return out.transpose(1, 2) if inverse is None else out.transpose(1, 2).index_select(1, inverse)


class Mamba1(nn.Module):
    """Mamba-1 block run along K routes, merged before one output projection (arXiv:2401.09417, Alg. 1).

        x, z = in_proj(tokens)
        for each route k, in its order:  u = silu(conv1d_k(x));  delta, B, C = project_k(u)
                                         y_k = selective_scan(u, delta, A_k, B, C, D_k) * silu(z)
        out = out_proj(mean_k or sum_k y_k)

    Shape: (b, l, d_model) -> (b, l, d_model), tokens in memory order.

    Args:
        d_model: width of the tokens.
        order: the routes over the tokens (K = ``order.routes``).
        d_state: states a channel (N).
        d_conv: width of the causal convolution.
        expand: d_inner = expand * d_model.
        dt_rank: rank of delta's projection; ceil(d_model / 16) if None.
        share_routes: one convolution, in memory order, and one set of projections for all routes; A stays each
            route's own (Vim's "bimamba v1").
        merge: 'mean' or 'sum' over the routes.
    """

    def __init__(
        self,
        d_model: int,
        order: ScanOrder,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        share_routes: bool = False,
        merge: str = 'mean',
        device=None,
        dtype=None,
    ):
        super().__init__()
        if merge not in ('mean', 'sum'):
            raise bad_argument('merge', "'mean' or 'sum'", repr(merge))
        dd = {'device': device, 'dtype': dtype}
        d_inner, dt_rank = expand * d_model, dt_rank or math.ceil(d_model / 16)
        self.share_routes = share_routes
        self.scale = 1.0 / order.routes if merge == 'mean' else 1.0
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False, **dd)
        self.projections = nn.ModuleList(
            Projections(d_inner, d_state, d_conv, dt_rank, **dd) for _ in range(1 if share_routes else order.routes)
        )
        self.routes = nn.ModuleList(Route(d_inner, d_state, **dd) for _ in range(order.routes))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False, **dd)
        self.set_order(order)

    def set_order(self, order: ScanOrder) -> None:
        """Changes the tokens or the routes that are read; the number of routes stays."""
        if order.routes != len(self.routes):
            raise bad_argument('order', f'{len(self.routes)} routes', f'{order.routes}')
        for route, index, inverse in zip(self.routes, order.index, order.inverse):
            route.set_order(index, inverse)

    def reset_parameters(self) -> None:
        for module in (self.in_proj, self.out_proj, *self.projections, *self.routes):
            module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, -1)
        outs: list[Tensor] = []
        if self.share_routes:
            for shared in self.projections:
                u, delta, B, C = shared(x, False)
                for route in self.routes:
                    read = [route.read(t) for t in (u, delta, B, C, z)]
                    outs.append(route.scan(read, shared.D, shared.dt_proj.bias))
        else:
            for own, route in zip(self.projections, self.routes):
                u, delta, B, C = own(route.read(x), route.reverse)
                outs.append(route.scan([u, delta, B, C, route.read(z)], own.D, own.dt_proj.bias))
        y = outs[0]
        for out in outs[1:]:
            y = y + out
        return self.out_proj(y * self.scale)
