"""A causal model as a function of tensors alone, for runtimes that pass nothing else: `torch.export`, ONNX."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from vimamba.mixers.mamba1 import MambaState

from .videomamba import StreamState, VideoMamba

__all__ = ['Stream']


class Stream(nn.Module):
    """`VideoMamba.step` with its state as four tensors, which are zeros before the first frame.

    Args:
        model: a causal one.

    Shape: the next frames (b, in_chans, t, H, W) and the state -> the scores (b, num_classes) of the frames so far, and
    the state. It is the last inputs of every convolution (depth, b, d_inner, d_conv - 1), the hidden states of every
    scan (depth, b, d_inner, d_state), the sum of the tokens (b, embed_dim), and their number, an int64 scalar.

    >>> stream = Stream(VideoMamba(img_size=32, embed_dim=32, depth=2, num_classes=10, causal=True))
    >>> scores, *state = stream(torch.rand(1, 3, 1, 32, 32), *stream.start())
    >>> scores, *state = stream(torch.rand(1, 3, 1, 32, 32), *state)
    """

    names = ('frames', 'inputs', 'hidden', 'total', 'tokens')  # of the arguments
    batch: ClassVar = {'frames': 0, 'inputs': 1, 'hidden': 1, 'total': 0}  # the axis that is the batch

    def __init__(self, model: VideoMamba):
        super().__init__()
        self.model = model

    def start(self, clips: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The state before the first frame of so many clips."""
        model = self.model
        size = (clips, model.in_chans, model.tubelet_size, *model.patch_embed.img_size)
        with torch.no_grad():
            _, state = model.step(model.pos_embed.new_zeros(size))
        inputs, hidden, total, tokens = _flat(state)
        return torch.zeros_like(inputs), torch.zeros_like(hidden), torch.zeros_like(total), torch.zeros_like(tokens)

    def forward(
        self, frames: Tensor, inputs: Tensor, hidden: Tensor, total: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        layers = tuple(map(MambaState, inputs.unbind(), hidden.unsqueeze(2).unbind()))
        scores, state = self.model.step(frames, StreamState(layers, total, tokens))
        return scores, *_flat(state)


def _flat(state: StreamState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = torch.stack([own.inputs for own in state.layers])
    hidden = torch.stack([own.hidden for own in state.layers]).squeeze(2)
    return inputs, hidden, state.total, torch.as_tensor(state.tokens, device=state.total.device)
