"""PlainMamba's core: all routes share one set of parameters, and every step knows the direction it was entered from."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from vimamba.kernels.linear import linear
from vimamba.layers.norm import widen
from vimamba.scans import Grid, ScanOrder, create_order
from vimamba.scans.order import plainly
from vimamba.scans.schedules import Scan

from .init import init_A_log, init_dt
from .mamba1 import scan
from .mixer import Core
from .routes import Routes

__all__ = ['SNAKES', 'DirectionalScan', 'find_directions']

SNAKES = ('snake', 'snake_reversed', 'snake_column', 'snake_column_reversed')


def find_directions(order: ScanOrder) -> Tensor:
    """The move with which every route enters each of its steps: (k, l), 0 at the start, 1 right, 2 left, 3 up, 4 down.

    A move that changes both row and column counts as up or down.

    >>> find_directions(create_order('snake', (2, 3)))
    tensor([[0, 1, 1, 4, 2, 2]])
    """
    width = order.grid[1]
    rows, columns = (order.index // width).diff(dim=1), (order.index % width).diff(dim=1)
    sideways = torch.where(columns > 0, 1, 2)
    moves = torch.where(rows == 0, sideways, torch.where(rows < 0, 3, 4))
    return torch.cat((torch.zeros_like(order.index[:, :1]), moves), 1)


@lru_cache(maxsize=128)
def _lay(scan: Scan, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    with plainly():
        order = create_order(scan, grid)
        return order.inverse.to(device), find_directions(order).gather(1, order.inverse).to(device)


# constants of a compiled graph, see routes.py
@torch.compiler.allow_in_graph
def _constants(scan: Scan, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    step, direction = _lay(scan, grid, device)
    return torch.ops.aten.lift_fresh_copy(step), torch.ops.aten.lift_fresh_copy(direction)


class DirectionalScan(Core):
    """Selective scans along the routes of named orders, with shared parameters (arXiv:2403.17695, Eq. 6).

        delta, B, C = project(u)
        y_k = selective_scan(u in the order of route k, delta, A, B + directions[move of route k], C, D)
        out = sum_k y_k

    As in the code that trained the published weights: delta, B and C stay in memory order and only u follows the route
    (in the paper all of them do), and the bias of delta enters twice, softplus(W r + 2 bias).

    Shape: u (b, l, dim), kept. The orders have no pads.

    Args:
        dim: channels (d_inner).
        routes: not used: all share their parameters.
        d_model: width that the rank of the projection of delta derives from, ceil(d_model / 16).
        d_state: states per channel (N).
    """

    no_weight_decay = ('A_log', 'D', 'directions')
    merges = False

    def __init__(self, dim: int, routes: int, d_model: int, d_state: int = 16, device=None, dtype=None):
        super().__init__()
        dd, dt_rank = {'device': device, 'dtype': dtype}, math.ceil(d_model / 16)
        self.splits = [dt_rank, d_state, d_state]
        self.x_proj = nn.Parameter(torch.empty(dt_rank + 2 * d_state, dim, **dd))
        self.dt_proj = nn.Parameter(torch.empty(dim, dt_rank, **dd))
        self.dt_bias = nn.Parameter(torch.empty(dim, **dd))
        self.A_log = nn.Parameter(torch.empty(dim, d_state, **dd))
        self.D = nn.Parameter(torch.empty(dim, **dd))
        self.directions = nn.Parameter(torch.empty(5, d_state, **dd))

    def reset_parameters(self) -> None:
        """As `SelectiveScan`; directions truncated normal, std 0.02."""
        bound = self.x_proj.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj, -bound, bound)
        init_dt(self.dt_proj, self.dt_bias)
        init_A_log(self.A_log)
        nn.init.ones_(self.D)
        nn.init.trunc_normal_(self.directions, std=0.02)

    def forward(self, u: Tensor, routes: Routes) -> Tensor:
        k, l = len(routes.steps), u.shape[1]
        place = routes.names, routes.grid, u.device
        step, direction = _constants(*place) if torch.compiler.is_dynamo_compiling() else _lay(*place)
        dt, B, C = linear(u, self.x_proj).split(self.splits, -1)
        delta = linear(dt, self.dt_proj)
        # each route reads a token at another step, and finds what memory holds at the place of that step
        delta, B, C = [t.index_select(1, step.flatten()).unflatten(1, (k, l)) for t in (delta, B, C)]
        B = B + self.directions[direction].to(B.dtype)
        delta, B, C = [t.transpose(2, 3) for t in (delta, B, C)]  # (b, k, ., l)
        A, D = -torch.exp(widen(self.A_log)).expand(k, -1, -1), widen(self.D).expand(k, -1)
        return scan(u.transpose(1, 2), delta, A, B, C, D, 2 * widen(self.dt_bias).expand(k, -1), routes)[0]
