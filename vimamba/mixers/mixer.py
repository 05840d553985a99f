"""The protocol of mixers and their registry.

A mixer computes over tokens along routes. It is written once, as a *core*, and registered by name:

    @register_mixer('mamba2')
    class SSD(Core):
        def forward(self, u, routes): ...

Two shells hold a core. A `CoreMixer` convolves along each route in front of it, as the inner block of Mamba-1 does. A
`GridMixer` (ss2d.py) convolves the map, as VMamba does. Where the published sequence block lays out its parameters in
another way, that block is registered with the core.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

import vimamba.kernels.causal_conv1d  # noqa: F401  (registers its operator in torch.ops.vimamba)
from vimamba.errors import UsageError, bad_argument, unknown_name
from vimamba.kernels.linear import linear, linears
from vimamba.layers.channel_attention import ChannelAttention
from vimamba.layers.linear import dense, is_plain
from vimamba.scans import ScanOrder

from .routes import IN_ORDER, FixedScan, MapScan, Routes

__all__ = [
    'Core',
    'CoreMixer',
    'Mixer',
    'MixerState',
    'SequenceMixer',
    'convolve',
    'create_mixer',
    'find_mixer',
    'list_mixers',
    'merge_routes',
    'mixer_per_block',
    'project',
    'register_mixer',
]


class Core(nn.Module):
    """What is computed along K routes at one width: the base of registered mixers.

    A shell calls ``core(dim, routes, d_model=..., device=..., dtype=..., **options)``. A subclass defines `forward` and
    ``reset_parameters``, and `resume` if it carries a state from part to part.

    Args:
        dim: channels (d_inner).
        routes: K, the number of routes.
        d_model: width of the tokens outside the shell.
        d_state: size of the state, with a default; further options have defaults too.

    Attributes:
        merge: what the shell applies to the output of each route before their sum, see `merge_routes`; or None.

    Shape: ``forward(u, routes)`` takes u (b, l, dim), which every route reads, or (b, K, l, dim), one for each route.
    It returns the sum over the routes (b, l - pads, dim). Tokens are in memory order; `Routes` say in which order to
    read them.
    """

    no_weight_decay: ClassVar[tuple[str, ...]] = ()  # names of its parameters without weight decay
    merges: ClassVar[bool] = True  # False if it does not apply `merge`
    grid_act: ClassVar[Callable[[], nn.Module]] = nn.SiLU  # before it in a `GridMixer`

    def __init__(self) -> None:
        super().__init__()
        self.merge: nn.Module | None = None

    def resume(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Outputs and next state of the next tokens (b, l, dim) of one route in memory order.

        The state is one tensor (b, 1, ...), at least float32. None and zeros are the start of a sequence.

        Raises:
            UsageError: the mixer does not carry a state.
        """
        raise UsageError(f'step: {type(self).__name__} carries no state between parts of a sequence')


def merge_routes(y: Tensor, routes: Routes, merge: nn.Module | None) -> Tensor:
    """Sums the outputs of the routes, each behind ``merge``, without pads: (b, K, l, d) -> (b, l - pads, d)."""
    y = y[:, :, : y.shape[2] - routes.pads]
    if merge is None:
        return y.sum(1)
    total = torch.zeros_like(y[:, 0])
    for route in y.unbind(1):
        total = total + merge(route)
    return total


def project(u: Tensor, weight: Tensor) -> Tensor:
    """A linear layer per route: u (b, l, d), shared, or (b, K, l, d); weight (K, c, d) -> (K, b, l, c)."""
    b, l = u.shape[0], u.shape[-2]
    if u.ndim == 3:
        return linear(u, weight.flatten(0, 1)).view(b, l, *weight.shape[:2]).permute(2, 0, 1, 3)
    return linears(u.transpose(0, 1).flatten(1, 2), weight.to(u.dtype)).unflatten(1, (b, l))


_MIXERS: dict[str, tuple[type[Core], Callable[..., Mixer]]] = {}  # name -> the core and its block of sequences


def register_mixer(name: str, block: Callable[..., Mixer] | None = None) -> Callable[[type[Core]], type[Core]]:
    """Registers a `Core` under the name that ``mixer=`` takes in every family.

    Args:
        name: the name.
        block: the block of sequence models; a `CoreMixer` around the core if None.

    Raises:
        UsageError: another module has registered that name.
    """

    def decorate(core: type[Core]) -> type[Core]:
        if name in _MIXERS and (other := _MIXERS[name][0]).__module__ != core.__module__:
            raise UsageError(f'mixer {name!r} is registered by {other.__module__}: choose another name')
        _MIXERS[name] = core, block or partial(CoreMixer, core=core)
        return core

    return decorate


def list_mixers() -> list[str]:
    """The registered names, sorted.

    >>> 'mamba1' in list_mixers()
    True
    """
    return sorted(_MIXERS)


