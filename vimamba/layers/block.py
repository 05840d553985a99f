"""Residual block."""

from typing import Any

from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

__all__ = ['Block']


class Block(nn.Module):
    """x + drop_path(scale(mixer(norm(x)))), followed by the same with ``norm2`` and ``mlp`` if there is an MLP.

    ``before`` is applied to the residual stream. The sum has the dtype of the stream. Official Vim code delays the
    addition to the next block, where it is fused with the norm; the function is the same.

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

    def forward(self, x: Tensor, return_branch: bool = False) -> Any:
        """The stream behind the block; with ``return_branch`` also the mixer's branch, before stochastic depth."""
        if self.before is not None:
            x = self.before(x)
        branch = self.ls(self.mixer(self.norm(x)))
        x = x + self.drop_path(branch)
        if self.mlp is not None:
            x = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))  # type: ignore[misc]
        return (x, branch) if return_branch else x

    def step(self, x: Tensor, state: Any = None, keep: Tensor | None = None) -> tuple[Tensor, Any]:
        """`forward` on the next tokens of a sequence, from the mixer's ``state``; returns the new state too.

        For blocks without an MLP. ``keep`` (b, 1, 1) is the mask of stochastic depth; None draws one.
        """
        branch, state = self.mixer.step(self.norm(x), state)
        branch = self.ls(branch)
        return x + (self.drop_path(branch) if keep is None else branch * keep), state
