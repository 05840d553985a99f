"""Dense layers that stay `torch.nn.Linear` and still take the faster matrix product where there is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from vimamba.kernels.linear import linear

__all__ = ['dense', 'is_plain']

_PLAIN = (Tensor, nn.Parameter)


def is_plain(*modules: nn.Module) -> bool:
    """Whether calling each module does nothing but the forward of its own class, with ordinary tensors.

    A fused path may read the parameters of such a module. Adapters, quantised layers, hooks, parametrisations, pruning,
    weight norm, offloading and sharded parameters all make a module not plain: it must be called.
    """
    return not torch_module._has_any_global_hook() and all(_is_plain(module) for module in modules)


def _is_plain(module: nn.Module) -> bool:
    return (
        type(module) in (nn.Linear, nn.Conv1d)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and 'forward' not in module.__dict__
        and all(type(p) in _PLAIN for p in module._parameters.values() if p is not None)
        and module._parameters.get('weight') is not None
    )


def dense(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, by `vimamba.kernels.linear` where the layer is a plain `torch.nn.Linear`: (..., i) -> (..., o)."""
    if is_plain(layer) and not torch.compiler.is_compiling():
        return linear(x, layer.weight, layer.bias)
    return layer(x)
