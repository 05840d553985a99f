"""MambaVision's mixer: half of the channels is scanned, the other half is not, and both are concatenated."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimamba.errors import bad_argument, check_integers
from vimamba.layers.norm import widen
from vimamba.scans import ScanOrder

from .scan import scan
from .walk import Walker


class ConcatMixer(Walker):
    """A scan beside a branch without one, concatenated in place of a gate (arXiv:2407.08083, Eq. 6 and Fig. 3).

        x, z = silu(conv1d(in_proj(tokens)))
        delta, B, C = project(x)
        out = out_proj(concat(selective_scan(x, delta, A, B, C, D), z))

    The convolution is symmetric, not causal, and runs in memory order. The bias of delta's projection enters twice,
    delta = softplus(W r + 2 bias), as it does in the code that the published weights were trained with. More routes
    than one share all parameters, and their mean is taken.

    Shape: (b, l, d_model) -> (b, l, d_model), tokens in memory order.

    Args:
        d_model: width of the tokens, even; half of it is scanned.
        order: the routes over the tokens.
        d_state: states a channel (N).
        d_conv: width of the convolution, odd.
    """

    def __init__(self, d_model: int, order: ScanOrder, d_state: int = 8, d_conv: int = 3, device=None, dtype=None):
        super().__init__()
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
        self.set_order(order)

    def reset_parameters(self) -> None:
        """A = -(1 ... d_state) for every channel, D = 1, the rest PyTorch's."""
        for module in (self.in_proj, self.conv1d, self.x_proj, self.dt_proj, self.out_proj):
            module.reset_parameters()
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, self.A_log.shape[1] + 1, device=self.A_log.device).log())
        nn.init.ones_(self.D)

    def forward(self, tokens: Tensor) -> Tensor:
        k = len(self.steps)
        x, z = F.silu(self.conv1d(self.in_proj(tokens).transpose(1, 2))).transpose(1, 2).chunk(2, -1)
        dt, B, C = self.x_proj(x).split(self.splits, -1)
        delta = F.linear(dt, self.dt_proj.weight)  # its bias goes into the softplus
        delta, B, C = [t.transpose(1, 2).unsqueeze(1).expand(-1, k, -1, -1) for t in (delta, B, C)]  # (b, k, ., l)
        y = scan(
            x.transpose(1, 2),
            delta,
            -torch.exp(widen(self.A_log)).expand(k, -1, -1),
            B.unsqueeze(2),
            C.unsqueeze(2),
            widen(self.D).expand(k, -1),
            None,
            2 * widen(self.dt_proj.bias).expand(k, -1),
            self.rows,
            self.steps,
        )
        return self.out_proj(torch.cat((y / k, z), -1))
