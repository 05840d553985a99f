"""Registers operators with torch, as `torch.library.custom_op` does, with less overhead.

For a small scan, the autograd overhead of `custom_op` equals the scan itself (0.1 ms).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library, register_fake

from vimamba.errors import UsageError

__all__ = ['define', 'differentiate', 'without_autocast']

_library = Library('vimamba', 'FRAGMENT')


def define(name: str, schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Defines ``torch.ops.vimamba.<name>`` for every device.

    Args:
        name: name of the operator.
        schema: its arguments and results, such as '(Tensor x, Tensor? bias) -> Tensor'.
        kernel: the implementation. It must not return an argument or a view of one.
        fake: returns empty results of the same shapes, dtypes and strides, for tracing.
    """
    if hasattr(torch.ops.vimamba, name):  # defined by a copy of the module: doctest imports kernels/ under another name
        return getattr(torch.ops.vimamba, name).default
    _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, torch.compiler.disable(kernel), 'CompositeExplicitAutograd')
    register_fake(f'vimamba::{name}', fake, lib=_library)
    return getattr(torch.ops.vimamba, name).default


def differentiate(
    operator: torch._ops.OpOverload,
    setup: Callable[[Any, tuple, Any], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> None:
    """Registers the first derivative of an operator in reverse mode. Any other derivative raises an error.

    Args:
        operator: returned by `define`.
        setup: (context, arguments, result) -> None; saves what ``backward`` needs.
        backward: (context, *gradients of the results) -> a gradient, or None, for every argument.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            result = operator(*args)
        setup(ctx, args, result)
        return result

    def back(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():  # create_graph
            return _Once.apply(backward, ctx, *grads, *ctx.saved_tensors)
        return backward(ctx, *grads)

    members = {'forward': staticmethod(forward), 'backward': staticmethod(back)}
    function: Any = type(f'Of_{operator._opname}', (torch.autograd.Function,), members)

    def kernel(*args: Any) -> Any:
        if getattr(forward_ad, '_current_level', -1) >= 0 and any(map(_has_tangent, args)):
            raise UsageError(f"{operator._opname}: no forward-mode derivative; backend='reference' of a scan has one")
        if not torch.is_grad_enabled() or not any(isinstance(t, Tensor) and t.requires_grad for t in args):
            with torch._C._AutoDispatchBelowAutograd():
                return operator(*args)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise UsageError(f"{operator._opname}: no derivative by torch.func; backend='reference' of a scan has one")
        return function.apply(*args)

    if not torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), 'AutogradCPU'):
        _library.impl(operator._opname, torch.compiler.disable(kernel), 'Autograd')


def without_autocast(device_type: str) -> AbstractContextManager:
    """Disables autocast, so that the dtypes of the arguments decide. 'meta' has no autocast."""
    on = device_type != 'meta' and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if on else nullcontext()


class _Once(torch.autograd.Function):
    """A backward pass as a node of the graph that depends on all of its inputs, and raises if differentiated.

    The error node of `once_differentiable` has no inputs, so `torch.autograd.grad` with given inputs never reaches it.
    """

    @staticmethod
    def forward(ctx: Any, backward: Callable[..., Any], inner: Any, *tensors: Tensor | None) -> Any:
        return backward(inner, *tensors[: len(tensors) - len(inner.saved_tensors)])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise UsageError("no second derivative of a kernel; backend='reference' of a scan has one")


def _has_tangent(t: object) -> bool:
    return isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None
