"""Vision Mamba (Vim): an isotropic stack of bidirectional Mamba-1 blocks with the class token in the middle.

Paper: Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model, arXiv:2401.09417.
Official code and weights: hustvl/Vim, Apache-2.0.

    image -> patches -> [ ... class token ... ] + positions -> depth x Block(RMSNorm, Mamba1 on the routes) -> RMSNorm
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, get_device_dtype, lecun_normal_, to_2tuple, trunc_normal_
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.jit import Final
from torch.utils.checkpoint import checkpoint

from vimamba.errors import UsageError, bad_argument, check_integers
from vimamba.layers import Block, LayerNorm, PatchEmbed, RMSNorm, resize_pos_embed, widen
from vimamba.layers.class_token import CLASS_TOKENS, class_rows, insert_class, split_class
from vimamba.layers.feature_pyramid import FlatPyramid
from vimamba.layers.rope import RotaryPositions
from vimamba.mixers.mixer import create_mixer, mixer_per_block
from vimamba.scans import ScanOrder, create_order, schedule
from vimamba.scans.schedules import Scan, Schedule

from ._builder import build_model, imagenet_cfg, record_input_size
from .vim_checkpoint import checkpoint_filter_fn

__all__ = ['Vim', 'checkpoint_filter_fn']

_NORMS = {'rms': RMSNorm, 'layer': LayerNorm}
_POOLS = ('token', 'avg', 'max', '')


class Vim(nn.Module):
    """Vision Mamba (arXiv:2401.09417).

    Args:
        img_size: image size in pixels, one integer or (height, width).
        patch_size: patch size in pixels.
        stride: distance between patches in pixels; ``patch_size`` if None.
        in_chans: image channels.
        num_classes: classes of the head; 0 for none.
        global_pool: 'token' (mean of the class tokens), 'avg' or 'max' over the patches, '' for no pooling; by default
            'token' where there is a class token, else 'avg'.
        embed_dim: width of the tokens (d_model).
        depth: number of blocks.
        d_state: states a channel.
        mixer: name of a registered mixer, or a list with one for each block; see `vimamba.mixers.list_mixers`.
        scan: name of a scan order or of a schedule, or an order for each block; see `vimamba.scans.schedule`.
        share_routes: one convolution and one set of projections for all routes (Vim's "bimamba v1").
        merge: 'mean' or 'sum' of the routes, or their sum behind 'attention' over the channels of each (LocalVim).
        class_token: 'middle' (at row M // 2 of the M patches), 'first', 'both' (first and last) or 'none'.
        dynamic_img_size: accept any image size in forward, resizing the positions on the fly; for scan orders that
            follow the memory (raster, bidirectional).
        layer_scale: initial value of a learned scale of each block's output; none if None.
        rope: rotate the stream by its position before every block; without class tokens. True is LocalVim's: tables of
            14 x 14 tokens, resized; 'between' is Vim's for detection: positions between those.
        norm: 'rms', or 'layer' as LocalVim's backbones for detection and segmentation have it.
        feature_norm: feature maps are what the blocks add to the stream, each behind a LayerNorm (these of LocalVim).
        feature_pyramid: four blocks; feature maps are what they add to the stream, brought to strides of 4, 8, 16 and
            32 pixels (Vim's for segmentation).
        pad_image: zeros at the bottom and on the right to whole patches (LocalVim), not leaving pixels out.
        drop_rate: dropout before the head.
        drop_path_rate: stochastic depth of the last block, linear in depth from 0.

    Shape: (b, in_chans, H, W) -> (b, num_classes).

    >>> model = Vim(img_size=(32, 48), patch_size=8, embed_dim=32, depth=2, num_classes=10)
    >>> model(torch.zeros(1, 3, 32, 48)).shape
    torch.Size([1, 10])
    """

    dynamic_img_size: Final[bool]

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
        device=None,
        dtype=None,
    ):
        super().__init__()
        if class_token not in CLASS_TOKENS:
            raise bad_argument('class_token', ', '.join(map(repr, CLASS_TOKENS)), repr(class_token))
        check_integers(0, num_classes=num_classes)
        check_integers(1, depth=depth, d_state=d_state)
        dd = {'device': device, 'dtype': dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        if rope and (class_token != 'none' or rope not in (True, 'between')):
            raise bad_argument('rope', "True or 'between' with class_token='none'", f'{rope!r} with {class_token!r}')
        if norm not in _NORMS:
            raise bad_argument('norm', "'rms' or 'layer'", repr(norm))
        if feature_norm and feature_pyramid:
            raise bad_argument('feature_norm', 'False with a feature_pyramid', True)
        self.scans = schedule(scan, depth)
        self.class_token = class_token
        self.num_class_tokens = CLASS_TOKENS[class_token]
        self.dynamic_img_size = dynamic_img_size
        self.grad_checkpointing = False
        self._set_pool(global_pool if global_pool is not None else ('token' if self.num_class_tokens else 'avg'))

        stride = patch_size if stride is None else stride
        self.patch_embed = self._create_patch_embed(
            img_size, patch_size, stride, in_chans, embed_dim, not dynamic_img_size, pad_image, **dd
        )
        rows = math.prod(self.patch_embed.grid_size[-2:]) + self.num_class_tokens
        cls_token = nn.Parameter(torch.empty(1, self.num_class_tokens, embed_dim, **dd))
        self.register_parameter('cls_token', cls_token if self.num_class_tokens else None)
        self.pos_embed = nn.Parameter(torch.empty(1, rows, embed_dim, **dd))
        grid, between = self.patch_embed.grid_size, rope == 'between'
        self.rope = RotaryPositions(embed_dim, grid, between=between, device=device) if rope else None
        options = {'d_state': d_state, 'merge': merge, **({'share_routes': True} if share_routes else {})}
        self.blocks = nn.Sequential(
            *(
                Block(
                    _NORMS[norm](embed_dim, **dd),
                    create_mixer(name, embed_dim, self._order(own), **options, **dd),
                    embed_dim,
                    before=self.rope,
                    drop_path=rate,
                    layer_scale=layer_scale,
                    **dd,
                )
                for name, own, rate in zip(
                    mixer_per_block(mixer, depth), self.scans, calculate_drop_path_rates(drop_path_rate, depth)
                )
            )
        )
        stride, levels = self.patch_embed.stride, tuple(feature_pyramid)
        if not all(0 <= block < depth for block in levels):
            raise bad_argument('feature_pyramid', f'blocks of {depth}', repr(feature_pyramid))
        norms = (LayerNorm(embed_dim, **dd) for _ in range(depth))
        self.feature_norms = nn.ModuleList(norms) if feature_norm else None
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
                f'dynamic_img_size: scan {scan!r}{" with rope" * rope} is laid out for one size; use raster or '
                'bidirectional, or call set_input_size for each size'
            )
        if self.pos_embed.device.type != 'meta':
            self.init_weights()

    def _create_patch_embed(self, *args: Any, **dd: Any) -> PatchEmbed:
        return PatchEmbed(*args, **dd)

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initial values, of every parameter.

        | parameter | value |
        |---|---|
        | patch_embed.proj | LeCun normal, bias 0 |
        | cls_token, pos_embed, head.weight | truncated normal, std 0.02; head.bias 0 |
        | in_proj, x_proj, conv1d | PyTorch's: uniform, bound fan_in^-1/2 |
        | out_proj | the same divided by sqrt(depth) |
        | A_log | log(1 ... d_state) on every channel; D = 1 |
        | dt_proj | weight uniform, bound dt_rank^-1/2; softplus(bias) log-uniform in [0.001, 0.1] |
        | of Mamba-2 | dt_bias likewise; -A uniform in [1, 16] |
        | norms, layer scale | 1; ``layer_scale`` |

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
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def _set_pool(self, global_pool: str) -> None:
        if global_pool not in _POOLS:
            raise bad_argument('global_pool', ', '.join(map(repr, _POOLS)), repr(global_pool))
        if global_pool == 'token' and not self.num_class_tokens:
            raise bad_argument('global_pool', "'avg', 'max' or '' without a class token", "'token'")
        self.global_pool = global_pool

    @torch.jit.ignore
    def class_rows(self, num_patches: int) -> list[int]:
        """Rows of the class tokens in the sequence, ascending."""
        return class_rows(self.class_token, num_patches)

    def _order(self, scan: Scan) -> ScanOrder:
        order = create_order(scan, self.patch_embed.grid_size)
        for row in self.class_rows(self.patch_embed.num_patches):
            order = order.insert(row)
        return order

    @torch.jit.ignore
    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Changes the image size in pixels: resizes the position table and lays the routes anew."""
        old_grid, old_rows = self.patch_embed.grid_size, self.class_rows(self.patch_embed.num_patches)
        self.patch_embed.set_input_size(img_size)
        new_grid, new_rows = self.patch_embed.grid_size, self.class_rows(self.patch_embed.num_patches)
        with torch.no_grad():
            resized = resize_pos_embed(self.pos_embed, old_grid, new_grid, old_rows, new_rows)
        self.pos_embed = nn.Parameter(resized, requires_grad=self.pos_embed.requires_grad)
        self.init_non_persistent_buffers()
        record_input_size(self, to_2tuple(img_size))

    @torch.jit.ignore
    def init_non_persistent_buffers(self) -> None:
        """Lays the routes, on the device of the parameters; after they came from the meta device, say."""
        for block, scan in zip(self.blocks, self.scans):
            block.mixer.set_order(self._order(scan))
        if self.rope is not None:
            self.rope.set_grid(self.patch_embed.grid_size, self.pos_embed.device)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {'pos_embed', 'cls_token', 'blocks.*.A_log', 'blocks.*.D'}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            'stem': r'^cls_token|^pos_embed|^patch_embed',
            'blocks': [(r'^blocks\.(\d+)', None), (r'^norm|^feature_', (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for ``num_classes``; the pooling stays unless it is given."""
        check_integers(0, num_classes=num_classes)
        if global_pool is not None:
            self._set_pool(global_pool)
        self.num_classes = num_classes
        if num_classes:
            self.head = nn.Linear(self.embed_dim, num_classes, **get_device_dtype(self)).train(self.training)
            if self.head.weight.device.type != 'meta':
                trunc_normal_(self.head.weight, std=0.02)
                nn.init.zeros_(self.head.bias)
        else:
            self.head = nn.Identity()

    def _embed(self, x: Tensor) -> Tensor:
        """Patches, class tokens and positions: (b, in_chans, H, W) -> (b, l, embed_dim), at least float32."""
        height, width = x.shape[-2], x.shape[-1]
        x = self.patch_embed(x)
        cls_token = self.cls_token
        if cls_token is not None:
            x = insert_class(x, cls_token, self.class_token)
        pos_embed = self.pos_embed
        if self.dynamic_img_size:
            pos_embed = self._dynamic_pos_embed(height, width)
        return widen(x) + pos_embed

    @torch.jit.ignore
    def _dynamic_pos_embed(self, height: int, width: int) -> Tensor:
        grid = self.patch_embed.dynamic_feat_size((height, width))
        rows = self.class_rows(self.patch_embed.num_patches), self.class_rows(grid[0] * grid[1])
        return resize_pos_embed(self.pos_embed, self.patch_embed.grid_size, grid, *rows)

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised tokens of the last block, in sequence order: (b, in_chans, H, W) -> (b, l, embed_dim)."""
        return self._features(x)

    def _features(self, x: Tensor) -> Tensor:
        x = self._embed(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x).to(self.pos_embed.dtype)  # where the norm was pruned, the stream may be wider

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            tokens, patches = split_class(x, self.class_token)
            if self.global_pool == 'token':
                x = tokens.mean(1)
            elif self.global_pool == 'avg':
                x = patches.mean(1)
            else:
                x = patches.amax(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
        return_prefix_tokens: bool = False,
    ) -> Any:
        """Outputs of chosen blocks, and the final features.

        Args:
            x: images (b, in_chans, H, W).
            indices: the last n blocks, these blocks, or all of them if None.
            norm: apply the final norm to the outputs too, where these are what the blocks return.
            stop_early: do not run blocks behind the last chosen one.
            output_fmt: 'NCHW' (b, c, grid height, grid width) or 'NLC' (b, patches, c); class tokens are left out.
            intermediates_only: do not return the final features.
            return_prefix_tokens: return each output with its class tokens (b, k, c) as a pair.

        Returns:
            (final features, outputs), or the outputs.
        """
        if output_fmt not in ('NCHW', 'NLC'):
            raise bad_argument('output_fmt', "'NCHW' or 'NLC'", repr(output_fmt))
        chosen, last = feature_take_indices(len(self.blocks), indices)
        sides = tuple(x.shape[2:])
        x = self._embed(x)
        grid = self.patch_embed.dynamic_feat_size(sides)
        outputs = []
        for i, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x, added = checkpoint(block.both, x, use_reentrant=False) if self.grad_checkpointing else block.both(x)
            if i in chosen:
                tokens, patches = split_class(self._feature(i, x, added, norm), self.class_token)
                if output_fmt == 'NCHW' or self.feature_pyramid is not None:
                    patches = patches.transpose(1, 2).unflatten(2, grid).contiguous()
                if self.feature_pyramid is not None:
                    patches = self.feature_pyramid(patches, i)
                    patches = patches if output_fmt == 'NCHW' else patches.flatten(2).transpose(1, 2)
                outputs.append((patches, tokens) if return_prefix_tokens else patches)
        return outputs if intermediates_only else (self.norm(x), outputs)

    def _feature(self, block: int, x: Tensor, added: Tensor, norm: bool) -> Tensor:
        """The tokens that a block's feature map is made of, out of what it returned and what it added."""
        if self.feature_norms is not None:
            return self.feature_norms[block](added)
        out = x if self.feature_pyramid is None else added
        return self.norm(out) if norm and out is x else out.to(self.pos_embed.dtype)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what the outputs of the chosen blocks do not need; returns their indices."""
        chosen, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if self.feature_norms is not None:
            kept = (norm if i in chosen else nn.Identity() for i, norm in enumerate(self.feature_norms))
            self.feature_norms = nn.ModuleList(kept)
        if self.feature_pyramid is not None:
            self.feature_pyramid.prune(chosen)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, '')
        return chosen


def _cfg(url: str = '', **kwargs: Any) -> dict[str, Any]:
    own = {
        'pool_size': None,
        'fixed_input_size': True,
        'first_conv': 'patch_embed.proj',
        'classifier': 'head',
        'license': 'apache-2.0',
        'origin_url': 'https://github.com/hustvl/Vim',
        'paper_ids': 'arXiv:2401.09417',
    }
    return imagenet_cfg(url, **{**own, **kwargs})


_HUB = 'https://huggingface.co/hustvl/Vim-{}-midclstok/resolve/main/vim_{}.pth'

default_cfgs = generate_default_cfgs(
    {
        'vim_nano_patch4_32.untrained': _cfg(input_size=(3, 32, 32), crop_pct=1.0),
        'vim_tiny_patch16_224.hustvl_in1k': _cfg(_HUB.format('tiny', 't_midclstok_76p1acc'), top1=76.1, top5=93.0),
        'vim_tiny_patch16_stride8_224.hustvl_in1k': _cfg(
            _HUB.format('tiny', 't_midclstok_ft_78p3acc'), top1=78.3, top5=94.2
        ),
        'vim_small_patch16_224.hustvl_in1k': _cfg(_HUB.format('small', 's_midclstok_80p5acc'), top1=80.5, top5=95.1),
        'vim_small_patch16_stride8_224.hustvl_in1k': _cfg(
            _HUB.format('small', 's_midclstok_ft_81p6acc'), top1=81.6, top5=95.4
        ),
        'vim_base_patch16_224.hustvl_in1k': _cfg(_HUB.format('base', 'b_midclstok_81p9acc'), top1=81.9, top5=95.8),
    }
)


def _create_vim(variant: str, pretrained: bool, **kwargs: Any) -> Vim:
    own = kwargs.get('feature_pyramid') or (-3, -2, -1)
    return build_model(Vim, variant, pretrained, checkpoint_filter_fn, own, **kwargs)


@register_model
def vim_nano_patch4_32(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim for small images, 0.15 M parameters with ten classes; no published weights."""
    args = {'img_size': 32, 'patch_size': 4, 'embed_dim': 64, 'depth': 4, 'd_state': 8}
    return _create_vim('vim_nano_patch4_32', pretrained, **{**args, **kwargs})


@register_model
def vim_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-Ti, 7 M parameters."""
    return _create_vim('vim_tiny_patch16_224', pretrained, **{'embed_dim': 192, **kwargs})


@register_model
def vim_tiny_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-Ti+, patches that overlap by half."""
    return _create_vim('vim_tiny_patch16_stride8_224', pretrained, **{'embed_dim': 192, 'stride': 8, **kwargs})


@register_model
def vim_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-S, 26 M parameters."""
    return _create_vim('vim_small_patch16_224', pretrained, **{'embed_dim': 384, **kwargs})


@register_model
def vim_small_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-S+, patches that overlap by half."""
    return _create_vim('vim_small_patch16_stride8_224', pretrained, **{'embed_dim': 384, 'stride': 8, **kwargs})


@register_model
def vim_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim:
    """Vim-B, 98 M parameters."""
    return _create_vim('vim_base_patch16_224', pretrained, **{'embed_dim': 768, **kwargs})