def find_mixer(name: str) -> type[Core]:
    """The core of a registered name.

    Raises:
        UsageError: an unknown name.
    """
    if not isinstance(name, str) or name not in _MIXERS:
        raise unknown_name('mixer', str(name), _MIXERS, 'mixer')
    return _MIXERS[name][0]


def mixer_per_block(mixer: str | Sequence[str], depth: int) -> list[str]:
    """The mixer of each of ``depth`` blocks: one for all, or a list that is repeated where it is shorter.

    Raises:
        UsageError: an unknown name, no name, or more than ``depth``.
    """
    names = [mixer] if isinstance(mixer, str) else list(mixer)
    if not 1 <= len(names) <= depth or not all(isinstance(name, str) for name in names):
        raise bad_argument('mixer', f'a name, or a list of 1 to {depth}, one for each block', repr(mixer))
    for name in names:
        find_mixer(name)
    return [names[i % len(names)] for i in range(depth)]


def create_mixer(name: str, d_model: int, scan: ScanOrder | FixedScan | MapScan, **options: Any) -> Mixer:
    """The registered mixer as a block over sequences: projections, convolution along each route, core, gate.

    Its parameters are allocated, not initialised: ``reset_parameters()`` gives them their values.

    Args:
        name: registered name.
        d_model: width of the tokens.
        scan: where it reads: a scan order of one grid, or `MapScan` for maps of any size.
        options: arguments of the block: ``d_state``, ``d_conv``, ``expand``, ``merge`` and further ones of the mixer.

    Raises:
        UsageError: an unknown name or option.

    >>> from vimamba.scans import create_order
    >>> create_mixer('mamba1', 32, create_order('cross', (4, 6)))(torch.zeros(1, 24, 32)).shape
    torch.Size([1, 24, 32])
    """
    find_mixer(name)
    block = _MIXERS[name][1]
    try:
        inspect.signature(block).bind(d_model, scan, **options)
    except TypeError as error:
        raise UsageError(f'{name!r}: {error}', key='mixer') from error
    return block(d_model, scan, **options)


class MixerState(NamedTuple):
    """State of a mixer between two parts of a sequence: the last convolution inputs and the state of the core."""

    inputs: Tensor  # (b, d_inner, d_conv - 1)
    hidden: Tensor  # (b, 1, ...), at least float32


@register_notrace_module
class Mixer(nn.Module):
    """A mixer as a block holds it: (b, l, d_model) or a map (b, *grid, d_model), kept.

    Subclasses define ``mix(x, routes)`` over tokens (b, l, d_model) in memory order.

    Args:
        scan: a scan order, or one of the adapters `FixedScan` and `MapScan`.
    """

    mix: Callable[[Tensor, Routes], Tensor]
    is_causal = False  # whether `step` carries a state from part to part

    def __init__(self, scan: ScanOrder | FixedScan | MapScan, device: Any = None):
        super().__init__()
        self.scan = FixedScan(scan, device) if isinstance(scan, ScanOrder) else scan

    def set_order(self, order: ScanOrder) -> None:
        """Changes the tokens or the routes that are read; the number of routes stays."""
        if order.routes != self.scan.count:
            raise bad_argument('order', f'{self.scan.count} routes', f'{order.routes}')
        self.scan.set_order(order)

    @property
    def any_length(self) -> bool:
        """Whether the mixer takes sequences of any length."""
        return self.scan.any_length

    def forward(self, x: Tensor) -> Tensor:
        routes = self.scan.routes_of(x)
        return self.mix(x, routes) if x.ndim == 3 else self.mix(x.flatten(1, -2), routes).reshape(x.shape)


def convolve(x: Tensor, convs: Sequence[nn.Conv1d], routes: Routes) -> Tensor:
    """silu(conv1d) along each route, causal: (b, d, l), one convolution for each of K routes -> (b, K, d, l)."""
    if is_plain(*convs):
        weight = torch.stack([conv.weight.squeeze(1) for conv in convs])
        bias = torch.stack([conv.bias for conv in convs])
        return torch.ops.vimamba.route_conv1d(x, weight, bias, routes.rows, routes.steps, True)
    outputs = []
    for k, conv in enumerate(convs):
        route = routes.only(k)
        y = F.silu(conv(route.read(x.unsqueeze(1))[:, 0])[..., : x.shape[-1]])
        outputs.append(route.unread(y.unsqueeze(1)))
    return torch.cat(outputs, 1)


