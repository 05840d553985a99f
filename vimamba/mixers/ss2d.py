"""Mixers of maps: the convolution runs on the map, the projections are pointwise, the kernel reads in scan order."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimamba.errors import bad_argument
from vimamba.layers.channel_attention import ChannelAttention
from vimamba.layers.channels_last import Conv2d, pad_map
from vimamba.layers.linear import dense

from .mamba1 import SelectiveScan, scan
from .mixer import Core, Mixer
from .routes import MapScan, Routes

__all__ = ['GridMixer', 'StridedScan']


class GridMixer(Mixer):
    """SS2D: any core over a map of tokens (arXiv:2401.10166, Fig. 3).

        x, z = in_proj(map)
        out = out_proj(norm(core(act(conv2d(x)))) * silu(z))       without the last factor if not ``gate``

    Shape: (b, h, w, d_model), kept.

    Args:
        d_model: width of the tokens.
        scan: name of a scan order, or names of several whose routes are taken together.
        core: a `Core`.
        expand: d_inner = expand * d_model.
        d_conv: side of the depthwise convolution.
        conv_bias: whether the convolution has a bias.
        bias: whether in_proj and out_proj have a bias.
        gate: multiply by silu(z), a second half of in_proj.
        norm: LayerNorm behind the core.
        merge: 'sum' of the routes, or their sum behind channel 'attention' of each.
        options: further arguments of the core.
    """

    def __init__(
        self,
        d_model: int,
        scan: str | tuple[str, ...],
        core: type[Core] = SelectiveScan,
        expand: float = 2.0,
        d_conv: int = 3,
        conv_bias: bool = True,
        bias: bool = False,
        gate: bool = True,
        norm: bool = True,
        merge: str = 'sum',
        device=None,
        dtype=None,
        **options: Any,
    ):
        super().__init__(MapScan(scan))
        dd = {'device': device, 'dtype': dtype}
        d_inner, self.gate = int(expand * d_model), gate
        if merge not in ('sum', 'attention'):
            raise bad_argument('merge', "'sum' or 'attention'", repr(merge))
        if merge == 'attention' and not core.merges:
            raise bad_argument('merge', f"'sum' with {core.__name__}", repr(merge))
        attention = ChannelAttention(d_inner, **dd) if merge == 'attention' else None
        self.in_proj = nn.Linear(d_model, d_inner * (2 if gate else 1), bias=bias, **dd)
        self.conv2d = Conv2d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv // 2, bias=conv_bias, **dd)
        self.act = core.grid_act()
        self.ssm = core(d_inner, self.scan.count, d_model=d_model, **options, **dd)  # type: ignore[call-arg]
        self.ssm.merge = attention
        self.norm = nn.LayerNorm(d_inner, **dd) if norm else nn.Identity()
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias, **dd)

    def forward(self, x: Tensor) -> Tensor:
        routes = self.scan.routes_of(x)
        x = dense(self.in_proj, x)
        z = x
        if self.gate:
            x, z = x.chunk(2, -1)
        u = routes.pad(self.act(self.conv2d(x)).flatten(1, 2))
        x = self.norm(self.ssm(u, routes).view(x.shape)).to(z.dtype)
        if self.gate:
            x = x * F.silu(z)
        return dense(self.out_proj, x)


class StridedScan(SelectiveScan):
    """`SelectiveScan` on the sub-grids of tokens that lie ``step`` apart (arXiv:2403.09977, Fig. 3).

    Each token is in one sub-grid. Sub-grid k, of step * step, starts at row k % step and column k // step. It is read
    once: by rows where its first row is even, else by columns. These are the segments of the order
    `vimamba.scans.strided`. Zeros at the bottom and on the right make the sub-grids equal.

    Shape: u (b, h * w, dim), kept.

    Args:
        dim, d_model, d_state, dt_rank: as in `SelectiveScan`.
        routes: not used; there are step * step.
        step: distance between tokens of a sub-grid.
    """

    merges = False

    def __init__(self, dim: int, routes: int, step: int = 2, **options: Any):
        super().__init__(dim, step * step, **options)
        self.step = step

    def forward(self, u: Tensor, routes: Routes) -> Tensor:
        (b, _, d), (height, width), step = u.shape, routes.grid, self.step
        x = pad_map(u.view(b, height, width, d), step)
        rows, columns = x.shape[1] // step, x.shape[2] // step
        x = x.view(b, rows, step, columns, step, d).permute(4, 2, 0, 1, 3, 5).flatten(0, 1)  # (k, b, rows, columns, d)
        # sub-grids are ordered by (column offset, row offset); every second one is read by columns
        lines = [part.transpose(1, 2) if k % step % 2 else part for k, part in enumerate(x)]
        u = torch.stack([line.reshape(b, rows * columns, d) for line in lines], 1)
        outputs, _ = scan(*self.operands(u), Routes(None, [1] * step**2), each=True)
        grids = [
            (y.view(b, columns, rows, d).transpose(1, 2) if k % step % 2 else y.view(b, rows, columns, d))
            for k, y in enumerate(outputs.unbind(1))
        ]
        y = torch.stack(grids).view(step, step, b, rows, columns, d).permute(2, 3, 1, 4, 0, 5)
        return y.reshape(b, rows * step, columns * step, d)[:, :height, :width].flatten(1, 2)
