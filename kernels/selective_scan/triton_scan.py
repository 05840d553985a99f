"""The selective scan by the Triton kernels: on a GPU, or on any device under Triton's interpreter."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .scan import Scan
from .triton_bwd import route_scan_bwd
from .triton_common import STEPS
from .triton_fwd import route_scan_fwd

__all__ = ['CHUNK', 'KEEPS_Y', 'MEMORY', 'backward', 'describe', 'forward']

CHUNK = STEPS  # steps between two saved states
KEEPS_Y = False  # the backward pass computes y again
# layout of the gradients, see `empty_grads`
MEMORY = {'u': 'bkld', 'delta': 'bkld', 'A': 'knd', 'B': 'bklgn', 'C': 'bklgn', 'z': 'bld'}


def describe() -> str:
    return f'Triton {triton.__version__}'


def forward(s: Scan, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes (out, last_state, saved, y). `backward` needs saved, which is empty unless ``save``; y is empty."""
    out, last, states = route_scan_fwd(s, save_states=save)
    assert out is not None
    nothing = s.u.new_empty(0, dtype=torch.float32)
    return out, last, nothing if states is None else states, nothing.clone()


def backward(
    grad_out: Tensor, grad_last: Tensor | None, s: Scan, saved: Tensor, y: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors of the scan, u to initial_state; None for those that are None."""
    return route_scan_bwd(grad_out, grad_last, s, saved)
