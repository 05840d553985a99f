"""Dense layers that stay `torch.nn.Linear` and still take the faster matrix product where there is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from vimamba.kernels.linear import linear

__all__ = ['dense', 'is_plain']

_WEIGHTS = (Tensor, nn.Parameter)
_BIASES = (*_WEIGHTS, type(None))


def is_plain(*modules: nn.Module) -> bool:
    """Whether calling each module does nothing but the forward of its own class, with ordinary tensors.

    A fused path may read the parameters of such a module. Adapters, quantised layers, hooks, parametrisations, pruning,
    weight norm, offloading and sharded parameters all make a module not plain: it must be called.
    """
    if torch_module._has_any_global_hook():
        return False
    for module in modules:
        parameters = module._parameters
        if (
            type(module) not in (nn.Linear, nn.Conv1d)
            or module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or 'forward' in module.__dict__
            or type(parameters.get('weight')) not in _WEIGHTS
            or type(parameters.get('bias')) not in _BIASES
        ):
            return False
    return True


def dense(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, by `vimamba.kernels.linear` where the layer is a plain `torch.nn.Linear`: (..., i) -> (..., o)."""
    if is_plain(layer) and not torch.compiler.is_compiling():
        return linear(x, layer.weight, layer.bias)
    return layer(x)
