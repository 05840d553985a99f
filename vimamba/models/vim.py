"""Vision Mamba (Vim): an isotropic stack of bidirectional Mamba-1 blocks with the class token in the middle.

Paper: Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model, arXiv:2401.09417.
Official code and weights: hustvl/Vim, Apache-2.0.

    image -> patches -> [ ... class token ... ] + positions -> depth x Block(RMSNorm, Mamba1 on the routes) -> RMSNorm
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from timm.layers import calculate_drop_path_rates, get_device_dtype, lecun_normal_, to_2tuple, trunc_normal_
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from vimamba.checkpoint import FORMAT
from vimamba.errors import UsageError, bad_argument, check_integers
from vimamba.layers import Block, LayerNorm, PatchEmbed, RMSNorm, resize_pos_embed, widen
from vimamba.layers.class_token import CLASS_TOKENS, class_rows, insert_class, split_class
from vimamba.layers.feature_pyramid import FlatPyramid
from vimamba.layers.rope import RotaryPositions
from vimamba.mixers.mixer import create_mixer, mixer_per_block
from vimamba.scans import ScanOrder, create_order, schedule
from vimamba.scans.schedules import Scan, Schedule

from ._backbone import Backbone
from ._builder import build_model, record_input_size, register_variant, rename, sequence_cfg, unwrap

__all__ = ['Vim', 'checkpoint_filter_fn', 'rename_weights', 'resize_positions']

_NORMS = {'rms': RMSNorm, 'layer': LayerNorm}
torch.fx.wrap('widen')  # branches on a dtype, which a symbolic trace cannot


class Vim(Backbone):
    """Vision Mamba (arXiv:2401.09417).

    Args:
        img_size: image size in pixels, one integer or (height, width).
        patch_size: patch size in pixels.
        stride: stride of the patches in pixels; ``patch_size`` if None.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        global_pool: 'token' (mean of the class tokens), 'avg' or 'max' over the patches, or '' for no pooling. None is
            'token' if there is a class token, else 'avg'.
        embed_dim: width of the tokens (d_model).
        depth: number of blocks.
        d_state: states per channel.
        mixer: a registered mixer, or a list with one per block; see `vimamba.mixers.list_mixers`.
        scan: a scan order, a schedule, or an order per block; see `vimamba.scans.schedule`.
        share_routes: share the convolution and the projections among the routes (Vim's "bimamba v1").
        merge: 'mean' or 'sum' of the routes, or 'attention', the sum after channel attention per route (LocalVim).
        class_token: 'middle' (at row M // 2 of the M patches), 'first', 'both' (first and last) or 'none'.
        dynamic_img_size: accept any image size in forward and resize the positions on the fly; for scan orders that
            follow the memory (raster, bidirectional).
        layer_scale: initial value of LayerScale; None for no LayerScale.
        rope: rotate the stream by its position before every block; without class tokens. True is LocalVim's (resized
            tables of 14 x 14 tokens), 'between' Vim's for detection (interpolated positions).
        norm: 'rms', or 'layer' as in LocalVim's backbones for detection and segmentation.
        feature_norm: feature maps are the branches of the blocks, each behind a LayerNorm (LocalVim).
        feature_pyramid: four blocks whose branches become feature maps of strides 4, 8, 16 and 32 pixels (Vim's for
            segmentation).
        pad_image: pad images with zeros to whole patches (LocalVim).
        drop_rate: dropout before the head.
        drop_path_rate: stochastic depth of the last block, linear in depth from 0.
        embed_layer: class of the patch embedding.

    Shape: (b, in_chans, H, W) -> (b, num_classes).

    >>> model = Vim(img_size=(32, 48), patch_size=8, embed_dim=32, depth=2, num_classes=10)
    >>> model(torch.zeros(1, 3, 32, 48)).shape
    torch.Size([1, 10])
    """

    layers_name = 'blocks'
    pools: ClassVar = ('token', 'avg', 'max', '')
    map_formats: ClassVar = ('NCHW', 'NLC')

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        mixer: str | Sequence[str] = 'mamba1',
        scan: Schedule = 'bidirectional',
        share_routes: bool = False,
        merge: str = 'mean',
        class_token: str = 'middle',
        dynamic_img_size: bool = False,
        layer_scale: float | None = None,
        rope: bool | str = False,
        norm: str = 'rms',
        feature_norm: bool = False,
        feature_pyramid: tuple[int, ...] = (),
        pad_image: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        embed_layer: Callable[..., PatchEmbed] = PatchEmbed,
        device=None,
        dtype=None,
    ):
        if class_token not in CLASS_TOKENS:
            raise bad_argument('class_token', ', '.join(map(repr, CLASS_TOKENS)), repr(class_token))
        super().__init__(in_chans, num_classes)
        check_integers(1, depth=depth, d_state=d_state)
        if rope and (class_token != 'none' or rope not in (True, 'between')):
            raise bad_argument('rope', "True or 'between' with class_token='none'", f'{rope!r} with {class_token!r}')
        if norm not in _NORMS:
            raise bad_argument('norm', "'rms' or 'layer'", repr(norm))
        if feature_norm and feature_pyramid:
            raise bad_argument('feature_norm', 'False with a feature_pyramid', True)
        if not all(0 <= block < depth for block in feature_pyramid):
            raise bad_argument('feature_pyramid', f'blocks of {depth}', repr(feature_pyramid))
        dd = {'device': device, 'dtype': dtype}
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.scans = schedule(scan, depth)
        self.class_token, self.num_class_tokens = class_token, (tokens := CLASS_TOKENS[class_token])
        self.dynamic_img_size = dynamic_img_size
        self._set_pool(('token' if tokens else 'avg') if global_pool is None else global_pool)

        stride = patch_size if stride is None else stride
        self.patch_embed = embed_layer(
            img_size, patch_size, stride, in_chans, embed_dim, not dynamic_img_size, pad_image, **dd
        )
        cls_token = nn.Parameter(torch.empty(1, tokens, embed_dim, **dd)) if tokens else None
        self.register_parameter('cls_token', cls_token)
        grid = self.patch_embed.grid_size
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(grid[-2:]) + tokens, embed_dim, **dd))
        self.rope = RotaryPositions(embed_dim, grid, between=rope == 'between', device=device) if rope else None
        mixers = mixer_per_block(mixer, depth)
        options = {'d_state': d_state, 'merge': merge, **({'share_routes': True} if share_routes else {})}
        self.blocks = nn.Sequential(
            *(
                Block(
                    _NORMS[norm](embed_dim, **dd),
                    create_mixer(name, embed_dim, self._order(scan), **options, **dd),
                    embed_dim,
                    before=self.rope,
                    drop_path=rate,
                    layer_scale=layer_scale,
                    **dd,
                )
                for name, scan, rate in zip(mixers, self.scans, calculate_drop_path_rates(drop_path_rate, depth))
            )
        )
        norms = (LayerNorm(embed_dim, **dd) for _ in range(depth))
        self.feature_norms = nn.ModuleList(norms) if feature_norm else None
        levels = tuple(feature_pyramid)
        self.feature_pyramid = FlatPyramid(embed_dim, stride, levels, **dd) if levels else None
        strides = [stride] * depth if self.feature_pyramid is None else self.feature_pyramid.strides(depth)
        self.feature_info = [
            {'module': f'blocks.{i}', 'num_chs': embed_dim, 'reduction': stride} for i, stride in enumerate(strides)
        ]
        self.norm = _NORMS[norm](embed_dim, **dd)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes, **dd) if num_classes else nn.Identity()
        if dynamic_img_size and (rope or not all(block.mixer.any_length for block in self.blocks)):
            raise UsageError(
                f'dynamic_img_size: scan {scan!r}{" with rope" * bool(rope)} has a fixed size; use raster or '
                'bidirectional, or call set_input_size for each size'
            )
        if self.pos_embed.device.type != 'meta':
            self.init_weights()

    def init_weights(self) -> None:
        """Initialises every parameter.

        | parameter | value |
        |---|---|
        | patch_embed.proj | LeCun normal, bias 0 |
        | cls_token, pos_embed, head.weight | truncated normal, std 0.02; head.bias 0 |
        | in_proj, x_proj, conv1d | PyTorch's: uniform, bound fan_in^-1/2 |
        | out_proj | the same divided by sqrt(depth) |
        | A_log | log(1 ... d_state) on every channel; D = 1 |
        | dt_proj | weight uniform, bound dt_rank^-1/2; softplus(bias) log-uniform in [0.001, 0.1] |
        | of Mamba-2 | dt_bias likewise; -A uniform in [1, 16] |
        | norms, LayerScale | 1; ``layer_scale`` |

        Official code leaves the reversed route's dt_proj.bias at 0 (softplus: 0.69); here both routes start alike.
        """
        self.init_non_persistent_buffers()
        lecun_normal_(self.patch_embed.proj.weight)
        nn.init.zeros_(self.patch_embed.proj.bias)
        trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=0.02)
        for block in self.blocks:
            block.norm.reset_parameters()
            block.mixer.reset_parameters()
            with torch.no_grad():
                block.mixer.out_proj.weight /= math.sqrt(len(self.blocks))
            if not isinstance(block.ls, nn.Identity):
                block.ls.reset_parameters()
        for module in (self.norm, self.feature_pyramid, *(self.feature_norms or ())):
            if isinstance(module, (LayerNorm, RMSNorm, FlatPyramid)):
                module.reset_parameters()
        if isinstance(self.head, nn.Linear):
            self._init_classifier(self.head)

    @staticmethod
    def _init_classifier(linear: nn.Linear) -> None:
        trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)

    def _set_pool(self, global_pool: str) -> None:
        if global_pool == 'token' and self.class_token == 'none':
            raise bad_argument('global_pool', "'avg', 'max' or '' without a class token", "'token'")
        super()._set_pool(global_pool)

    def class_rows(self, num_patches: int) -> list[int]:
        """Rows of the class tokens in a sequence with ``num_patches`` patches, ascending."""
        return class_rows(self.class_token, num_patches)

    def _order(self, scan: Scan) -> ScanOrder:
        order = create_order(scan, self.patch_embed.grid_size)
        for row in self.class_rows(self.patch_embed.num_patches):
            order = order.insert(row)
        return order

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Changes the image size in pixels: resizes the positions and rebuilds the route tables."""
        old_grid = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size)
        self._resize_positions(old_grid)
        record_input_size(self, self.patch_embed.img_size)

    def _resize_positions(self, old_grid: tuple[int, ...]) -> None:
        """Resizes the positions to the grid of ``patch_embed`` and rebuilds the route tables."""
        resized = self._positions(old_grid, self.patch_embed.grid_size).detach()
        self.pos_embed = nn.Parameter(resized, requires_grad=self.pos_embed.requires_grad)
        self.init_non_persistent_buffers()

    def _positions(self, old_grid: tuple[int, ...], new_grid: tuple[int, ...]) -> Tensor:
        """``pos_embed``, which is of ``old_grid``, for ``new_grid``; in clips, for the grid of a frame."""
        grids = old_grid[-2:], new_grid[-2:]
        return resize_pos_embed(self.pos_embed, *grids, *(self.class_rows(math.prod(grid)) for grid in grids))

    def init_non_persistent_buffers(self) -> None:
        """Rebuilds the route tables on the device of the parameters, for example after `to_empty`."""
        for block, scan in zip(self.blocks, self.scans):
            block.mixer.set_order(self._order(scan))
        if self.rope is not None:
            self.rope.set_grid(self.patch_embed.grid_size, self.pos_embed.device)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {'pos_embed', 'cls_token'}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            'stem': r'^cls_token|^pos_embed|^patch_embed',
            'blocks': [(r'^blocks\.(\d+)', None), (r'^norm|^feature_', (99999,))],
        }

    def get_classifier(self) -> nn.Module:
        return self.head

    def _reset_head(self) -> None:
        head = nn.Linear(self.embed_dim, self.num_classes, **get_device_dtype(self)) if self.num_classes else None
        self.head = nn.Identity() if head is None else head.train(self.training)

    def embed(self, x: Tensor) -> Tensor:
        """Patches, class tokens and positions: (b, in_chans, H, W) -> (b, l, embed_dim), at least float32."""
        pos_embed = self._positions_of(x)
        x = self.patch_embed(x)
        if self.cls_token is not None:
            x = insert_class(x, self.cls_token, self.class_token)
        return widen(x) + pos_embed

    def _positions_of(self, x: Tensor) -> Tensor:
        """``pos_embed``, resized to the images if ``dynamic_img_size``."""
        if not self.dynamic_img_size:
            return self.pos_embed
        return self._positions(self.patch_embed.grid_size, self.patch_embed.dynamic_feat_size(tuple(x.shape[-2:])))

    def _final(self, x: Tensor) -> Tensor:
        return x.to(self.pos_embed.dtype)  # a pruned norm leaves the wider stream

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            tokens, patches = split_class(x, self.class_token)
            if self.global_pool == 'token':
                x = tokens.mean(1)
            else:
                x = patches.mean(1) if self.global_pool == 'avg' else patches.amax(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def _run_for_map(self, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.feature_norms is None and self.feature_pyramid is None:
            return super()._run_for_map(layer, x)
        return self._run(layer, x, return_branch=True)

    def _feature_map(
        self, i: int, x: Tensor, size: tuple[int, ...], norm: bool, output_fmt: str, return_prefix_tokens: bool = False
    ) -> Any:
        """The map (b, c, *grid), or (b, patches, c); with ``return_prefix_tokens`` a pair with the class tokens."""
        if self.feature_norms is not None:
            x = self.feature_norms[i](x)
        else:
            x = self.norm(x) if norm and self.feature_pyramid is None else x.to(self.pos_embed.dtype)
        tokens, out = split_class(x, self.class_token)
        if output_fmt == 'NCHW' or self.feature_pyramid is not None:
            out = out.transpose(1, 2).unflatten(2, self.patch_embed.dynamic_feat_size(size)).contiguous()
        if self.feature_pyramid is not None:
            out = self.feature_pyramid(out, i)
            out = out if output_fmt == 'NCHW' else out.flatten(2).transpose(1, 2)
        return (out, tokens) if return_prefix_tokens else out

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        chosen = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if self.feature_pyramid is not None:
            self.feature_pyramid.prune(chosen)
        return chosen


_RENAMED = (  # official -> ours, in this order
    (r'^layers\.', 'blocks.'),
    (r'^norm_f\.', 'norm.'),
    (r'\.mixer\.gamma$', '.ls.gamma'),
    (r'\.mixer\.A_log$', '.mixer.routes.0.A_log'),
    (r'\.mixer\.A_b_log$', '.mixer.routes.1.A_log'),
    (r'\.mixer\.(D|conv1d|x_proj|dt_proj)_b\b', r'.mixer.projections.1.\1'),
    (r'\.mixer\.(D|conv1d|x_proj|dt_proj)\b', r'.mixer.projections.0.\1'),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official file, or a state dict of ours, to the state dict of ``model``.

    Published figures belong to the weights under 'model'; official training files also hold an average, 'model_ema'.
    Position tables of another size are resized around their class tokens. A table without an image size is taken for
    that of a square image.
    """
    return resize_positions(rename_weights(state_dict, model), state_dict, model)


def rename_weights(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a file under the names of ``model``."""
    prefixes = 'backbone.', 'net.', 'encoder.'  # of mmseg and detectron2
    state_dict = unwrap(state_dict, *prefixes)
    for table in ('rope.freqs_cos', 'rope.freqs_sin'):  # buffers, here
        state_dict.pop(table, None)
    if 'cls_token_head' in state_dict:
        tokens = [state_dict.pop(f'cls_token_{end}') for end in ('head', 'tail')]
        state_dict['cls_token'] = torch.cat(tokens, 1)
    levels = [] if model.feature_pyramid is None else list(model.feature_pyramid.reductions)  # the block of each
    fpn = (r'^fpn([1-4])\.', lambda m: f'feature_pyramid.levels.{levels[int(m[1]) - 1]}.' if levels else m[0])
    return rename(state_dict, (*_RENAMED, fpn))


def resize_positions(weights: dict[str, Tensor], checkpoint: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Resizes the position table of a checkpoint around its class tokens."""
    config = checkpoint['config']['model'] if checkpoint.get('format') == FORMAT else {}
    img_size = (config or getattr(model, 'pretrained_model_args', {})).get('img_size')  # where the source states it
    table, embed = weights.get('pos_embed'), model.patch_embed
    if table is None or table.ndim != 3:
        return weights  # loading says what is missing
    patches, new_grid = table.shape[1] - model.num_class_tokens, embed.grid_size[-2:]  # of a frame, in clips
    if img_size:
        grid = embed.dynamic_feat_size(to_2tuple(img_size))
    elif table.shape[1] == model.pos_embed.shape[1]:
        grid = new_grid
    else:
        grid = (math.isqrt(max(patches, 0)),) * 2
    if grid != new_grid and grid[0] * grid[1] == patches:
        rows = model.class_rows(patches), model.class_rows(new_grid[0] * new_grid[1])
        weights['pos_embed'] = resize_pos_embed(table, grid, new_grid, *rows)
    return weights


_cfg = partial(
    sequence_cfg, license='apache-2.0', origin_url='https://github.com/hustvl/Vim', paper_ids='arXiv:2401.09417'
)
_HUB = 'https://huggingface.co/hustvl/Vim-{}-midclstok/resolve/main/vim_{}.pth'

default_cfgs = generate_default_cfgs(
    {
        'vim_nano_patch4_32.untrained': _cfg(input_size=(3, 32, 32), crop_pct=1.0),
        'vim_tiny_patch16_224.hustvl_in1k': _cfg(_HUB.format('tiny', 't_midclstok_76p1acc'), 76.1, 93.0),
        'vim_tiny_patch16_stride8_224.hustvl_in1k': _cfg(_HUB.format('tiny', 't_midclstok_ft_78p3acc'), 78.3, 94.2),
        'vim_small_patch16_224.hustvl_in1k': _cfg(_HUB.format('small', 's_midclstok_80p5acc'), 80.5, 95.1),
        'vim_small_patch16_stride8_224.hustvl_in1k': _cfg(_HUB.format('small', 's_midclstok_ft_81p6acc'), 81.6, 95.4),
        'vim_base_patch16_224.hustvl_in1k': _cfg(_HUB.format('base', 'b_midclstok_81p9acc'), 81.9, 95.8),
    }
)


_register = partial(register_variant, __name__, partial(build_model, Vim, filter_fn=checkpoint_filter_fn))
_nano = 'Vim for small images, 0.15 M parameters with ten classes; no published weights.'
_register('vim_nano_patch4_32', _nano, img_size=32, patch_size=4, embed_dim=64, depth=4, d_state=8)
_register('vim_tiny_patch16_224', 'Vim-Ti, 7 M parameters.', embed_dim=192)
_register('vim_tiny_patch16_stride8_224', 'Vim-Ti+, patches overlapping by half.', embed_dim=192, stride=8)
_register('vim_small_patch16_224', 'Vim-S, 26 M parameters.', embed_dim=384)
_register('vim_small_patch16_stride8_224', 'Vim-S+, patches overlapping by half.', embed_dim=384, stride=8)
_register('vim_base_patch16_224', 'Vim-B, 98 M parameters.', embed_dim=768)
