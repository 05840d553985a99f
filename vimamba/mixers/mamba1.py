"""Mamba-1 as a sequence mixer: the convolution and the scan run along each route of a scan order."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

import vimamba.kernels.causal_conv1d  # noqa: F401  (registers its operator in torch.ops.vimamba)
from vimamba.errors import UsageError, bad_argument
from vimamba.kernels.linear import linears
from vimamba.layers.channel_attention import ChannelAttention
from vimamba.layers.norm import widen
from vimamba.scans import ScanOrder, create_order
from vimamba.scans.schedules import Scan

from .init import init_A_log, init_dt
from .scan import scan, scan_each, scan_on
from .walk import Walker, as_scan, walk


class MambaState(NamedTuple):
    """What a sequence leaves for the tokens that come: the last inputs of the convolution, and the scan's state."""

    inputs: Tensor  # (b, d_inner, d_conv - 1)
    hidden: Tensor  # (b, 1, d_inner, d_state), at least float32


class Projections(nn.Module):
    """Parameters of the convolution and of (delta, B, C) of a Mamba-1 inner block (arXiv:2312.00752, Fig. 3)."""

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1, **dd)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False, **dd)
        self.dt_proj = nn.Linear(dt_rank, d_inner, **dd)
        self.D = nn.Parameter(torch.empty(d_inner, **dd))

    def reset_parameters(self) -> None:
        """dt_proj as `init_dt` says; D = 1; the rest PyTorch's."""
        self.conv1d.reset_parameters()
        self.x_proj.reset_parameters()
        init_dt(self.dt_proj.weight, self.dt_proj.bias)
        nn.init.ones_(self.D)


class Route(nn.Module):
    """What a route has of its own where the projections are shared: the state matrix A."""

    def __init__(self, d_inner: int, d_state: int, device=None, dtype=None):
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        init_A_log(self.A_log)


