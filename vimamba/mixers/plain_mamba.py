"""PlainMamba's scan: one set of parameters for all routes, which say at each step where they come from."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from vimamba.kernels.linear import linear
from vimamba.layers.norm import widen
from vimamba.scans import ScanOrder, create_order
from vimamba.scans.order import plainly
from vimamba.scans.schedules import Scan

from .init import init_A_log, init_dt
from .scan import scan
from .walk import as_scan, concrete, count_routes, for_scripts, walk

__all__ = ['DirectionalSSM', 'find_directions']

SNAKES = ('snake', 'snake_reversed', 'snake_column', 'snake_column_reversed')


def find_directions(order: ScanOrder) -> Tensor:
    """How every route came to each of its steps: (k, l), 0 at the start, then 1 right, 2 left, 3 up, 4 down.

    A move that changes row and column is one up or down.

    >>> find_directions(create_order('snake', (2, 3)))
    tensor([[0, 1, 1, 4, 2, 2]])
    """
    width = order.grid[1]
    rows, columns = (order.index // width).diff(dim=1), (order.index % width).diff(dim=1)
    sideways = torch.where(columns > 0, 1, 2)
    moves = torch.where(rows == 0, sideways, torch.where(rows < 0, 3, 4))
    return torch.cat((torch.zeros_like(order.index[:, :1]), moves), 1)


@lru_cache(maxsize=128)
def _laid(scan: Scan, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with plainly():
        order = create_order(scan, (height, width))
        return order.inverse.to(device), find_directions(order).gather(1, order.inverse).to(device)


# constants of a compiled graph, see `walk`
@torch.compiler.allow_in_graph
def _constants(scan: Scan, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    step, direction = _laid(scan, height, width, device)
    return torch.ops.aten.lift_fresh_copy(step), torch.ops.aten.lift_fresh_copy(direction)


def find_steps(x: Tensor, scan: list[str], height: int, width: int) -> tuple[Tensor, Tensor]:
    """At which step each route reads a token of the map, and how it came there: (k, l) each, where x is."""
    if torch.jit.is_scripting():
        return torch.ops.vimamba.find_steps(x, scan, height, width)
    else:
        place = tuple(scan), concrete(height), concrete(width), x.device
        return _constants(*place) if torch.compiler.is_dynamo_compiling() else _laid(*place)


for_scripts('find_steps(Tensor x, str[] scan, int height, int width) -> (Tensor, Tensor)', find_steps)


@register_notrace_module
class DirectionalSSM(nn.Module):
    """Selective scans along the routes of an order with shared parameters (arXiv:2403.17695, Eq. 6).

        delta, B, C = project(u)
        y_k = selective_scan(u in the order of route k, delta, A, B + directions[how route k came here], C, D)
        out = sum_k y_k

    As in the code that the published weights were trained with: delta, B and C stay in memory order, only u follows the
    route (the paper has all of them follow), and the bias of delta enters twice, softplus(W r + 2 bias).

    Shape: (b, h, w, dim) -> (b, h, w, dim).

    Args:
        dim: channels (d_inner).
        scan: name of a scan order without pads, or names of several whose routes are taken together.
        d_state: states a channel (N).
        dt_rank: rank of delta's projection (R).
    """

    def __init__(
        self,
        dim: int,
        scan: str | Sequence[str] = SNAKES,
        d_state: int = 16,
        dt_rank: int | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.scan = as_scan(scan)
        self.routes, dt_rank = count_routes(self.scan), dt_rank or math.ceil(dim / 16)
        self.splits = [dt_rank, d_state, d_state]
        self.x_proj = nn.Parameter(torch.empty(dt_rank + 2 * d_state, dim, **dd))
        self.dt_proj = nn.Parameter(torch.empty(dim, dt_rank, **dd))
        self.dt_bias = nn.Parameter(torch.empty(dim, **dd))
        self.A_log = nn.Parameter(torch.empty(dim, d_state, **dd))
        self.D = nn.Parameter(torch.empty(dim, **dd))
        self.directions = nn.Parameter(torch.empty(5, d_state, **dd))

    def reset_parameters(self) -> None:
        """As `RouteSSM` does it; directions truncated normal, std 0.02."""
        bound = self.x_proj.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj, -bound, bound)
        init_dt(self.dt_proj, self.dt_bias)
        init_A_log(self.A_log)
        nn.init.ones_(self.D)
        nn.init.trunc_normal_(self.directions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, d = x.shape
        k, l = self.routes, height * width
        rows, steps, _ = walk(x, self.scan, [height, width])
        step, direction = find_steps(x, self.scan, height, width)
        u = x.reshape(b, l, d)
        dt, B, C = linear(u, self.x_proj).split(self.splits, -1)
        delta = linear(dt, self.dt_proj)
        # a token is read at another step by each route, and finds there what stands at that place in memory
        delta, B, C = [t.index_select(1, step.flatten()).unflatten(1, (k, l)) for t in (delta, B, C)]
        B = B + self.directions[direction].to(B.dtype)
        delta, B, C = [t.transpose(2, 3) for t in (delta, B, C)]  # (b, k, ., l)
        A = -torch.exp(widen(self.A_log)).expand(k, -1, -1)
        bias = 2 * widen(self.dt_bias).expand(k, -1)
        D = widen(self.D).expand(k, -1)
        y = scan(u.transpose(1, 2), delta, A, B.unsqueeze(2), C.unsqueeze(2), D, None, bias, rows, steps)
        return y.view(b, height, width, d)