class SequenceMixer(Mixer):
    """A mixer with a causal convolution along each route, which can take a sequence in parts.

    Subclasses have ``in_proj`` to (x, z), ``convs``, `resume` and ``out_proj``.

    Args:
        scan: a scan order, or an adapter.
        merge: 'mean' or 'sum' over the routes, or their sum behind channel 'attention' of each.
    """

    convs: Sequence[nn.Conv1d]
    in_proj: nn.Module
    out_proj: nn.Module

    def __init__(self, scan: ScanOrder | FixedScan | MapScan, merge: str = 'mean', device: Any = None):
        super().__init__(scan, device)
        if merge not in ('mean', 'sum', 'attention'):
            raise bad_argument('merge', "'mean', 'sum' or 'attention'", repr(merge))
        self.merge = merge
        self.scale = 1.0 / self.scan.count if merge == 'mean' else 1.0

    def reset_parameters(self) -> None:
        """PyTorch's initial values for in_proj and out_proj, and each other part's own."""
        self.in_proj.reset_parameters()
        self.out_proj.reset_parameters()
        for name, part in self.named_children():
            if name not in ('in_proj', 'out_proj', 'scan'):
                for module in part if isinstance(part, nn.ModuleList) else (part,):
                    module.reset_parameters()

    @property
    def is_causal(self) -> bool:  # type: ignore[override]
        """Whether `step` takes a sequence in parts: the output of a token depends on it and those before it alone."""
        in_order = self.scan.any_length and self.scan.routes.steps == [1]
        return in_order and self.merge != 'attention' and self.carries_state

    @property
    def carries_state(self) -> bool:
        return type(self).resume is not SequenceMixer.resume

    def step(self, x: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        """The next tokens of a sequence that comes in parts: (b, l, d_model), and the state of those before.

        Any parts give what `forward` gives for all tokens at once. Gradients flow through the state.

        Raises:
            UsageError: the mixer does not read its tokens in the order in which they come, or carries no state.
        """
        if not self.is_causal:
            raise UsageError("step: the mixer needs all tokens at once; use a scan of one route in order, 'raster'")
        x, z = dense(self.in_proj, x).chunk(2, -1)
        width = self.convs[0].kernel_size[0] - 1
        before = x.new_zeros(x.shape[0], width, x.shape[2]) if state is None else state.inputs.to(x.dtype).mT
        x = torch.cat((before, x), 1).mT  # channels adjacent in memory
        u = convolve(x, self.convs, IN_ORDER)[..., width:]
        y, hidden = self.resume(u, z, None if state is None else state.hidden)
        return dense(self.out_proj, y), MixerState(x[..., x.shape[2] - width :].clone(), hidden)

    def resume(self, u: Tensor, z: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """The gated output (b, l, d_inner) and the next state, from convolved tokens u (b, 1, d_inner, l)."""
        raise UsageError(f'step: {type(self).__name__} carries no state between parts of a sequence')


class CoreMixer(SequenceMixer):
    """Any core in the inner block of Mamba-1 (arXiv:2312.00752, Fig. 3), along K routes (arXiv:2401.09417, Alg. 1).

        x, z = in_proj(tokens)
        u_k = silu(conv1d_k(x)) along route k
        out = out_proj(mean_k or sum_k core_k(u_k) * silu(z))

    Shape: (b, l, d_model) or (b, *grid, d_model), kept; tokens in memory order.

    Args:
        d_model: width of the tokens.
        scan: where the mixer reads: a scan order, or an adapter.
        core: a `Core`.
        d_conv: width of the causal convolution.
        expand: d_inner = expand * d_model.
        merge: 'mean' or 'sum' over the routes, or their sum behind channel 'attention' of each.
        options: further arguments of the core.
    """

    def __init__(
        self,
        d_model: int,
        scan: ScanOrder | FixedScan | MapScan,
        core: Callable[..., Core],
        d_conv: int = 4,
        expand: int = 2,
        merge: str = 'mean',
        device=None,
        dtype=None,
        **options: Any,
    ):
        super().__init__(scan, merge, device)
        dd = {'device': device, 'dtype': dtype}
        d_inner, k = expand * d_model, self.scan.count
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False, **dd)
        self.convs = nn.ModuleList(
            nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1, **dd) for _ in range(k)
        )
        self.core = core(d_inner, k, d_model=d_model, **options, **dd)
        if merge == 'attention':
            self.core.merge = ChannelAttention(d_inner, **dd)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False, **dd)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.core.merge is not None:
            self.core.merge.reset_parameters()

    def mix(self, x: Tensor, routes: Routes) -> Tensor:
        x, z = dense(self.in_proj, x).chunk(2, -1)
        u = convolve(routes.pad(x).transpose(1, 2), self.convs, routes)
        y = self.core(u.transpose(2, 3), routes)
        y = dense(self.out_proj, y.to(z.dtype) * F.silu(z))
        return y if self.scale == 1.0 else y * self.scale

    @property
    def carries_state(self) -> bool:
        return type(self.core).resume is not Core.resume

    def resume(self, u: Tensor, z: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        y, hidden = self.core.resume(u[:, 0].mT, hidden)
        return y.to(z.dtype) * F.silu(z), hidden
