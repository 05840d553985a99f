"""Class tokens in a sequence of patches."""

import torch
from torch import Tensor

__all__ = ['CLASS_TOKENS', 'class_rows', 'insert_class', 'split_class']

CLASS_TOKENS = {'middle': 1, 'first': 1, 'both': 2, 'none': 0}  # number of tokens by position


def class_rows(position: str, patches: int) -> list[int]:
    """Rows of the class tokens in a sequence with ``patches`` patches, ascending.

    >>> class_rows('middle', 196), class_rows('both', 4)
    ([98], [0, 5])
    """
    return {'middle': [patches // 2], 'first': [0], 'both': [0, patches + 1], 'none': []}[position]


def insert_class(x: Tensor, tokens: Tensor, position: str) -> Tensor:
    """Inserts class tokens (1, k, c) into patches (b, l, c): (b, l + k, c)."""
    tokens = tokens.expand(x.shape[0], -1, -1).to(x.dtype)
    for i, row in enumerate(class_rows(position, x.shape[1])):
        x = torch.cat((x[:, :row], tokens[:, i : i + 1], x[:, row:]), 1)
    return x


def split_class(x: Tensor, position: str) -> tuple[Tensor, Tensor]:
    """Splits (b, l + k, c) into class tokens (b, k, c) and patches (b, l, c)."""
    if position == 'middle':
        row = (x.shape[1] - 1) // 2
        return x[:, row : row + 1], torch.cat((x[:, :row], x[:, row + 1 :]), 1)
    if position == 'both':
        return torch.cat((x[:, :1], x[:, -1:]), 1), x[:, 1:-1]
    k = CLASS_TOKENS[position]
    return x[:, :k], x[:, k:]
