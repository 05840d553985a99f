"""VideoMamba: Vim's blocks over clips, frame by frame in both directions; for images a Vim with its class token first.

Paper: VideoMamba: State Space Model for Efficient Video Understanding, arXiv:2403.06977.
Official code and weights: OpenGVLab/VideoMamba (Apache-2.0); this file was written from the paper, the layout of the
weights and the outputs of the official models.

    clip -> patches of frames -> + positions in time and in the frame -> class token first -> n x [ + Mamba ] -> norm
         -> head on the class token

A causal model scans forwards only and has neither a class token nor positions in time. It runs on a stream of frames
(`VideoMamba.step`), and on long clips a few frames at a time (``chunk_frames``).
"""

from functools import partial
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vimamba.errors import UsageError, bad_argument, check_integers
from vimamba.layers import widen
from vimamba.layers.patch_embed import TubeletEmbed, check_clip, check_frames, check_images, resize_time_embed
from vimamba.mixers.mamba1 import MambaState

from . import vim_checkpoint
from ._builder import build_model, fit_channels, record_input_size, register_variant, sequence_cfg
from ._stream import StreamState
from .vim import Vim

__all__ = ['VideoMamba', 'causal_weights', 'checkpoint_filter_fn', 'inflate']

torch.fx.wrap('widen')


