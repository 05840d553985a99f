"""Mamba-ND over images and clips: a stack of one-way Mamba-1 blocks that alternate axes and directions.

Paper: Mamba-ND: Selective State Space Modeling for Multi-Dimensional Data, arXiv:2402.05892.
Official code and weights: jacklishufan/Mamba-ND, which states no licence; this file was written from the paper, the
layout of the weights and the outputs of the official model.

    image -> patches (1/8) -> positions -> 10 x SkipBlock -> merging (1/16) -> 14 x SkipBlock -> norm -> mean -> norm
          -> head
    clip -> patches of a frame (1/16) -> positions -> 36 x SkipBlock -> mean over time, height and width -> norm -> head

Official code assumes square frames and clips of one length and size. Here columns are columns on any grid, and
positions are resized to other grids, bicubic in a frame and linear in time.
"""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath, calculate_drop_path_rates, get_device_dtype
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from vimamba.checkpoint import model_weights
from vimamba.errors import UsageError, bad_argument, check_integers
from vimamba.layers.channels_last import Conv2d, Conv3d, ToMap, pad_map
from vimamba.layers.patch_embed import check_clip, check_frames, check_images, image_size
from vimamba.layers.pos_embed import PosEmbed, resize_table, unfold_image
from vimamba.mixers import MapScan, Mixer, create_mixer, mixer_per_block
from vimamba.scans import schedule
from vimamba.scans.schedules import Scan, Schedule

from ._backbone import MapBackbone
from ._builder import build_model, fit_channels, imagenet_cfg, register_variant, rename

__all__ = ['MambaND', 'checkpoint_filter_fn', 'inflate']

torch.fx.wrap('check_images')  # they branch on shapes, which a symbolic trace cannot
torch.fx.wrap('check_clip')


class SkipBlock(nn.Module):
    """n + drop_path(mixer(n)) with n = norm(x): the norm also applies to the stream. Shape: (b, *grid, dim), kept."""

    def __init__(self, norm: nn.Module, mixer: nn.Module, drop_path: float = 0.0):
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.drop_path(self.mixer(x))


