"""Multi-layer perceptron of a block."""

from collections.abc import Callable

from torch import Tensor, nn

from .linear import dense

__all__ = ['Mlp']


class Mlp(nn.Module):
    """fc2(act(fc1(x))) over the last dimension; the parameters are those of timm's ``Mlp``.

    Shape: (..., dim) -> (..., dim).
    """

    def __init__(self, dim: int, hidden: int, act: Callable[[], nn.Module] = nn.GELU, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.act = act()
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return dense(self.fc2, self.act(dense(self.fc1, x)))