class VideoMamba(Vim):
    """VideoMamba (arXiv:2403.06977) on clips.

    Args:
        img_size: size of a frame in pixels, one integer or (height, width).
        num_frames: frames of a clip.
        tubelet_size: frames of a patch.
        num_classes: classes of the head; 0 for none.
        class_token: 'first' or 'none'; by default 'none' in causal models.
        causal: a token depends only on those before it, and the head is on the mean of all tokens. Accepts any number
            of frames, and `step`.
        chunk_frames: number of frames that a causal model runs at a time, for which the backward pass keeps only the
            state in between; 0 runs all at once. The result is the same. Feature maps are computed at once.
        options: further arguments of `Vim`. ``dynamic_img_size`` accepts any number and size of frames in forward and
            resizes the positions on the fly, linear in time and bicubic in a frame.

    Initial values are `Vim`'s; positions in time start at 0.

    Shape: (b, in_chans, T, H, W) -> (b, num_classes).

    >>> model = VideoMamba(img_size=32, num_frames=4, embed_dim=32, depth=2, num_classes=10)
    >>> model(torch.zeros(1, 3, 4, 32, 32)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        num_frames: int = 8,
        tubelet_size: int = 1,
        num_classes: int = 400,
        class_token: str | None = None,
        causal: bool = False,
        chunk_frames: int = 0,
        **options: Any,
    ):
        check_integers(1, tubelet_size=tubelet_size)
        check_frames(num_frames, tubelet_size)
        check_integers(0, chunk_frames=chunk_frames)
        for name in ('feature_pyramid', 'pad_image', 'rope'):
            if options.get(name):
                raise bad_argument(name, 'none of it, which images alone have', repr(options[name]))
        if causal and options.get('mixer', 'mamba1') != 'mamba1':
            raise bad_argument('mixer', "'mamba1' in a causal model", repr(options['mixer']))
        class_token = class_token or ('none' if causal else 'first')
        if class_token not in (('none',) if causal else ('first', 'none')):
            raise bad_argument('class_token', "'none'" if causal else "'first' or 'none'", repr(class_token))
        if chunk_frames % tubelet_size or (chunk_frames and not causal):
            expected = f'a multiple of {tubelet_size}' if causal else '0, or a causal model (causal=True)'
            raise bad_argument('chunk_frames', expected, chunk_frames)
        super().__init__(
            img_size,
            num_classes=num_classes,
            class_token=class_token,
            embed_layer=partial(TubeletEmbed, num_frames, tubelet_size, not causal),
            **{'merge': 'sum', **({'scan': 'raster'} if causal else {}), **options},
        )
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        self.causal, self.chunk_frames = causal, chunk_frames
        if causal and not all(block.mixer.is_causal for block in self.blocks):
            routes = repr(options.get('scan', 'raster')), repr(options.get('merge', 'sum'))
            raise bad_argument('causal', "one route in memory order, scan='raster', merge='sum'", ' and '.join(routes))

    def init_weights(self) -> None:
        """`Vim`'s initial values; positions in time at 0."""
        super().init_weights()
        if self.patch_embed.time_embed is not None:
            nn.init.zeros_(self.patch_embed.time_embed)

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, num_frames: int | None = None) -> None:
        """Changes the size of a frame in pixels, the number of frames, or both: resizes positions, rebuilds routes."""
        old_grid = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size, num_frames)  # type: ignore[call-arg]  # a TubeletEmbed
        self.num_frames = self.patch_embed.num_frames
        self._resize_positions(old_grid)
        record_input_size(self, self.patch_embed.img_size, num_frames=self.num_frames)

    def embed(self, x: Tensor) -> Tensor:
        """Patches of all frames, positions, class token: (b, in_chans, T, H, W) -> (b, l, embed_dim)."""
        pos_embed = self._positions_of(x)
        x = self.patch_embed(x)
        first = self.num_class_tokens
        cells = pos_embed[:, first:].unsqueeze(1)  # (1, 1, n, c)
        x = (widen(x).unflatten(1, (-1, cells.shape[2])) + cells).flatten(1, 2)
        if self.cls_token is not None:
            token = (self.cls_token + pos_embed[:, :first]).expand(x.shape[0], -1, -1)
            x = torch.cat((token.to(x.dtype), x), 1)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised tokens of the last block: (b, in_chans, T, H, W) -> (b, l, embed_dim), the class token first."""
        return self._forward_chunks(x) if self.chunk_frames else super().forward_features(x)

    def _forward_chunks(self, x: Tensor) -> Tensor:
        check_images(x, self.in_chans, 1, 3)
        check_clip(x, 0, self.tubelet_size)
        states: tuple[MambaState | None, ...] = (None,) * len(self.blocks)
        one, tokens = self.pos_embed.new_ones(x.shape[0], 1, 1), []
        drops = (block.drop_path for block in self.blocks)
        masks = [None if isinstance(drop, nn.Identity) else drop(one) for drop in drops]  # the same in all chunks
        for chunk in x.split(self.chunk_frames, 2):
            out, states = checkpoint(self._advance, chunk, states, masks, use_reentrant=False)
            tokens.append(out)
        return torch.cat(tokens, 1)

    def _advance(
        self, x: Tensor, states: tuple[MambaState | None, ...], masks: list[Tensor | None]
    ) -> tuple[Tensor, tuple[MambaState, ...]]:
        """Normalised tokens of the next frames, and the new state of each block.

        ``masks`` are those of stochastic depth, see `Block.step`.
        """
        x, after = self.embed(x), []
        for block, state, mask in zip(self.blocks, states, masks, strict=True):
            if self.grad_checkpointing and torch.is_grad_enabled():
                x, state = checkpoint(block.step, x, state, mask, use_reentrant=False)
            else:
                x, state = block.step(x, state, mask)
            after.append(state)
        return self.norm(x).to(self.pos_embed.dtype), tuple(after)

    def step(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, StreamState]:
        """Scores of a stream of frames, of a causal model.

        Args:
            x: the next frames (b, in_chans, t, H, W), t a multiple of ``tubelet_size``.
            state: the state that the call before returned; None at the start.

        Returns:
            The scores (b, num_classes) of all frames so far, equal to those of `forward`, and the new state. Gradients
            flow through the state (`StreamState.detach`).

        Raises:
            UsageError: the model is not causal, or the state is of other clips or of another model.
        """
        if not self.causal or self.global_pool != 'avg':
            raise UsageError("step: this model needs whole clips; build it with causal=True and global_pool='avg'")
        if not isinstance(state, StreamState | None):
            raise bad_argument('state', 'None or what `step` returned', type(state).__name__)
        states = (None,) * len(self.blocks) if state is None else state.layers
        if state is not None:
            want, got = (len(self.blocks), x.shape[0], self.embed_dim), (len(states), *state.total.shape)
            if want != got:
                raise bad_argument('state', f'one of (blocks, clips, embed_dim) {want}', got)
        tokens, states = self._advance(x, states, [None] * len(self.blocks))
        total, count = widen(tokens).sum(1), tokens.shape[1]
        if state is not None:
            total, count = total + state.total, count + state.tokens
        pooled = self.head_drop((total / count).to(tokens.dtype))
        return self.head(pooled), StreamState(states, total, count)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: Vim) -> dict[str, Tensor]:
    """Converts an official file of images or clips, or a state dict of ours, to the state dict of ``model``.

    Heads of other training stages are dropped. Files of images initialise models of clips by `inflate`, files of whole
    clips causal models by `causal_weights`. Positions are resized, linear in time and bicubic in a frame.
    """
    weights = vim_checkpoint.rename(state_dict, model)
    if getattr(model, 'causal', False) and 'cls_token' in weights:
        weights = causal_weights(weights)
    weights = vim_checkpoint.resize_positions(weights, state_dict, model)
    masked = any(key.startswith('clip_decoder.') for key in weights)  # masked pretraining has no classes
    weights = {key: value for key, value in weights.items() if not key.startswith(('clip_decoder.', 'distill_head.'))}
    if masked:
        weights = {**{key: value for key, value in model.state_dict().items() if key.startswith('head.')}, **weights}
    if (patches := weights.get('patch_embed.proj.weight')) is not None:
        weights['patch_embed.proj.weight'] = patches = fit_channels(patches, model.in_chans)
    if not isinstance(model, VideoMamba):
        return weights
    times = weights.pop('temporal_pos_embedding', weights.pop('patch_embed.time_embed', None))
    if not model.causal and times is not None:
        weights['patch_embed.time_embed'] = resize_time_embed(times, model.patch_embed.grid_size[0])
    return inflate(weights, model) if patches is not None and patches.ndim == 4 else weights


def causal_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Initialises a causal model from the weights of a model of whole clips: its forward route, no class token."""
    reversed_route = '.projections.1.', '.routes.1.'
    kept = {key: value for key, value in weights.items() if not any(part in key for part in reversed_route)}
    del kept['cls_token']
    return {**kept, 'pos_embed': kept['pos_embed'][:, 1:]}


