"""How many operations a model takes, the scans counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vimamba.kernels.flops import conv_flops, scan_flops

__all__ = ['FVCORE_HANDLES', 'count_flops']


def count_flops(model: nn.Module, images: Tensor | Sequence[int]) -> dict[str, int]:
    """Floating-point operations of one forward pass, by module name; '' is the whole model.

    A multiplication and an addition are two. Counted by PyTorch's FlopCounterMode: matrix products, convolutions,
    attention and the operators of vimamba; norms, activations and sums are not.

    Args:
        model: any model; on the 'meta' device nothing is computed.
        images: the input, or its shape, such as (1, 3, 224, 224).

    >>> count_flops(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), (5, 8))
    {'': 320, '0': 320}
    """
    if not isinstance(images, Tensor):
        parameter = next(model.parameters())
        images = torch.zeros(tuple(images), device=parameter.device, dtype=parameter.dtype)
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(images)
    model.train(training)
    root = type(model).__name__
    counts = {'': counter.get_total_flops()}
    for module, operators in counter.get_flop_counts().items():
        if module not in ('Global', root):
            counts[module.removeprefix(f'{root}.')] = sum(operators.values())
    return counts


def _handle(count: Callable[..., int]) -> Callable[[list[Any], list[Any]], int]:
    def handle(inputs: list[Any], outputs: list[Any]) -> int:
        return count(*(value.type().sizes() if value.isCompleteTensor() else None for value in inputs))

    return handle


# for fvcore's FlopCountAnalysis(model, images).set_op_handle(**FVCORE_HANDLES); elsewhere fvcore counts a
# multiplication and an addition as one, the scan as the papers do
FVCORE_HANDLES = {'vimamba::route_scan': _handle(scan_flops), 'vimamba::route_conv1d': _handle(conv_flops)}
