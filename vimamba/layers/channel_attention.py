"""Channel attention of LocalMamba and EfficientVMamba."""

import torch
from torch import Tensor, nn

__all__ = ['ChannelAttention']


class ChannelAttention(nn.Module):
    """x * sigmoid(W2 gelu(W1 mean(norm(x)))), with the mean over all tokens (SCAttn, arXiv:2403.09338, Eq. 5).

    Official code computes the channel attention of SCAttn and not its spatial attention; so does this layer.

    Shape: (b, ..., dim) -> (b, ..., dim).
    """

    def __init__(self, dim: int, reduction: int = 8, device=None, dtype=None):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.norm = nn.LayerNorm(dim, **dd)
        self.reduce = nn.Linear(dim, dim // reduction, **dd)
        self.act = nn.GELU()
        self.expand = nn.Linear(dim // reduction, dim, **dd)

    def reset_parameters(self) -> None:
        """PyTorch's initial values."""
        for module in (self.norm, self.reduce, self.expand):
            module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        mean = self.norm(x).flatten(1, -2).mean(1)
        gate = torch.sigmoid(self.expand(self.act(self.reduce(mean))))
        return (x.flatten(1, -2) * gate.unsqueeze(1)).view(x.shape)
