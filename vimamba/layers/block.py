"""Residual block."""

from timm.layers import DropPath, LayerScale
from torch import Tensor, nn


class Block(nn.Module):
    """x + drop_path(scale * mixer(norm(x))), with x in the dtype of the residual stream.

    Official Vim code delays the addition to the next block so as to fuse it with the norm there; it is the same
    function, and what a block returns here is the sum.

    Shape: (b, l, dim) -> (b, l, dim).
    """

    def __init__(
        self,
        norm: nn.Module,
        mixer: nn.Module,
        dim: int,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.ls = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale, device=device, dtype=dtype)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.ls(self.mixer(self.norm(x))))
