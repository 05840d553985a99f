"""Residual block."""

from typing import Any

import torch
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn


class Block(nn.Module):
    """x + drop_path(scale * mixer(norm(x))), and where there is an MLP the same again with norm2 and it.

    What stands ``before`` changes the stream itself. The sum has the dtype of the residual stream. Official Vim code
    delays the addition to the next block so as to fuse it with the norm there; it is the same function, and what a
    block returns here is the sum.

    Shape: (..., dim) -> (..., dim).
    """

    def __init__(
        self,
        norm: nn.Module,
        mixer: nn.Module,
        dim: int,
        norm2: nn.Module | None = None,
        mlp: nn.Module | None = None,
        before: nn.Module | None = None,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()

        def scale() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale, device=device, dtype=dtype)

        self.before = before
        self.norm = norm
        self.mixer = mixer
        self.ls = scale()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = norm2
        self.mlp = mlp
        self.ls2 = None if mlp is None else scale()

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]

    @torch.jit.ignore
    def step(self, x: Tensor, state: Any = None, kept: Tensor | None = None) -> tuple[Tensor, Any]:
        """The next tokens of a sequence that comes in parts, and what the mixer carries on: of a block without MLP.

        ``kept``, (b, 1, 1), is what stochastic depth drew for all parts; None draws for this one.
        """
        added, state = self.mixer.step(self.norm(x), state)
        added = self.ls(added)
        return x + (self.drop_path(added) if kept is None else added * kept), state

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the block returns, and what its mixer added to the stream, before stochastic depth."""
        if self.before is not None:
            x = self.before(x)
        added = self.ls(self.mixer(self.norm(x)))
        x = x + self.drop_path(added)
        if self.mlp is not None and self.norm2 is not None and self.ls2 is not None:
            x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return x, added
