"""State of a causal model between frames, and the model as a function of tensors."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vimamba.mixers import MixerState

__all__ = ['Stream', 'StreamState']


class StreamState(NamedTuple):
    """State after the frames so far; its size does not depend on their number."""

    layers: tuple[MixerState, ...]
    total: Tensor  # sum of the normalised tokens (b, embed_dim), at least float32
    tokens: int | Tensor  # their number

    def detach(self) -> 'StreamState':
        """Detaches the state, for truncated backpropagation through a clip."""
        return self._map(Tensor.detach)

    def to(self, *args: Any, **kwargs: Any) -> 'StreamState':
        """`torch.Tensor.to` of every tensor."""
        return self._map(lambda t: t.to(*args, **kwargs))

    def restart(self) -> 'StreamState':
        """Keeps the states of the blocks and resets the mean: the next scores are of the next frames only."""
        return self._replace(total=torch.zeros_like(self.total), tokens=0)

    def _map(self, change: Callable[[Tensor], Tensor]) -> 'StreamState':
        layers = tuple(MixerState(*map(change, state)) for state in self.layers)
        return self._replace(layers=layers, total=change(self.total))


torch.serialization.add_safe_globals([StreamState, MixerState])  # for torch.load of a state


class Stream(nn.Module):
    """`VideoMamba.step` with its state as four tensors, for `torch.export` and ONNX. The initial state is zeros.

    Args:
        model: a causal `VideoMamba`.

    Shape: frames (b, in_chans, t, H, W) and the state -> scores (b, num_classes) of all frames so far, and the state.
    The state is the last inputs of every convolution (depth, b, d_inner, d_conv - 1), the hidden states of every scan
    (depth, b, d_inner, d_state), the sum of the tokens (b, embed_dim), and their number, an int64 scalar.

    >>> from vimamba.models.videomamba import VideoMamba
    >>> stream = Stream(VideoMamba(img_size=32, embed_dim=32, depth=2, num_classes=10, causal=True))
    >>> scores, *state = stream(torch.rand(1, 3, 1, 32, 32), *stream.start())
    >>> scores, *state = stream(torch.rand(1, 3, 1, 32, 32), *state)
    """

    names = ('frames', 'inputs', 'hidden', 'total', 'tokens')  # arguments of `forward`
    batch: ClassVar = {'frames': 0, 'inputs': 1, 'hidden': 1, 'total': 0}  # batch axis of the arguments

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model: Any = model

    def start(self, clips: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The initial state for a batch of ``clips``."""
        model = self.model
        size = (clips, model.in_chans, model.tubelet_size, *model.patch_embed.img_size)
        with torch.no_grad():
            _, state = model.step(model.pos_embed.new_zeros(size))
        return tuple(map(torch.zeros_like, _flat(state)))  # type: ignore[return-value]

    def forward(
        self, frames: Tensor, inputs: Tensor, hidden: Tensor, total: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        layers = tuple(map(MixerState, inputs.unbind(), hidden.unsqueeze(2).unbind()))
        scores, state = self.model.step(frames, StreamState(layers, total, tokens))
        return scores, *_flat(state)


def _flat(state: StreamState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = torch.stack([layer.inputs for layer in state.layers])
    hidden = torch.stack([layer.hidden for layer in state.layers]).squeeze(2)
    return inputs, hidden, state.total, torch.as_tensor(state.tokens, device=state.total.device)
