"""VideoMamba: Vim's blocks over clips, frame after frame, there and back; for images a Vim with its class token first.

Paper: VideoMamba: State Space Model for Efficient Video Understanding, arXiv:2403.06977.
Official code and weights: OpenGVLab/VideoMamba (Apache-2.0); this file was written from the paper, the layout of the
weights and the outputs of the official models.

    clip -> patches of frames -> + positions in time and in the frame -> class token first -> n x [ + Mamba ] -> norm
         -> head on the class token

A causal model reads forth only and has neither a class token nor positions in time: it takes frames as they come
(`VideoMamba.step`), and a clip that does not fit in memory a few frames at a time (``chunk_frames``).
"""

from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vimamba.errors import UsageError, bad_argument, check_integers
from vimamba.layers import resize_pos_embed, widen
from vimamba.layers.patch_embed import (
    PatchEmbed,
    TubeletEmbed,
    check_clip,
    check_frames,
    check_images,
    resize_time_embed,
)
from vimamba.mixers.mixer import MixerState as MambaState

from . import vim, vim_checkpoint
from ._builder import build_model, fit_channels, imagenet_cfg, record_input_size
from ._stream import StreamState

__all__ = ['VideoMamba', 'checkpoint_filter_fn', 'forth', 'inflate']


class VideoMamba(vim.Vim):
    """VideoMamba (arXiv:2403.06977) on clips.

    Args:
        img_size: size of a frame in pixels, one integer or (height, width).
        num_frames: frames of a clip.
        tubelet_size: frames of a patch.
        class_token: 'first' or 'none'.
        causal: every token knows those before it alone; the head is on the mean of all tokens. Takes any number of
            frames, and `step`.
        chunk_frames: a causal model runs so many frames at a time and keeps for the gradient what passes from part to
            part alone; 0 runs all at once. The numbers are the same. Feature maps are computed at once.
        options: further arguments of `Vim`; ``dynamic_img_size`` takes any number and size of frames in forward and
            resizes the positions on the fly, in time linear, in a frame bicubic.

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
        device=None,
        dtype=None,
        **options: Any,
    ):
        check_integers(1, tubelet_size=tubelet_size)
        check_frames(num_frames, tubelet_size)
        check_integers(0, chunk_frames=chunk_frames)
        for name in ('feature_pyramid', 'pad_image', 'rope'):
            if options.get(name):
                raise bad_argument(name, 'none of it, which images alone have', repr(options[name]))
        class_token = class_token or ('none' if causal else 'first')
        if class_token not in (('none',) if causal else ('first', 'none')):
            raise bad_argument('class_token', "'none'" if causal else "'first' or 'none'", repr(class_token))
        if chunk_frames % tubelet_size or (chunk_frames and not causal):
            expected = f'a multiple of {tubelet_size}' if causal else '0, or a causal model (causal=True)'
            raise bad_argument('chunk_frames', expected, chunk_frames)
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        self.causal, self.chunk_frames = causal, chunk_frames
        own = {'scan': 'raster'} if causal else {}
        super().__init__(
            img_size,
            num_classes=num_classes,
            class_token=class_token,
            **{'merge': 'sum', **own, **options},
            device=device,
            dtype=dtype,
        )
        if causal and not all(block.mixer.is_causal for block in self.blocks):
            routes = repr(options.get('scan', 'raster')), repr(options.get('merge', 'sum'))
            raise bad_argument('causal', "one route in memory order, scan='raster', merge='sum'", ' and '.join(routes))

    def _create_patch_embed(self, *args: Any, **dd: Any) -> PatchEmbed:
        return TubeletEmbed(self.num_frames, self.tubelet_size, not self.causal, *args, **dd)

    @torch.jit.ignore
    def init_weights(self) -> None:
        """`Vim`'s initial values; positions in time at 0."""
        super().init_weights()
        if self.patch_embed.time_embed is not None:
            nn.init.zeros_(self.patch_embed.time_embed)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {'patch_embed.time_embed'}

    @torch.jit.ignore
    def set_input_size(self, img_size: int | tuple[int, int] | None = None, num_frames: int | None = None) -> None:
        """Changes the size of a frame in pixels, the number of frames, or both: resizes positions, lays routes anew."""
        own = self.patch_embed.grid_size[-2:]
        self.patch_embed.set_input_size(img_size, num_frames)  # type: ignore[call-arg]  # a TubeletEmbed
        grid, rows = self.patch_embed.grid_size[-2:], self.class_rows(0)
        with torch.no_grad():
            resized = resize_pos_embed(self.pos_embed, own, grid, rows, rows)
        self.pos_embed = nn.Parameter(resized, requires_grad=self.pos_embed.requires_grad)
        self.num_frames = self.patch_embed.num_frames
        self.init_non_persistent_buffers()
        record_input_size(self, self.patch_embed.img_size, num_frames=self.num_frames)

    def _embed(self, x: Tensor) -> Tensor:
        """Patches of every frame, positions, class token: (b, in_chans, T, H, W) -> (b, l, embed_dim)."""
        height, width = x.shape[-2], x.shape[-1]
        x = self.patch_embed(x)
        pos_embed = self.pos_embed
        if self.dynamic_img_size:
            pos_embed = self._dynamic_pos_embed(height, width)
        first = self.num_class_tokens
        cells = pos_embed[:, first:].unsqueeze(1)  # (1, 1, n, c)
        x = (widen(x).unflatten(1, (-1, cells.shape[2])) + cells).flatten(1, 2)
        cls_token = self.cls_token
        if cls_token is not None:
            token = (cls_token + pos_embed[:, :first]).expand(x.shape[0], -1, -1)
            x = torch.cat((token.to(x.dtype), x), 1)
        return x

    @torch.jit.ignore
    def _dynamic_pos_embed(self, height: int, width: int) -> Tensor:
        grid, rows = self.patch_embed.dynamic_feat_size((height, width)), self.class_rows(0)
        return resize_pos_embed(self.pos_embed, self.patch_embed.grid_size[-2:], grid, rows, rows)

    def forward(self, x: Tensor) -> Tensor:  # `Vim`'s; tracers by torch.fx keep whole what this file calls, not that
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised tokens of the last block: (b, in_chans, T, H, W) -> (b, l, embed_dim), the class token first."""
        if self.chunk_frames and not torch.jit.is_scripting():
            return self._forward_chunks(x)
        return self._features(x)

    @torch.jit.ignore
    def _forward_chunks(self, x: Tensor) -> Tensor:
        check_images(x, self.in_chans, 1, 3)
        check_clip(x, 0, self.tubelet_size)
        layers: tuple[MambaState | None, ...] = (None,) * len(self.blocks)
        one, tokens = self.pos_embed.new_ones(x.shape[0], 1, 1), []
        drops = (block.drop_path for block in self.blocks)
        kept = [None if isinstance(drop, nn.Identity) else drop(one) for drop in drops]  # the same in all parts
        for chunk in x.split(self.chunk_frames, 2):
            own, layers = checkpoint(self._advance, chunk, layers, kept, use_reentrant=False)
            tokens.append(own)
        return torch.cat(tokens, 1)

    def _advance(
        self, x: Tensor, layers: tuple[MambaState | None, ...], kept: list[Tensor | None]
    ) -> tuple[Tensor, tuple[MambaState, ...]]:
        """The tokens of the next frames, normalised, and what every block carries on; ``kept`` as of `Block.step`."""
        x, after = self._embed(x), []
        for block, state, own in zip(self.blocks, layers, kept, strict=True):
            if self.grad_checkpointing and torch.is_grad_enabled():
                x, state = checkpoint(block.step, x, state, own, use_reentrant=False)
            else:
                x, state = block.step(x, state, own)
            after.append(state)
        return self.norm(x).to(self.pos_embed.dtype), tuple(after)

    @torch.jit.ignore
    def step(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, StreamState]:
        """Scores of a clip as it comes, of a causal model.

        Args:
            x: the next frames (b, in_chans, t, H, W), t a multiple of ``tubelet_size``.
            state: what the frames before returned; None at the start.

        Returns:
            The scores (b, num_classes) of the frames so far, those of `forward` for all of them at once, and the
            state, through which gradients flow (`StreamState.detach`).

        Raises:
            UsageError: the model is not causal, or the state is of other clips or of another model.
        """
        if not self.causal or self.global_pool != 'avg':
            raise UsageError("step: this model needs whole clips; build it with causal=True and global_pool='avg'")
        if not isinstance(state, StreamState | None):
            raise bad_argument('state', 'None or what `step` returned', type(state).__name__)
        layers = (None,) * len(self.blocks) if state is None else state.layers
        if state is not None:
            want, got = (len(self.blocks), x.shape[0], self.embed_dim), (len(layers), *state.total.shape)
            if want != got:
                raise bad_argument('state', f'one of (blocks, clips, embed_dim) {want}', got)
        tokens, layers = self._advance(x, layers, [None] * len(self.blocks))
        total, count = widen(tokens).sum(1), tokens.shape[1]
        if state is not None:
            total, count = total + state.total, count + state.tokens
        pooled = self.head_drop((total / count).to(tokens.dtype))
        return self.head(pooled), StreamState(layers, total, count)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: vim.Vim) -> dict[str, Tensor]:
    """An official file of images or of clips, or a state dict of ours -> the state dict of ``model``.

    What the head of another training stage left is not taken. A file of images starts a model for clips by `inflate`,
    one of whole clips a causal model by `forth`, and positions of other times and sizes are resized, in time linear, in
    a frame bicubic.
    """
    weights = vim_checkpoint.rename(state_dict, model)
    if getattr(model, 'causal', False) and 'cls_token' in weights:
        weights = forth(weights)
    weights = vim_checkpoint.resize_positions(weights, state_dict, model)
    masked = any(key.startswith('clip_decoder.') for key in weights)  # of masked pretraining, which knows no classes
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


def forth(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model of whole clips for a causal one to begin with: its route forth, without a class token."""
    back = '.projections.1.', '.routes.1.'
    own = {key: value for key, value in weights.items() if not any(part in key for part in back)}
    del own['cls_token']
    return {**own, 'pos_embed': own['pos_embed'][:, 1:]}