class Mamba1(Walker):
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
        merge: 'mean' or 'sum' over the routes, or their sum behind 'attention' over the channels of each.
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
        if merge not in ('mean', 'sum', 'attention'):
            raise bad_argument('merge', "'mean', 'sum' or 'attention'", repr(merge))
        dd = {'device': device, 'dtype': dtype}
        d_inner, dt_rank = expand * d_model, dt_rank or math.ceil(d_model / 16)
        self.splits = [dt_rank, d_state, d_state]
        self.share_routes = share_routes
        self.scale = 1.0 / order.routes if merge == 'mean' else 1.0
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False, **dd)
        self.projections = nn.ModuleList(
            Projections(d_inner, d_state, d_conv, dt_rank, **dd) for _ in range(1 if share_routes else order.routes)
        )
        self.routes = nn.ModuleList(Route(d_inner, d_state, **dd) for _ in range(order.routes))
        self.attention = ChannelAttention(d_inner, **dd) if merge == 'attention' else None
        self.out_proj = nn.Linear(d_inner, d_model, bias=False, **dd)
        self.set_order(order)

    def set_order(self, order: ScanOrder) -> None:
        """Changes the tokens or the routes that are read; the number of routes stays."""
        if order.routes != len(self.routes):
            raise bad_argument('order', f'{len(self.routes)} routes', f'{order.routes}')
        super().set_order(order)

    def reset_parameters(self) -> None:
        for module in (self.in_proj, self.out_proj, *self.projections, *self.routes):
            module.reset_parameters()
        if self.attention is not None:
            self.attention.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x, self.rows, self.steps, self.pads)

    def mix(self, x: Tensor, rows: Tensor | None, steps: list[int], pads: int) -> Tensor:
        """`forward` along given routes."""
        tokens = x.shape[1]
        x = self.in_proj(x)
        if pads:
            x = F.pad(x, (0, 0, 0, pads))
        x, z = x.chunk(2, -1)
        u = self._convolve(x.transpose(1, 2), None if self.share_routes else rows, [1] if self.share_routes else steps)
        u, delta, A, B, C, D, z, dt_bias = self._project(u, z)
        if self.attention is None:
            y = scan(u, delta, A, B, C, D, z, dt_bias, rows, steps)[:, :tokens]
        else:
            y = torch.zeros_like(x[:, :tokens])
            for own in scan_each(u, delta, A, B, C, D, z, dt_bias, rows, steps, self.share_routes):
                y = y + self.attention(own[:, :tokens])
        y = self.out_proj(y)
        return y if self.scale == 1.0 else y * self.scale

    def _convolve(self, x: Tensor, rows: Tensor | None, steps: list[int]) -> Tensor:
        """silu(conv1d) along each route: (b, d, l) -> (b, p, d, l), of p sets of parameters."""
        conv: list[Tensor] = []
        conv_bias: list[Tensor] = []
        for own in self.projections:
            conv.append(own.conv1d.weight.squeeze(1))
            bias = own.conv1d.bias
            assert bias is not None
            conv_bias.append(bias)
        return torch.ops.vimamba.route_conv1d(x, torch.stack(conv), torch.stack(conv_bias), rows, steps, True)

    def _project(self, u: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the scan takes: u, delta, A, B, C, D, z, delta's bias; of u (b, p, d, l) and z (b, l, d)."""
        x_projs: list[Tensor] = []
        dt_projs: list[Tensor] = []
        dt_biases: list[Tensor] = []
        Ds: list[Tensor] = []
        for own in self.projections:
            x_projs.append(own.x_proj.weight)
            dt_projs.append(own.dt_proj.weight.t())
            dt_biases.append(own.dt_proj.bias)
            Ds.append(own.D)
        x_proj, dt_proj, dt_bias, D = [torch.stack(parts) for parts in (x_projs, dt_projs, dt_biases, Ds)]
        A_log: list[Tensor] = []
        for route in self.routes:
            A_log.append(route.A_log)
        A = -torch.exp(widen(torch.stack(A_log)))  # (k, d, n)
        b, _, _, l = u.shape
        k = A.shape[0]  # sets of projections p: k, or 1 that all routes share
        flat = u.permute(1, 0, 3, 2).flatten(1, 2)
        dt, B, C = linears(flat, x_proj.to(flat.dtype)).split(self.splits, -1)
        delta = torch.bmm(dt, dt_proj)  # without the bias, which goes into the softplus, once
        delta, B, C = [t.unflatten(1, (b, l)).permute(1, 0, 3, 2) for t in (delta, B, C)]  # (b, p, ., l)
        if self.share_routes:
            u = u.squeeze(1)
            delta, B, C = [t.expand(-1, k, -1, -1) for t in (delta, B, C)]
            D, dt_bias = D.expand(k, -1), dt_bias.expand(k, -1)
        return u, delta, A, B.unsqueeze(2), C.unsqueeze(2), widen(D), z.transpose(1, 2), widen(dt_bias)

    @torch.jit.ignore
    def step(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """The next tokens of a sequence that comes in parts: (b, l, d_model), what those before left -> the same.

        Any parts give what `forward` gives for all tokens at once, and gradients flow through the state.

        Raises:
            UsageError: the mixer does not read its tokens in the order in which they come.
        """
        if not self.is_causal:
            raise UsageError("step: the mixer reads tokens before they come; it takes a scan of one route, 'raster'")
        x, z = self.in_proj(x).chunk(2, -1)
        width = self.projections[0].conv1d.kernel_size[0] - 1
        before = x.new_zeros(x.shape[0], width, x.shape[2]) if state is None else state.inputs.to(x.dtype).mT
        x = torch.cat((before, x), 1).mT  # channels adjacent in memory
        u, delta, A, B, C, D, z, dt_bias = self._project(self._convolve(x, None, [1])[..., width:], z)
        y, hidden = scan_on(u, delta, A, B, C, D, z, dt_bias, None if state is None else state.hidden)
        return self.out_proj(y), MambaState(x[..., x.shape[2] - width :].clone(), hidden)

    @property
    def is_causal(self) -> bool:
        """Whether a token's output depends on those before it alone."""
        return self.rows is None and list(self.steps) == [1] and self.attention is None


@register_notrace_module
class MapMamba1(Mamba1):
    """`Mamba1` over maps of any size, of images or of clips: its routes are laid for each.

    Shape: (b, *grid, d_model), kept; the grid is (h, w) or (t, h, w).

    Args:
        d_model: width of the tokens.
        scan: name of a scan order, or names of several whose routes are taken together.
        sides: of the maps: 2, or 3 in clips.
        options: as of `Mamba1`.
    """

    def __init__(self, d_model: int, scan: Scan, sides: int = 2, **options: Any):
        self.scan = as_scan(scan, sides)
        super().__init__(d_model, create_order(self.scan, (1,) * sides), **options)

    def forward(self, x: Tensor) -> Tensor:
        rows, steps, pads = walk(x, self.scan, x.shape[1:-1])
        return self.mix(x.flatten(1, -2), rows, steps, pads).view(x.shape)