class Merging(nn.Module):
    """Merges 2 x 2 tokens of a frame: (..., h, w, dim) -> (..., ceil(h / 2), ceil(w / 2), dim)."""

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, device=device, dtype=dtype)
        self.reduction = nn.Linear(4 * dim, dim, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_map(x, 2)
        x = x.unflatten(-2, (-1, 2)).unflatten(-4, (-1, 2))  # (..., h / 2, 2, w / 2, 2, c)
        return self.reduction(self.norm(x.movedim((-4, -2), (-2, -1)).flatten(-3)))


class MambaND(MapBackbone):
    """Mamba-ND (arXiv:2402.05892) on images or clips of any size.

    Args:
        img_size: pixels of an image or a frame, one integer or (height, width), of the position table, which is resized
            on the fly for others.
        in_chans: channels of the input.
        patch_size: patch size in pixels.
        embed_dim: width of the tokens.
        depth: number of blocks.
        merge_at: the block in front of which 2 x 2 tokens are merged; None for no merging.
        scan: a scan order, a schedule, or an order per block; see `vimamba.scans.schedule`. None is 'axes' for images,
            'axes_3d' for clips.
        d_state: states per channel.
        mixer: a registered mixer, or a list with one per block; see `vimamba.mixers.list_mixers`.
        pos_drop_rate: dropout after the positions.
        drop_path_rate: stochastic depth of the last block, linear in depth from 0.
        num_frames: frames of a clip of the position table, which is resized on the fly for others; None for images.
        tubelet_size: frames of a patch.
        final_norm: add a norm after the last block.
        head_norm: add a norm of the pooled features.
        options: further arguments of `MapBackbone`.

    | initial values | |
    |---|---|
    | merging, positions, head | truncated normal, std 0.02; bias 0 |
    | patches | PyTorch's: uniform, bound fan_in^-1/2 |
    | mixers | their own |
    | norms | 1; bias 0 |

    Shape: (b, in_chans, H, W), or (b, in_chans, T, H, W) with ``num_frames`` -> (b, num_classes). T is any multiple of
    ``tubelet_size``.

    >>> import torch
    >>> model = MambaND(embed_dim=16, depth=2, merge_at=1, num_classes=10)
    >>> model(torch.zeros(2, 3, 48, 72)).shape
    torch.Size([2, 10])
    >>> model = MambaND(num_frames=4, embed_dim=16, depth=6, merge_at=None, num_classes=10)
    >>> model(torch.zeros(2, 3, 5, 48, 72)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        patch_size: int = 8,
        embed_dim: int = 384,
        depth: int = 24,
        merge_at: int | None = 10,
        scan: Schedule | None = None,
        d_state: int = 16,
        mixer: str | Sequence[str] = 'mamba1',
        pos_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_frames: int | None = None,
        tubelet_size: int = 1,
        final_norm: bool = True,
        head_norm: bool = True,
        device=None,
        dtype=None,
        **options: Any,
    ):
        check_integers(1, in_chans=in_chans, patch_size=patch_size, embed_dim=embed_dim, depth=depth, d_state=d_state)
        check_integers(1, tubelet_size=tubelet_size)
        if num_frames is not None:
            check_frames(num_frames, tubelet_size)
        if merge_at is not None and not 0 < merge_at < depth:
            raise bad_argument('merge_at', f'a block from 1 to {depth - 1}, or None', merge_at)
        dd = {'device': device, 'dtype': dtype}
        grid = _grid(image_size(img_size), patch_size)
        if num_frames is None:
            scan, eps = scan or 'axes', 1e-6
            patches = [ToMap(), Conv2d(in_chans, embed_dim, patch_size, patch_size, **dd)]
        else:
            scan, eps, grid = scan or 'axes_3d', 1e-5, (num_frames // tubelet_size, *grid)
            sizes = (tubelet_size, patch_size, patch_size)
            patches = [ToMap(), Conv3d(in_chans, embed_dim, sizes, sizes, **dd)]

        def layer(i: int, scan: Scan, drop_path: float) -> nn.Module:
            routes = MapScan(scan, len(grid))
            inner = create_mixer(mixers[i], embed_dim, routes, d_state=d_state, merge='sum', **dd)
            block = SkipBlock(nn.LayerNorm(embed_dim, **dd), inner, drop_path)
            return nn.Sequential(Merging(embed_dim, **dd), block) if i == merge_at else block

        mixers, rates = mixer_per_block(mixer, depth), calculate_drop_path_rates(drop_path_rate, depth)
        super().__init__(
            stem=nn.Sequential(*patches, PosEmbed(grid, embed_dim, **dd), nn.Dropout(pos_drop_rate)),
            layers=[layer(i, *values) for i, values in enumerate(zip(schedule(scan, depth), rates))],
            widths=[embed_dim] * depth,
            reductions=[patch_size * (1 if merge_at is None or i < merge_at else 2) for i in range(depth)],
            norm=nn.LayerNorm(embed_dim, eps=1e-6, **dd) if final_norm else nn.Identity(),
            smallest=patch_size,
            sides=len(grid),
            img_size=img_size,
            in_chans=in_chans,
            **options,
            **dd,
        )
        self.patch_size, self.merge_at = patch_size, merge_at
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        if head_norm:  # of the pooled features, which are the classifier's input
            self.head.drop = nn.Sequential(nn.LayerNorm(self.head.num_features, eps=eps, **dd), self.head.drop)
        self.init_weights()

    def embed(self, x: Tensor) -> Tensor:
        """Images or clips to a map: (b, in_chans, [T,] H, W) -> (b, [t,] h, w, embed_dim)."""
        check_images(x, self.in_chans, self.patch_size, self.sides)
        if self.num_frames is not None:
            check_clip(x, 0, self.tubelet_size)
        return self.stem(x)

    @property
    def pos_embed(self) -> PosEmbed:
        return self.stem[2]

    def init_weights(self) -> None:
        super().init_weights()
        for module in self.modules():
            if isinstance(module, Mixer):
                module.reset_parameters()  # dt_proj is not initialised like other linear layers

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, num_frames: int | None = None, **arguments: Any
    ) -> None:
        """Changes the size in pixels and the frames of a clip of the position table, which is resized."""
        if num_frames is not None:
            if self.num_frames is None:
                raise bad_argument('num_frames', 'None in a model of images', num_frames)
            check_frames(num_frames, self.tubelet_size)
            arguments['num_frames'] = num_frames
        super().set_input_size(self.img_size if img_size is None else img_size, **arguments)
        self.num_frames = num_frames or self.num_frames
        times = () if self.num_frames is None else (self.num_frames // self.tubelet_size,)
        self.pos_embed.set_grid((*times, *_grid(self.img_size, self.patch_size)))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head, and the norm of the pooled features if their width changes."""
        super().reset_classifier(num_classes, global_pool)
        norm, width = next(iter(self.head.drop.children()), None), self.head.num_features
        if norm is not None and norm.normalized_shape != (width,):
            dd = get_device_dtype(self)
            self.head.drop[0] = nn.LayerNorm(width, eps=norm.eps, **dd).train(self.training)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        chosen = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if self.num_classes == 0:
            self.head.drop = nn.Identity()
        return chosen


def _grid(img_size: tuple[int, int], patch_size: int) -> tuple[int, ...]:
    return tuple(max(1, side // patch_size) for side in img_size)


_RENAMED = (  # official -> ours, in this order
    (r'^pos_embed$', 'stem.2.table'),
    (r'^patch_embed\.projection\.', 'stem.1.'),
    (r'\.mixer\.A_log$', '.mixer.routes.0.A_log'),
    (r'\.mixer\.(D$|conv1d\.|x_proj\.|dt_proj\.)', r'.mixer.projections.0.\1'),
    (r'^ln1\.', 'norm.'),
    (r'^(ln2|head\.0)\.', 'head.drop.0.'),
    (r'^(head\.1|cls_head\.fc_cls)\.', 'head.fc.'),
)
_RELEASED = (16, 14, 14)  # grid (times, rows, columns) of every released file of clips


def checkpoint_filter_fn(state_dict: dict[str, Any], model: Any) -> dict[str, Tensor]:
    """Converts an official file, or a state dict of ours, to the state dict of ``model``.

    Files of images initialise models of clips by `inflate`. Positions of other grids are resized.

    Raises:
        UsageError: the file has no norm in front of the classifier (the authors' fine-tuning), but the model has one.
    """
    weights = _weights(state_dict)
    tuned = any('cls_head.' in key for key in model_weights(state_dict, 'the checkpoint'))
    if tuned and 'head.drop.0.weight' in model.state_dict():
        raise UsageError('the file has no norm in front of its classifier: build the model with head_norm=False')
    if model.merge_at is not None and model.num_frames is None:
        block = (rf'^layers\.{model.merge_at}\.(?=norm|mixer)', f'layers.{model.merge_at}.1.')
        weights = rename(weights, (block, (r'^layers\.\d+\.down_sample_layer\.', f'layers.{model.merge_at}.0.')))
    patches, table = weights.get('stem.1.weight'), weights.get('stem.2.table')
    if model.num_frames is not None and patches is not None:
        if patches.ndim == 4:
            weights = inflate(weights, model)
            patches, table = weights['stem.1.weight'], weights.get('stem.2.table')
        elif table is not None and table.ndim == 3:
            table = _unfold(table, tuple(model.pos_embed.grid))
        weights['stem.1.weight'] = fit_channels(patches, model.in_chans)
    if table is not None:
        weights['stem.2.table'] = model.pos_embed.fit(table)
    return weights


def inflate(state_dict: dict[str, Any], model: Any) -> dict[str, Tensor]:
    """Initialises a model of clips from weights of images, as Mamba-ND's authors do (arXiv:2402.05892).

    Block j along rows or columns becomes block (j // 4) * 6 + j % 4. The two blocks along time of every six, and the
    head, keep their initial values. A patch reads the mean of its frames; positions are the same at all times.

    Args:
        state_dict: weights of the image model, official or ours, with or without a wrapper key.
        model: model of clips, built with ``num_frames``.

    Returns:
        A state dict of ``model``.

    Raises:
        UsageError: ``model`` is one of images, or has too few blocks for these weights.
    """
    weights = _weights(state_dict)
    if model.num_frames is None:
        raise UsageError('inflate: expected a model of clips, got one of images; build it with num_frames=')
    blocks = [int(match[1]) for key in weights if (match := re.match(r'layers\.(\d+)\.', key))]
    filled = [block // 4 * 6 + block % 4 for block in range(max(blocks, default=-1) + 1)]  # blocks of clips
    if filled and filled[-1] >= len(model.layers):
        depth = f'{len(filled)} blocks of images fill {filled[-1] + 1} of clips, this model has {len(model.layers)}'
        raise UsageError(f'inflate: {depth}; build it with depth={len(filled) // 4 * 6 + len(filled) % 4}')

    initial = model.state_dict()
    prefixes = [f'layers.{block}.{"1." if block == model.merge_at else ""}' for block in filled]
    inflated = {
        key: value
        for key, value in initial.items()
        if key.startswith(('head.', 'layers.')) and not key.startswith(tuple(prefixes))
    }
    for key, value in weights.items():
        if match := re.fullmatch(r'layers\.(\d+)\.(?:1\.)?((?:norm|mixer)\..+)', key):
            inflated[prefixes[int(match[1])] + match[2]] = value
        elif not re.match(r'head\.|layers\.\d+\.(0|down_sample_layer)\.', key) and (
            key[:5] != 'norm.' or key in initial
        ):
            inflated[key] = value

    patches, table = inflated.get('stem.1.weight'), inflated.get('stem.2.table')
    frames: int = model.tubelet_size
    times, *frame = model.pos_embed.grid
    if patches is not None and patches.ndim == 4:
        inflated['stem.1.weight'] = patches.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
    if table is not None and (table := unfold_image(table, tuple(frame))).ndim == 4:
        table = resize_table(table, frame)
        inflated['stem.2.table'] = table.unsqueeze(1).expand(-1, times, -1, -1, -1).clone()
    return inflated


def _weights(state_dict: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of a checkpoint, official or ours, under our names but for the merging."""
    weights = model_weights(state_dict, 'the checkpoint')
    return rename(weights, ((r'^backbone\.', ''), *_RENAMED))


def _unfold(table: Tensor, model_grid: tuple[int, int, int]) -> Tensor:
    """Restores the grid of an official table of clips: (1, t h w, dim) -> (1, t, h, w, dim).

    Tries the grid of the released files, that of the model, frames of 14 x 14 (224 pixels), its times or its frames.
    """
    cells, (times, height, width) = table.shape[1], model_grid
    side = math.isqrt(cells // times)
    frames = (cells // 196, 14, 14), (times, side, side), (cells // (height * width), height, width)
    grid = next((guess for guess in (_RELEASED, model_grid, *frames) if math.prod(guess) == cells), None)
    return table if grid is None else table.unflatten(1, grid)


_cfg = partial(
    imagenet_cfg,
    pool_size=(14, 14),
    license='unknown',
    origin_url='https://github.com/jacklishufan/Mamba-ND',
    paper_ids='arXiv:2402.05892',
)
_clips = partial(_cfg, pool_size=None, num_classes=400, crop_pct=1.0, interpolation='bilinear')  # (3, H, W) of a frame

_HUB = 'https://huggingface.co/jacklishufan/Mamba-ND/resolve/main/{}.pth'

default_cfgs = generate_default_cfgs(
    {
        'mamba_nd_2d_small.jacklishufan_in1k': _cfg(_HUB.format('in1k/mamba2d_s'), top1=81.7),
        'mamba_nd_2d_base.jacklishufan_in1k': _cfg(_HUB.format('in1k/mamba2d_b'), top1=83.0),
        'test_mamba_nd_2d.untrained': _cfg(input_size=(3, 64, 64), pool_size=(4, 4), license='apache-2.0'),
        # weights of images, with patches of 16
        'mamba_nd_3d_small.jacklishufan_in1k': _clips(url=_HUB.format('video/mamba_2d_s_16_pretrained')),
        # published in the folder k400 of the same repository, file name unknown; * marks the default of a bare name
        'mamba_nd_3d_small.jacklishufan_k400*': _clips(notes=('published Kinetics-400 top-1 81.9',)),
        'test_mamba_nd_3d.untrained': _clips(input_size=(3, 64, 64), license='apache-2.0'),
    }
)


_register = partial(register_variant, __name__, partial(build_model, MambaND, filter_fn=checkpoint_filter_fn))
_2d_test = {'img_size': 64, 'embed_dim': 32, 'depth': 4, 'merge_at': 2, 'd_state': 4}
_register('mamba_nd_2d_small', 'Mamba2D-S, patches of 8, 25 M parameters.')
_register('mamba_nd_2d_base', 'Mamba2D-B, patches of 8, 94 M parameters.', embed_dim=768)
_register('test_mamba_nd_2d', 'Mamba-ND for tests and small images.', **_2d_test)
_3d = {'num_frames': 16, 'patch_size': 16, 'depth': 36, 'merge_at': None, 'final_norm': False}
_3d_test = {**_2d_test, 'num_frames': 4, 'tubelet_size': 2, 'depth': 6, 'merge_at': None, 'final_norm': False}
_register('mamba_nd_3d_small', 'Mamba3D-S for clips of 16 frames, patches of 16, 36 M parameters.', **_3d)
_register('test_mamba_nd_3d', 'Mamba-ND for tests and small clips.', **_3d_test)