def inflate(weights: dict[str, Tensor], model: VideoMamba) -> dict[str, Tensor]:
    """The weights of an image model for a model of clips, as VideoMamba's authors begin.

    A patch reads the frame in its middle as the image's did and the others not at all, times differ by nothing, and
    the head starts anew.
    """
    own = model.state_dict()
    kernel = torch.zeros(own['patch_embed.proj.weight'].shape)
    kernel[:, :, model.tubelet_size // 2] = weights['patch_embed.proj.weight']
    fresh = {key: own[key] for key in own if key.startswith(('head.', 'patch_embed.time_embed'))}
    inflated = {key: value for key, value in weights.items() if not key.startswith('head.')}
    return {**inflated, **fresh, 'patch_embed.proj.weight': kernel}


def _cfg(url: str = '', **kwargs: Any) -> dict[str, Any]:
    own = {
        'pool_size': None,
        'fixed_input_size': True,
        'first_conv': 'patch_embed.proj',
        'classifier': 'head',
        'license': 'apache-2.0',
        'origin_url': 'https://github.com/OpenGVLab/VideoMamba',
        'paper_ids': 'arXiv:2403.06977',
    }
    return imagenet_cfg(url, **{**own, **kwargs})


def _clips(url: str = '', published: str = '', **kwargs: Any) -> dict[str, Any]:
    """The input size is that of a frame: timm knows no other; frames are the model's ``num_frames``."""
    own = {'num_classes': 400, 'crop_pct': 1.0, 'interpolation': 'bilinear'}
    return _cfg(url, notes=(f'published {published}',) if published else (), **{**own, **kwargs})


_HUB = 'https://huggingface.co/OpenGVLab/VideoMamba/resolve/main/videomamba_{}.pth'
_IMAGES = {'tiny': 76.9, 'small': 81.2, 'middle': 82.8, 'base': 82.7}
_KINETICS = {  # published top-1 at 8, 16, 32 and 64 frames
    'tiny': (76.9, 78.1, 78.8, 79.6),
    'small': (79.3, 80.8, 81.5, 81.8),
    'middle': (80.6, 81.9, 82.4, 82.8),
}
_SOMETHING = {'tiny': (65.1, 66.0), 'small': (66.6, 67.7), 'middle': (67.3, 68.3)}  # at 8 and 16
_FRAMES = (8, 16, 32, 64)

_image_cfgs = {
    f'videomamba_{size}_patch16_224.opengvlab_in1k': _cfg(_HUB.format(f'{size[0]}16_in1k_res224'), top1=top1)
    for size, top1 in _IMAGES.items()
}
_kinetics_cfgs = {
    f'videomamba_{size}_patch16_224_f{frames}.opengvlab_k400': _clips(
        _HUB.format(f'{size[0]}16_k400_f{frames}_res224'), f'Kinetics-400 top-1 {top1}'
    )
    for size, published in _KINETICS.items()
    for frames, top1 in zip(_FRAMES, published)
}
_something_cfgs = {
    f'videomamba_{size}_patch16_224_f{frames}.opengvlab_ssv2': _clips(
        _HUB.format(f'{size[0]}16_ssv2_f{frames}_res224'), f'Something-Something v2 top-1 {top1}', num_classes=174
    )
    for size, published in _SOMETHING.items()
    for frames, top1 in zip(_FRAMES, published)
}
_inflated_cfgs = {  # of images, to begin with
    f'videomamba_{size}_patch16_224_f{frames}.opengvlab_in1k': _clips(_HUB.format(f'{size[0]}16_in1k_res224'))
    for size in _KINETICS
    for frames in _FRAMES
}
default_cfgs = generate_default_cfgs(
    {
        **_image_cfgs,
        **_kinetics_cfgs,  # before the others: what a name without a tag means
        **_something_cfgs,
        **_inflated_cfgs,
        'videomamba_tiny_causal_patch16_224.untrained': _clips(),
        'test_videomamba.untrained': _clips(input_size=(3, 64, 64)),
        'test_videomamba_causal.untrained': _clips(input_size=(3, 64, 64)),
    }
)

_SIZES = {
    'tiny': {'embed_dim': 192, 'depth': 24},
    'small': {'embed_dim': 384, 'depth': 24},
    'middle': {'embed_dim': 576, 'depth': 32},
    'base': {'embed_dim': 768, 'depth': 24},
}


def _create_images(variant: str, pretrained: bool, **kwargs: Any) -> vim.Vim:
    own = {'class_token': 'first', 'merge': 'sum'}
    return build_model(vim.Vim, variant, pretrained, checkpoint_filter_fn, **{**own, **kwargs})


def _create_clips(variant: str, pretrained: bool, **kwargs: Any) -> VideoMamba:
    return build_model(VideoMamba, variant, pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def videomamba_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> vim.Vim:
    """VideoMamba-Ti for images, 7 M parameters."""
    return _create_images('videomamba_tiny_patch16_224', pretrained, **{**_SIZES['tiny'], **kwargs})


@register_model
def videomamba_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> vim.Vim:
    """VideoMamba-S for images, 26 M parameters."""
    return _create_images('videomamba_small_patch16_224', pretrained, **{**_SIZES['small'], **kwargs})


@register_model
def videomamba_middle_patch16_224(pretrained: bool = False, **kwargs: Any) -> vim.Vim:
    """VideoMamba-M for images, 74 M parameters."""
    return _create_images('videomamba_middle_patch16_224', pretrained, **{**_SIZES['middle'], **kwargs})


@register_model
def videomamba_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> vim.Vim:
    """VideoMamba-B for images, 98 M parameters."""
    return _create_images('videomamba_base_patch16_224', pretrained, **{**_SIZES['base'], **kwargs})


@register_model
def videomamba_tiny_patch16_224_f8(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-Ti for clips of 8 frames."""
    return _create_clips('videomamba_tiny_patch16_224_f8', pretrained, **{'num_frames': 8, **_SIZES['tiny'], **kwargs})


@register_model
def videomamba_tiny_patch16_224_f16(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-Ti for clips of 16 frames."""
    return _create_clips(
        'videomamba_tiny_patch16_224_f16', pretrained, **{'num_frames': 16, **_SIZES['tiny'], **kwargs}
    )


@register_model
def videomamba_tiny_patch16_224_f32(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-Ti for clips of 32 frames."""
    return _create_clips(
        'videomamba_tiny_patch16_224_f32', pretrained, **{'num_frames': 32, **_SIZES['tiny'], **kwargs}
    )


@register_model
def videomamba_tiny_patch16_224_f64(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-Ti for clips of 64 frames."""
    return _create_clips(
        'videomamba_tiny_patch16_224_f64', pretrained, **{'num_frames': 64, **_SIZES['tiny'], **kwargs}
    )


@register_model
def videomamba_small_patch16_224_f8(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-S for clips of 8 frames."""
    return _create_clips(
        'videomamba_small_patch16_224_f8', pretrained, **{'num_frames': 8, **_SIZES['small'], **kwargs}
    )


@register_model
def videomamba_small_patch16_224_f16(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-S for clips of 16 frames."""
    return _create_clips(
        'videomamba_small_patch16_224_f16', pretrained, **{'num_frames': 16, **_SIZES['small'], **kwargs}
    )


@register_model
def videomamba_small_patch16_224_f32(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-S for clips of 32 frames."""
    return _create_clips(
        'videomamba_small_patch16_224_f32', pretrained, **{'num_frames': 32, **_SIZES['small'], **kwargs}
    )


@register_model
def videomamba_small_patch16_224_f64(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-S for clips of 64 frames."""
    return _create_clips(
        'videomamba_small_patch16_224_f64', pretrained, **{'num_frames': 64, **_SIZES['small'], **kwargs}
    )


@register_model
def videomamba_middle_patch16_224_f8(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-M for clips of 8 frames."""
    return _create_clips(
        'videomamba_middle_patch16_224_f8', pretrained, **{'num_frames': 8, **_SIZES['middle'], **kwargs}
    )


@register_model
def videomamba_middle_patch16_224_f16(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-M for clips of 16 frames."""
    return _create_clips(
        'videomamba_middle_patch16_224_f16', pretrained, **{'num_frames': 16, **_SIZES['middle'], **kwargs}
    )


@register_model
def videomamba_middle_patch16_224_f32(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-M for clips of 32 frames."""
    return _create_clips(
        'videomamba_middle_patch16_224_f32', pretrained, **{'num_frames': 32, **_SIZES['middle'], **kwargs}
    )


@register_model
def videomamba_middle_patch16_224_f64(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """VideoMamba-M for clips of 64 frames."""
    return _create_clips(
        'videomamba_middle_patch16_224_f64', pretrained, **{'num_frames': 64, **_SIZES['middle'], **kwargs}
    )


@register_model
def videomamba_tiny_causal_patch16_224(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """A VideoMamba-Ti that reads forth only and takes frames as they come; no published weights."""
    args = {'causal': True, 'num_frames': 16, **_SIZES['tiny']}
    return _create_clips('videomamba_tiny_causal_patch16_224', pretrained, **{**args, **kwargs})


@register_model
def test_videomamba(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """A VideoMamba for tests."""
    args = {'img_size': 64, 'num_frames': 4, 'patch_size': 8, 'embed_dim': 64, 'depth': 4}
    return _create_clips('test_videomamba', pretrained, **{**args, **kwargs})


@register_model
def test_videomamba_causal(pretrained: bool = False, **kwargs: Any) -> VideoMamba:
    """A causal VideoMamba for tests."""
    args = {'img_size': 64, 'num_frames': 4, 'patch_size': 8, 'embed_dim': 64, 'depth': 4, 'causal': True}
    return _create_clips('test_videomamba_causal', pretrained, **{**args, **kwargs})
