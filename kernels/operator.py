"""Operators of torch, as `torch.library.custom_op` makes them, with less between the caller and the kernel.

A small scan takes a tenth of a millisecond, and what custom_op puts around a kernel that is trained as much again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library, infer_schema, register_fake

from vimamba.errors import UsageError

__all__ = ['define', 'differentiate', 'without_autocast']

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
    """Gives an operator its derivative, once and in reverse mode; what else is asked for is refused, not zero.

    Args:
        operator: of `define`.
        setup: (context, arguments, result) -> None, saves what ``backward`` needs.
        backward: (context, *gradients of the results) -> a gradient, or None, for every argument.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            result = operator(*args)
        setup(ctx, args, result)
        return result

    def back(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():  # by create_graph
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
    """The dtypes of the arguments decide, not the caller's mode; a device such as 'meta' has no such mode."""
    on = device_type != 'meta' and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if on else nullcontext()


class _Once(torch.autograd.Function):
    """A backward pass as a node behind all that it depends on.

    `once_differentiable` puts its error behind nothing: `torch.autograd.grad` to given inputs never gets there.
    """

    @staticmethod
    def forward(ctx: Any, backward: Callable[..., Any], inner: Any, *tensors: Tensor | None) -> Any:
        return backward(inner, *tensors[: len(tensors) - len(inner.saved_tensors)])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise UsageError("no second derivative of a kernel; backend='reference' of a scan has one")


def _has_tangent(t: object) -> bool:
    return isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None
