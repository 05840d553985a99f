"""Operators of torch, as `torch.library.custom_op` makes them, with less between the caller and the kernel.

A small scan takes a tenth of a millisecond, and what custom_op puts around a kernel that is trained as much again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import Library, infer_schema, register_fake

__all__ = ['define', 'differentiate']

_library = Library('vimamba', 'FRAGMENT')


def define(name: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """``torch.ops.vimamba.<name>`` for every device, with the schema of the annotations of ``kernel``.

    Args:
        name: of the operator.
        kernel: computes; returns no tensor that it was given, nor a view of one.
        fake: what comes out, without values, for the compilers.
    """
    if hasattr(torch.ops.vimamba, name):  # by a copy of the module under another name, as doctest imports kernels/
        return getattr(torch.ops.vimamba, name).default
    _library.define(name + infer_schema(kernel, mutates_args=()), tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, torch.compiler.disable(kernel), 'CompositeExplicitAutograd')
    register_fake(f'vimamba::{name}', fake, lib=_library)
    return getattr(torch.ops.vimamba, name).default


def differentiate(
    operator: torch._ops.OpOverload,
    setup: Callable[[Any, tuple, Any], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> None:
    """Gives an operator its derivative, once and in reverse mode.

    Args:
        operator: of `define`.
        setup: (context, arguments, result) -> None, saves what ``backward`` needs.
        backward: (context, *gradients of the results) -> a gradient, or None, for every argument.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        result = plain(*args)
        setup(ctx, args, result)
        return result

    def plain(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    members = {'forward': staticmethod(forward), 'backward': staticmethod(once_differentiable(backward))}
    function: Any = type(f'Of_{operator._opname}', (torch.autograd.Function,), members)

    def kernel(*args: Any) -> Any:
        trains = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in args)
        return function.apply(*args) if trains else plain(*args)

    if not torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), 'AutogradCPU'):
        _library.impl(operator._opname, torch.compiler.disable(kernel), 'Autograd')
