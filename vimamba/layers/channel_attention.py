"""Channel attention of LocalMamba and EfficientVMamba."""

import torch
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """x * sigmoid(W2 gelu(W1 mean(norm(x)))), the mean over all tokens (LocalMamba's SCAttn, arXiv:2403.09338, Eq. 5).

    Of SCAttn the channel attention is what official code computes; weights depend on it.

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
