"""MambaVision's mixer: one half of the channels is scanned, and both halves are concatenated."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimamba.errors import bad_argument, check_integers
from vimamba.layers.linear import dense, is_plain
from vimamba.layers.norm import widen
from vimamba.scans import ScanOrder

from .init import init_A_log
from .mamba1 import scan
from .mixer import Mixer
from .routes import FixedScan, MapScan, Routes

__all__ = ['ConcatMixer']


class ConcatMixer(Mixer):
    """A scan beside a branch without one, concatenated instead of gated (arXiv:2407.08083, Eq. 6 and Fig. 3).

        x, z = silu(conv1d(in_proj(tokens)))
        delta, B, C = project(x)
        out = out_proj(concat(selective_scan(x, delta, A, B, C, D), z))

    The convolution is symmetric, not causal, and runs in memory order. The bias of delta's projection enters twice,
    delta = softplus(W r + 2 bias), as in the code that trained the published weights. Several routes share all
    parameters; the output is their mean.

    Shape: (b, l, d_model) -> (b, l, d_model), tokens in memory order.

    Args:
        d_model: width of the tokens, even; half of it is scanned.
        scan: where the mixer reads: a scan order, or an adapter.
        d_state: states per channel (N).
        d_conv: width of the convolution, odd.
    """

    no_weight_decay = ('A_log', 'D')

    def __init__(
        self,
        d_model: int,
        scan: ScanOrder | FixedScan | MapScan,
        d_state: int = 8,
        d_conv: int = 3,
        device=None,
        dtype=None,
    ):
        super().__init__(scan, device)
        check_integers(1, d_state=d_state, d_conv=d_conv)
        if d_model % 2:
            raise bad_argument('d_model', 'an even number', d_model)
        if d_conv % 2 == 0:
            raise bad_argument('d_conv', 'an odd number', d_conv)
        dd = {'device': device, 'dtype': dtype}
        d_inner, dt_rank = d_model // 2, math.ceil(d_model / 16)
        self.splits = [dt_rank, d_state, d_state]
        self.in_proj = nn.Linear(d_model, d_model, bias=False, **dd)
        self.conv1d = nn.Conv1d(d_model, d_model, d_conv, groups=d_model, padding=d_conv // 2, bias=False, **dd)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False, **dd)
        self.dt_proj = nn.Linear(dt_rank, d_inner, **dd)
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state, **dd))
        self.D = nn.Parameter(torch.empty(d_inner, **dd))
        self.out_proj = nn.Linear(d_model, d_model, bias=False, **dd)

    def reset_parameters(self) -> None:
        """A = -(1 ... d_state) for every channel, D = 1, the rest PyTorch's."""
        for module in (self.in_proj, self.conv1d, self.x_proj, self.dt_proj, self.out_proj):
            module.reset_parameters()
        init_A_log(self.A_log)
        nn.init.ones_(self.D)

    def mix(self, x: Tensor, routes: Routes) -> Tensor:
        k = len(routes.steps)
        x, z = F.silu(self.conv1d(dense(self.in_proj, x).transpose(1, 2))).transpose(1, 2).chunk(2, -1)
        dt, B, C = dense(self.x_proj, x).split(self.splits, -1)
        if is_plain(self.dt_proj):  # its bias goes into the softplus
            delta, bias = F.linear(dt, self.dt_proj.weight), 2 * widen(self.dt_proj.bias)
        else:
            delta, bias = self.dt_proj(dt) + self.dt_proj(torch.zeros_like(dt)), None
        delta, B, C = [t.transpose(1, 2).unsqueeze(1).expand(-1, k, -1, -1) for t in (delta, B, C)]  # (b, k, ., l)
        A, D = -torch.exp(widen(self.A_log)).expand(k, -1, -1), widen(self.D).expand(k, -1)
        bias = None if bias is None else bias.expand(k, -1)
        y, _ = scan(x.transpose(1, 2), delta, A, B, C, D, bias, routes)
        return dense(self.out_proj, torch.cat((y / k, z), -1))
