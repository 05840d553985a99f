"""Multi-layer perceptron of a block."""

import timm.layers
from torch import Tensor

from .linear import dense

__all__ = ['Mlp']


class Mlp(timm.layers.Mlp):
    """fc2(gelu(fc1(x))) by the dense layers of this package. Shape: (..., dim), kept."""

    def forward(self, x: Tensor) -> Tensor:
        return dense(self.fc2, self.act(dense(self.fc1, x)))
