"""Grid mixers: the convolution runs on the image, the projections are pointwise, the kernel reads in scan order."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from vimamba.errors import bad_argument
from vimamba.kernels.linear import linear, linears
from vimamba.kernels.routes import read, unread
from vimamba.kernels.ssd import ssd
from vimamba.layers.channels_last import Conv2d, pad_map
from vimamba.layers.norm import widen

from .init import init_A_log, init_dt
from .scan import scan, scan_each
from .walk import as_scan, count_routes, for_scripts, walk

__all__ = ['GridMixer', 'RouteSSD', 'RouteSSM', 'StridedSSM']


class GridMixer(nn.Module):
    """SS2D: a state space model over a map of tokens (arXiv:2401.10166, Fig. 3).

        x, z = in_proj(map)
        out = out_proj(norm(ssm(act(conv2d(x)))) * silu(z))       without the last factor if not ``gate``

    Shape: (b, h, w, d_model) -> (b, h, w, d_model).

    Args:
        d_model: width of the tokens.
        ssm: (d_inner, device, dtype) -> what runs along the routes, (b, h, w, d_inner) -> (b, h, w, d_inner).
        expand: d_inner = expand * d_model.
        d_conv: side of the depthwise convolution.
        conv_bias: whether it has a bias.
        bias: whether in_proj and out_proj have one.
        gate: multiply by silu(z), a second half of in_proj.
        norm: LayerNorm behind the routes.
        act: behind the convolution.
    """

    def __init__(
        self,
        d_model: int,
        ssm: Callable[..., nn.Module],
        expand: float = 2.0,
        d_conv: int = 3,
        conv_bias: bool = True,
        bias: bool = False,
        gate: bool = True,
        norm: bool = True,
        act: Callable[..., nn.Module] = nn.SiLU,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.d_inner, self.gate = int(expand * d_model), gate
        self.in_proj = nn.Linear(d_model, self.d_inner * (2 if gate else 1), bias=bias, **dd)
        self.conv2d = Conv2d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv // 2, bias=conv_bias, **dd
        )
        self.act = act()
        self.ssm = ssm(self.d_inner, **dd)
        self.norm = nn.LayerNorm(self.d_inner, **dd) if norm else nn.Identity()
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **dd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        z = x
        if self.gate:
            x, z = x.chunk(2, -1)
        x = self.norm(self.ssm(self.act(self.conv2d(x)))).to(z.dtype)
        if self.gate:
            x = x * F.silu(z)
        return self.out_proj(x)


@register_notrace_module
class RouteSSM(nn.Module):
    """Selective scans along the routes of a scan order over a map, each with parameters of its own.

        for each route k:  delta_k, B_k, C_k = project_k(u);  y_k = selective_scan_k(u, delta_k, A_k, B_k, C_k, D_k)
        out = sum_k y_k,  or sum_k merge(y_k)

    Projections are made in memory order, once; the kernel reads in scan order and adds up.

    Shape: (b, h, w, dim) -> (b, h, w, dim).

    Args:
        dim: channels (d_inner).
        scan: name of a scan order, or names of several whose routes are taken together.
        d_state: states a channel (N).
        dt_rank: rank of delta's projection (R).
        merge: what each route's output goes through before the sum, nothing if None.
    """

    def __init__(
        self,
        dim: int,
        scan: str | Sequence[str] = 'cross',
        d_state: int = 1,
        dt_rank: int | None = None,
        merge: nn.Module | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.scan = as_scan(scan)
        k, dt_rank = count_routes(self.scan), dt_rank or math.ceil(dim / 16)
        self.splits = [dt_rank, d_state, d_state]
        self.x_proj = nn.Parameter(torch.empty(k, dt_rank + 2 * d_state, dim, **dd))
        self.dt_proj = nn.Parameter(torch.empty(k, dim, dt_rank, **dd))
        self.dt_bias = nn.Parameter(torch.empty(k, dim, **dd))
        self.A_log = nn.Parameter(torch.empty(k, dim, d_state, **dd))
        self.D = nn.Parameter(torch.empty(k, dim, **dd))
        self.merge = merge

    def reset_parameters(self) -> None:
        """x_proj uniform in dim^-1/2, dt_proj and dt_bias by `init_dt`, A = -(1 ... d_state), D = 1."""
        bound = self.x_proj.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj, -bound, bound)
        init_dt(self.dt_proj, self.dt_bias)
        init_A_log(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, d = x.shape
        rows, steps, pads = walk(x, self.scan, [height, width])
        u = x.reshape(b, height * width, d)
        if pads:
            u = F.pad(u, (0, 0, 0, pads))
        delta, B, C = self.project(u)
        A, D, bias = -torch.exp(widen(self.A_log)), widen(self.D), widen(self.dt_bias)
        if self.merge is None:
            y = scan(u.transpose(1, 2), delta, A, B, C, D, None, bias, rows, steps)[:, : height * width]
        else:
            y = torch.zeros_like(u[:, : height * width])
            for own in scan_each(u.transpose(1, 2), delta, A, B, C, D, None, bias, rows, steps, True):
                y = y + self.merge(own[:, : height * width])
        return y.view(b, height, width, d)

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """delta (b, k, d, l), before bias and softplus, B and C (b, k, 1, n, l) of tokens (b, l, d)."""
        b, l, _ = u.shape
        k, width, _ = self.x_proj.shape
        parts = linear(u, self.x_proj.flatten(0, 1)).view(b * l, k, width).transpose(0, 1)
        dt, B, C = parts.split(self.splits, -1)
        delta = torch.bmm(dt, self.dt_proj.transpose(1, 2).to(dt.dtype))  # the bias goes into the softplus, once
        delta, B, C = [t.unflatten(1, (b, l)).permute(1, 0, 3, 2) for t in (delta, B, C)]  # (b, k, ., l)
        return delta, B.unsqueeze(2), C.unsqueeze(2)


@register_notrace_module
class StridedSSM(RouteSSM):
    """`RouteSSM` on sub-grids of tokens that lie ``step`` apart, each token in one of them (arXiv:2403.09977, Fig. 3).

    Sub-grid k, of step * step, starts at row k % step and column k // step; it is read once, forth, by rows where its
    first row is even, else by columns: the segments of the order `vimamba.scans.strided`. Zeros at the bottom and on
    the right make the sub-grids equal.

    Shape: (b, h, w, dim) -> (b, h, w, dim).

    Args:
        dim, d_state, dt_rank: as in `RouteSSM`.
        step: distance of the tokens of a sub-grid.
    """

    def __init__(self, dim: int, step: int = 2, d_state: int = 16, dt_rank: int | None = None, device=None, dtype=None):
        super().__init__(dim, ('raster',) * step**2, d_state, dt_rank, device=device, dtype=dtype)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, d = x.shape
        x = pad_map(x, self.step)
        rows, columns, step = x.shape[1] // self.step, x.shape[2] // self.step, self.step
        # sub-grids (column offset, row offset), the rows of every second transposed
        parts = (
            x.view(b, rows, step, columns, step, d).permute(4, 2, 0, 1, 3, 5).flatten(0, 1)
        )  # (k, b, rows, columns, d)
        lines = [part.transpose(1, 2) if k % step % 2 else part for k, part in enumerate(parts)]
        u = torch.stack([line.reshape(b, rows * columns, d) for line in lines])  # (k, b, l, d)
        A, D, bias = -torch.exp(widen(self.A_log)), widen(self.D), widen(self.dt_bias)
        flat = u.flatten(1, 2)
        dt, B, C = linears(flat, self.x_proj.to(flat.dtype)).split(self.splits, -1)
        delta = torch.bmm(dt, self.dt_proj.transpose(1, 2).to(dt.dtype))
        delta, B, C = [t.unflatten(1, (b, rows * columns)).permute(1, 0, 3, 2) for t in (delta, B, C)]
        steps = [1] * (step * step)
        outputs = scan_each(
            u.permute(1, 0, 3, 2), delta, A, B.unsqueeze(2), C.unsqueeze(2), D, None, bias, None, steps, False
        )
        grids = [
            (y.view(b, columns, rows, d).transpose(1, 2) if k % step % 2 else y.view(b, rows, columns, d))
            for k, y in enumerate(outputs)
        ]
        y = torch.stack(grids).view(step, step, b, rows, columns, d).permute(2, 3, 1, 4, 0, 5)
        return y.reshape(b, rows * step, columns * step, d)[:, :height, :width]


@register_notrace_module
class RouteSSD(nn.Module):
    """`RouteSSM` with the scan of Mamba-2: one step size and one A for a head (arXiv:2405.21060).

    Shape: (b, h, w, dim) -> (b, h, w, dim).

    Args:
        dim: channels (d_inner).
        scan: name of a scan order, or names of several whose routes are taken together.
        d_state: states a channel (N).
        headdim: channels of a head.
    """

    def __init__(
        self,
        dim: int,
        scan: str | Sequence[str] = 'cross',
        d_state: int = 64,
        headdim: int = 16,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if dim % headdim:
            raise bad_argument('headdim', f'a divisor of the {dim} channels', headdim)
        dd = {'device': device, 'dtype': dtype}
        self.scan = as_scan(scan)
        k, heads = count_routes(self.scan), dim // headdim
        self.splits = [heads, d_state, d_state]
        self.x_proj = nn.Parameter(torch.empty(k, heads + 2 * d_state, dim, **dd))
        self.dt_bias = nn.Parameter(torch.empty(k, heads, **dd))
        self.A_log = nn.Parameter(torch.empty(k, heads, **dd))
        self.D = nn.Parameter(torch.empty(k, heads, headdim, **dd))

    def reset_parameters(self) -> None:
        """x_proj uniform in dim^-1/2, dt_bias uniform in [0, 0.1], A = -1, D = 1."""
        bound = self.x_proj.shape[-1] ** -0.5
        nn.init.uniform_(self.x_proj, -bound, bound)
        nn.init.uniform_(self.dt_bias, 0, 0.1)
        nn.init.zeros_(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.vimamba.scan_heads(
                x, self.x_proj, self.dt_bias, self.A_log, self.D, self.scan, self.splits
            )
        else:
            return scan_heads(x, self.x_proj, self.dt_bias, self.A_log, self.D, self.scan, self.splits)


def scan_heads(
    x: Tensor, x_proj: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, scan: list[str], splits: list[int]
) -> Tensor:
    """What `RouteSSD` computes."""
    b, height, width, d = x.shape
    k, heads, headdim = D.shape
    rows, steps, pads = walk(x, scan, [height, width])
    u = F.pad(x.reshape(b, height * width, d), (0, 0, 0, pads))
    own = linear(u, x_proj.flatten(0, 1)).unflatten(2, (k, sum(splits))).permute(0, 2, 3, 1)
    own = read(own, rows, steps).permute(0, 3, 1, 2)  # (b, l, k, .)
    u = read(u.transpose(1, 2).unsqueeze(1), rows, steps).permute(0, 3, 1, 2)  # (b, l, k, d)
    dt, B, C = own.split(splits, -1)
    y = ssd(
        u.reshape(b, u.shape[1], k * heads, headdim),
        dt.flatten(2),
        -torch.exp(widen(A_log)).flatten(),
        B,
        C,
        widen(D).flatten(0, 1),
        dt_bias=widen(dt_bias).flatten(),
        dt_softplus=True,
    )
    y = unread(y.reshape(b, u.shape[1], k, d).permute(0, 2, 3, 1), rows, steps).sum(1).transpose(1, 2)
    return y[:, : height * width].reshape(b, height, width, d)


for_scripts(
    'scan_heads(Tensor x, Tensor x_proj, Tensor dt_bias, Tensor A_log, Tensor D, str[] scan, int[] splits) -> Tensor',
    scan_heads,
)
