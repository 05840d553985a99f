"""Initial values that mixers share."""

import math

import torch
from torch import Tensor, nn


def init_dt(weight: Tensor, bias: Tensor) -> None:
    """weight (..., d, dt_rank) uniform in dt_rank^-1/2; bias (..., d) by `init_dt_bias`."""
    bound = weight.shape[-1] ** -0.5
    nn.init.uniform_(weight, -bound, bound)
    init_dt_bias(bias)


def init_dt_bias(bias: Tensor, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> None:
    """softplus of bias log-uniform in [dt_min, dt_max]."""
    with torch.no_grad():
        log_dt = torch.empty_like(bias).uniform_(math.log(dt_min), math.log(dt_max))
        dt = log_dt.exp().clamp(min=dt_floor)
        bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus


def init_A_log(A_log: Tensor) -> None:
    """A = -(1 ... d_state) on every channel (S4D-real, arXiv:2206.11893): A_log (..., d_state)."""
    with torch.no_grad():
        A_log.copy_(torch.arange(1, A_log.shape[-1] + 1, device=A_log.device).log())
