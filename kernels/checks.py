"""Checks of tensor arguments, shared by the operators."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from vimamba.errors import bad_argument

__all__ = ['check_rank', 'check_tensors', 'check_walk']

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_rank(name: str, t: object, axes: str, *ranks: int) -> None:
    """Raises a UsageError if ``t`` is not a tensor of one of ``ranks``. ``axes`` is its shape in letters."""
    if not isinstance(t, Tensor):
        raise bad_argument(name, 'a tensor', type(t).__name__)
    if t.ndim not in ranks:
        raise bad_argument(name, f'shape {axes}', f'shape {tuple(t.shape)}')


def check_tensors(tensors: Mapping[str, tuple[object, tuple[int, ...]]], optional: Container[str] = ()) -> None:
    """Raises a UsageError for the first argument that has not its shape, a floating-point dtype or the common device.

    Args:
        tensors: name -> (argument, shape). The first one is a tensor on the device of all.
        optional: the names of arguments that may be None.
    """
    first = next(iter(tensors))
    device = tensors[first][0].device  # type: ignore[attr-defined]
    for name, (t, shape) in tensors.items():
        if t is None and name in optional:
            continue
        if not isinstance(t, Tensor):
            raise bad_argument(name, 'a tensor', type(t).__name__)
        if t.shape != shape:
            raise bad_argument(name, f'shape {shape}', f'shape {tuple(t.shape)}')
        if t.dtype not in _FLOATS:
            raise bad_argument(name, 'a floating-point dtype', t.dtype)
        if t.device != device:
            raise bad_argument(name, f'device {device} (that of {first})', f'device {t.device}')


def check_walk(rows: Tensor | None, steps: list[int], k: int, x: Tensor, name: str) -> None:
    """Raises a UsageError if (rows, steps) are not k routes over the tokens of an argument ``x`` (..., l)."""
    if len(steps) != k or k < 1:
        raise bad_argument('steps', f'{k}, one for each route, of one or more', f'{len(steps)}')
    if rows is None:
        return
    if rows.shape != (k, x.shape[-1]) or rows.dtype != torch.int32:
        raise bad_argument('rows', f'({k}, {x.shape[-1]}) int32', f'{tuple(rows.shape)} {rows.dtype}')
    if rows.device != x.device and not x.is_meta:  # the table of a meta model has values
        raise bad_argument('rows', f'device {x.device} (that of {name})', f'device {rows.device}')
