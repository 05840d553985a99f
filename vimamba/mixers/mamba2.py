"""Mamba-2 as a sequence mixer: the convolution and the scan of heads run along each route of a scan order."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vimamba.kernels.causal_conv1d  # noqa: F401  (registers its operator in torch.ops.vimamba)
from vimamba.errors import bad_argument
from vimamba.kernels.routes import read, unread
from vimamba.kernels.ssd import ssd
from vimamba.layers.norm import RMSNorm, widen
from vimamba.scans import ScanOrder

from .init import init_dt_bias
from .walk import Walker, for_scripts


class HeadRoute(nn.Module):
    """What a route has of its own: the convolution of x, B and C, and step size, A and D of every head."""

    def __init__(self, channels: int, heads: int, d_conv: int, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1, **dd)
        self.dt_bias = nn.Parameter(torch.empty(heads, **dd))
        self.A_log = nn.Parameter(torch.empty(heads, **dd))
        self.D = nn.Parameter(torch.empty(heads, **dd))

    def reset_parameters(self) -> None:
        """-A uniform in [1, 16], softplus of dt_bias log-uniform in [0.001, 0.1], D = 1; the convolution PyTorch's."""
        self.conv1d.reset_parameters()
        init_dt_bias(self.dt_bias)
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
        nn.init.ones_(self.D)


class Mamba2(Walker):
    """Mamba-2 block run along K routes, merged before one gated norm and output projection (arXiv:2405.21060, Fig. 6).

        z, x, (B_k, C_k, dt_k) = in_proj(tokens)
        for each route k, in its order:  u, B, C = silu(conv1d_k(x, B_k, C_k));  y_k = ssd_k(u, dt_k, A_k, B, C, D_k)
        out = out_proj(norm(mean_k or sum_k y_k * silu(z)))

    Shape: (b, l, d_model) -> (b, l, d_model), tokens in memory order.

    Args:
        d_model: width of the tokens.
        order: the routes over the tokens (K = ``order.routes``).
        d_state: states a channel (N).
        d_conv: width of the causal convolution.
        expand: d_inner = expand * d_model.
        headdim: channels of a head.
        merge: 'mean' or 'sum' over the routes.
    """

    def __init__(
        self,
        d_model: int,
        order: ScanOrder,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        merge: str = 'mean',
        device=None,
        dtype=None,
    ):
        super().__init__()
        d_inner = expand * d_model
        if merge not in ('mean', 'sum'):
            raise bad_argument('merge', "'mean' or 'sum'", repr(merge))
        if d_inner % headdim:
            raise bad_argument('headdim', f'a divisor of the {d_inner} channels', headdim)
        dd = {'device': device, 'dtype': dtype}
        heads, self.headdim, self.d_state = d_inner // headdim, headdim, d_state
        self.scale = 1.0 / order.routes if merge == 'mean' else 1.0
        self.splits = [d_inner, d_inner, *[2 * d_state] * order.routes, *[heads] * order.routes]
        self.in_proj = nn.Linear(d_model, sum(self.splits), bias=False, **dd)
        self.routes = nn.ModuleList(HeadRoute(d_inner + 2 * d_state, heads, d_conv, **dd) for _ in range(order.routes))
        self.norm = RMSNorm(d_inner, **dd)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False, **dd)
        self.set_order(order)

    def set_order(self, order: ScanOrder) -> None:
        """Changes the tokens or the routes that are read; the number of routes stays."""
        if order.routes != len(self.routes):
            raise bad_argument('order', f'{len(self.routes)} routes', f'{order.routes}')
        super().set_order(order)

    def reset_parameters(self) -> None:
        for module in (self.in_proj, self.out_proj, self.norm, *self.routes):
            module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        x = self.in_proj(x)
        if self.pads:
            x = F.pad(x, (0, 0, 0, self.pads))
        own: list[Tensor] = []
        for route in self.routes:
            bias = route.conv1d.bias
            assert bias is not None
            own += [route.conv1d.weight, bias, route.dt_bias, route.A_log, route.D]
        if torch.jit.is_scripting():
            z, y = torch.ops.vimamba.run_heads(x, own, self.rows, self.steps, self.splits, self.d_state, self.headdim)
        else:
            z, y = run_heads(x, own, self.rows, self.steps, self.splits, self.d_state, self.headdim)
        y = (y * self.scale * F.silu(widen(z)))[:, :tokens]
        return self.out_proj(self.norm(y))


def run_heads(
    projected: Tensor,
    parameters: list[Tensor],
    rows: Tensor | None,
    steps: list[int],
    splits: list[int],
    d_state: int,
    headdim: int,
) -> tuple[Tensor, Tensor]:
    """The gate and the sum over the routes, (b, l, d_inner) each, from in_proj and five parameters of each route."""
    z, x, *own = projected.split(splits, -1)
    total = torch.zeros_like(z)
    for k, (weight, bias, dt_bias, A_log, D) in enumerate(zip(*[iter(parameters)] * 5)):
        row, step = None if rows is None else rows[k : k + 1], steps[k : k + 1]
        xbc = torch.cat((x, own[k]), -1).transpose(1, 2)
        xbc = torch.ops.vimamba.route_conv1d(xbc, weight.transpose(0, 1), bias.unsqueeze(0), row, step, True)
        dt = own[len(steps) + k].transpose(1, 2).unsqueeze(1)
        xbc, dt = (read(t, row, step)[:, 0].transpose(1, 2) for t in (xbc, dt))  # (b, l, .) in scan order
        u, B, C = xbc.split([x.shape[-1], d_state, d_state], -1)
        y = ssd(
            u.unflatten(-1, (-1, headdim)),
            dt,
            -torch.exp(widen(A_log)),
            B.unsqueeze(2),
            C.unsqueeze(2),
            widen(D),
            dt_bias=widen(dt_bias),
            dt_softplus=True,
        )
        total = total + unread(y.flatten(2).transpose(1, 2).unsqueeze(1), row, step)[:, 0].transpose(1, 2)
    return z, total


for_scripts(
    'run_heads(Tensor projected, Tensor[] parameters, Tensor? rows, int[] steps, int[] splits, int d_state, '
    'int headdim) -> (Tensor, Tensor)',
    run_heads,
)
