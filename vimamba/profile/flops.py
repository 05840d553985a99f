"""Floating-point operations of models, including their scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vimamba.kernels.flops import conv_flops, scan_flops

__all__ = ['FVCORE_HANDLES', 'count_flops', 'count_gflops']


def count_flops(model: nn.Module, images: Tensor | Sequence[int]) -> dict[str, int]:
    """Counts the floating-point operations of one forward pass by module name; '' is the whole model.

    A multiplication and an addition count as two. PyTorch's FlopCounterMode counts matrix products, convolutions,
    attention and the operators of vimamba, but not norms, activations and sums.

    Args:
        model: any model; on the 'meta' device, nothing is computed.
        images: the input, or its shape, such as (1, 3, 224, 224).

    >>> count_flops(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), (5, 8))
    {'': 320, '0': 320}
    """
    counter, root = _count(model, images), type(model).__name__
    sums = {module: sum(operators.values()) for module, operators in counter.get_flop_counts().items()}
    parts = {module.removeprefix(f'{root}.'): n for module, n in sums.items() if module not in ('Global', root)}
    return {'': counter.get_total_flops(), **parts}


def count_gflops(model: nn.Module, images: Tensor | Sequence[int]) -> float:
    """Counts billions of operations of one forward pass as papers on these models do.

    A multiplication and an addition of a matrix product or a convolution count as one; the scan is 9 b l d n.

    >>> count_gflops(nn.Linear(1000, 1000), (1, 1000))
    0.001
    """
    operators = _count(model, images).get_flop_counts().get('Global', {})
    return sum(n if 'route_scan' in str(operator) else n / 2 for operator, n in operators.items()) / 1e9


def _count(model: nn.Module, images: Tensor | Sequence[int]) -> FlopCounterMode:
    if not isinstance(images, Tensor):
        parameter = next(model.parameters())
        images = torch.zeros(tuple(images), device=parameter.device, dtype=parameter.dtype)
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(images)
    model.train(training)
    return counter


def _handle(count: Callable[..., int]) -> Callable[[list[Any], list[Any]], int]:
    def handle(inputs: list[Any], outputs: list[Any]) -> int:
        return count(*(value.type().sizes() if value.isCompleteTensor() else None for value in inputs))

    return handle


# for fvcore's FlopCountAnalysis(model, images).set_op_handle(**FVCORE_HANDLES); elsewhere fvcore counts a
# multiplication and an addition as one, the scan as the papers do
FVCORE_HANDLES = {'vimamba::route_scan': _handle(scan_flops), 'vimamba::route_conv1d': _handle(conv_flops)}
