"""Class tokens among the patches: where they are, how they get there, how they are taken apart."""

import torch
from torch import Tensor

CLASS_TOKENS = {'middle': 1, 'first': 1, 'both': 2, 'none': 0}


def class_rows(kind: str, patches: int) -> list[int]:
    """Rows of the class tokens in a sequence of so many patches, ascending.

    >>> class_rows('middle', 196), class_rows('both', 4)
    ([98], [0, 5])
    """
    return {'middle': [patches // 2], 'first': [0], 'both': [0, patches + 1], 'none': []}[kind]


def insert_class(x: Tensor, tokens: Tensor, kind: str) -> Tensor:
    """Patches (b, l, c) and class tokens (1, k, c) -> (b, l + k, c)."""
    tokens = tokens.expand(x.shape[0], -1, -1).to(x.dtype)
    if kind == 'middle':
        row = x.shape[1] // 2
        return torch.cat((x[:, :row], tokens, x[:, row:]), 1)
    if kind == 'first':
        return torch.cat((tokens, x), 1)
    return torch.cat((tokens[:, :1], x, tokens[:, 1:]), 1)


def split_class(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(b, l + k, c) -> class tokens (b, k, c) and patches (b, l, c)."""
    if kind == 'middle':
        row = (x.shape[1] - 1) // 2
        return x[:, row : row + 1], torch.cat((x[:, :row], x[:, row + 1 :]), 1)
    if kind == 'first':
        return x[:, :1], x[:, 1:]
    if kind == 'both':
        return torch.cat((x[:, :1], x[:, -1:]), 1), x[:, 1:-1]
    return x[:, :0], x
