"""Dense layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vimamba.kernels.linear import linear

__all__ = ['Linear', 'use_linear']


class Linear(nn.Linear):
    """`torch.nn.Linear` by the faster of the libraries that PyTorch carries: see `vimamba.kernels.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return F.linear(input, self.weight, self.bias)
        return linear(input, self.weight, self.bias)


def use_linear(model: nn.Module) -> nn.Module:
    """Makes every plain `nn.Linear` in a model, timm's layers included, a `Linear`; same parameters, same keys."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
    return model