def inflate(weights: dict[str, Tensor], model: VideoMamba) -> dict[str, Tensor]:
    """Initialises a model of clips from the weights of an image model, as VideoMamba's authors do.

    The kernel of the patches is the image's for the middle frame and 0 for the others. Positions in time and the head
    keep their initial values.
    """
    initial = model.state_dict()
    kernel = torch.zeros(initial['patch_embed.proj.weight'].shape)
    kernel[:, :, model.tubelet_size // 2] = weights['patch_embed.proj.weight']
    fresh = {key: initial[key] for key in initial if key.startswith(('head.', 'patch_embed.time_embed'))}
    inflated = {key: value for key, value in weights.items() if not key.startswith('head.')}
    return {**inflated, **fresh, 'patch_embed.proj.weight': kernel}


_cfg = partial(
    sequence_cfg,
    license='apache-2.0',
    origin_url='https://github.com/OpenGVLab/VideoMamba',
    paper_ids='arXiv:2403.06977',
)


def _clips(url: str = '', published: str = '', **kwargs: Any) -> dict[str, Any]:
    """``input_size`` is that of a frame, as timm has no other; the model's ``num_frames`` says how many."""
    notes = (f'published {published}',) if published else ()
    return _cfg(url, notes=notes, **{'num_classes': 400, 'crop_pct': 1.0, 'interpolation': 'bilinear', **kwargs})


_HUB = 'https://huggingface.co/OpenGVLab/VideoMamba/resolve/main/videomamba_{}.pth'
_IMAGES = {'tiny': 76.9, 'small': 81.2, 'middle': 82.8, 'base': 82.7}  # published top-1
_FRAMES = (8, 16, 32, 64)
_CLIPS: dict[str, tuple[str, int, dict[str, tuple[float, ...]]]] = {
    # tag: (data set, classes, published top-1 at 8, 16, 32 and 64 frames); the first is the default of a bare name
    'k400': (
        'Kinetics-400',
        400,
        {'tiny': (76.9, 78.1, 78.8, 79.6), 'small': (79.3, 80.8, 81.5, 81.8), 'middle': (80.6, 81.9, 82.4, 82.8)},
    ),
    'ssv2': (
        'Something-Something v2',
        174,
        {'tiny': (65.1, 66.0), 'small': (66.6, 67.7), 'middle': (67.3, 68.3)},
    ),
}

_image_cfgs = {
    f'videomamba_{size}_patch16_224.opengvlab_in1k': _cfg(_HUB.format(f'{size[0]}16_in1k_res224'), top1=top1)
    for size, top1 in _IMAGES.items()
}
_clip_cfgs = {
    f'videomamba_{size}_patch16_224_f{frames}.opengvlab_{tag}': _clips(
        _HUB.format(f'{size[0]}16_{tag}_f{frames}_res224'), f'{dataset} top-1 {top1}', num_classes=classes
    )
    for tag, (dataset, classes, sizes) in _CLIPS.items()
    for size, published in sizes.items()
    for frames, top1 in zip(_FRAMES, published)
}
_inflated_cfgs = {  # weights of images
    f'videomamba_{size}_patch16_224_f{frames}.opengvlab_in1k': _clips(_HUB.format(f'{size[0]}16_in1k_res224'))
    for size in ('tiny', 'small', 'middle')
    for frames in _FRAMES
}
default_cfgs = generate_default_cfgs(
    {
        **_image_cfgs,
        **_clip_cfgs,
        **_inflated_cfgs,
        'videomamba_tiny_causal_patch16_224.untrained': _clips(),
        'test_videomamba.untrained': _clips(input_size=(3, 64, 64)),
        'test_videomamba_causal.untrained': _clips(input_size=(3, 64, 64)),
    }
)


def _create_images(variant: str, pretrained: bool, **kwargs: Any) -> Vim:
    return build_model(
        Vim, variant, pretrained, checkpoint_filter_fn, **{'class_token': 'first', 'merge': 'sum', **kwargs}
    )


def _create_clips(variant: str, pretrained: bool, **kwargs: Any) -> VideoMamba:
    return build_model(VideoMamba, variant, pretrained, checkpoint_filter_fn, **kwargs)


_SIZES: dict[str, tuple[str, str, dict[str, Any]]] = {  # abbreviation, parameters, arguments
    'tiny': ('Ti', '7 M', {'embed_dim': 192, 'depth': 24}),
    'small': ('S', '26 M', {'embed_dim': 384, 'depth': 24}),
    'middle': ('M', '74 M', {'embed_dim': 576, 'depth': 32}),
    'base': ('B', '98 M', {'embed_dim': 768, 'depth': 24}),
}
for _size, (_name, _parameters, _arguments) in _SIZES.items():
    _variant = f'videomamba_{_size}_patch16_224'
    register_variant(
        _create_images, _variant, f'VideoMamba-{_name} for images, {_parameters} parameters.', **_arguments
    )
    for _frames in () if _size == 'base' else _FRAMES:
        _doc = f'VideoMamba-{_name} for clips of {_frames} frames.'
        register_variant(_create_clips, f'{_variant}_f{_frames}', _doc, num_frames=_frames, **_arguments)


@register_model
def videomamba_tiny_causal_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """A causal VideoMamba-Ti for streams of frames; no published weights."""
    args = {'causal': True, 'num_frames': 16, **_SIZES['tiny'][2]}
    return _create_clips('videomamba_tiny_causal_patch16_224', pretrained, **{**args, **kwargs})


_TEST = {'img_size': 64, 'num_frames': 4, 'patch_size': 8, 'embed_dim': 64, 'depth': 4}


@register_model
def test_videomamba(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """A VideoMamba for tests."""
    return _create_clips('test_videomamba', pretrained, **{**_TEST, **kwargs})


@register_model
def test_videomamba_causal(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """A causal VideoMamba for tests."""
    return _create_clips('test_videomamba_causal', pretrained, **{**_TEST, 'causal': True, **kwargs})
