"""The shell of every family whose tokens stay a map: a stem, layers over (b, height, width, channels), a head.

Maps of clips have a side more, in front: (b, time, height, width, channels).
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead, get_device_dtype, to_2tuple
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.jit import Final
from torch.utils.checkpoint import checkpoint

from vimamba.errors import bad_argument, check_integers
from vimamba.layers.patch_embed import check_images

from ._builder import record_input_size

__all__ = ['Backbone', 'Stage']

_POOLS = ('', 'avg', 'max', 'avgmax', 'catavgmax')


class Stage(nn.Module):
    """Blocks of one width, behind what brings the map to it.

    Shape: (b, h, w, c) -> (b, h', w', c').
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.downsample(x))

    def run(self, x: Tensor) -> Tensor:
        """The blocks, one after another."""
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class Backbone(nn.Module):
    """image -> stem -> layers -> norm -> pooling -> head; features are what the layers return.

    A layer is a `Stage` of a pyramid or a block of a flat model. Subclasses give the modules and their initial values.

    Shape: (b, in_chans, H, W) -> (b, num_classes).

    Args:
        stem: images to a map of tokens (b, h, w, c).
        layers: maps to maps.
        widths: channels behind each layer.
        reductions: pixels of the image, along a side, for one of the map behind each layer.
        norm: of the last map.
        img_size: pixels that the model is made for, one integer or (height, width); it runs on any other size too.
        num_classes: classes of the head; 0 for none.
        global_pool: 'avg', 'max', 'avgmax', 'catavgmax' or '' for no pooling.
        drop_rate: dropout before the head.
        feature_norm: a LayerNorm for the map behind each layer, in `forward_intermediates` and ``features_only``, as
            official backbones for detection and segmentation have them.
    """

    output_fmt: Final[str] = 'NHWC'

    def __init__(
        self,
        stem: nn.Module,
        layers: Sequence[nn.Module],
        widths: Sequence[int],
        reductions: Sequence[int],
        norm: nn.Module,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        feature_norm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        check_integers(0, num_classes=num_classes)
        _check_pool(global_pool)
        self.num_classes, self.in_chans, self.img_size = num_classes, in_chans, check_img_size(img_size)
        self.grad_checkpointing = False
        self.feature_info = [
            {'module': f'layers.{i}', 'num_chs': width, 'reduction': reduction}
            for i, (width, reduction) in enumerate(zip(widths, reductions))
        ]
        self.num_features = widths[-1]
        first = next(module for module in stem.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
        self.sides, self.smallest = len(first.kernel_size), max(1, first.kernel_size[-1] - 2 * int(first.padding[-1]))
        self.stem = stem
        self.layers = nn.ModuleList(layers)
        eps = getattr(norm, 'eps', 1e-5)
        norms = (nn.LayerNorm(width, eps, **dd) for width in widths)
        self.feature_norms = nn.ModuleList(norms) if feature_norm else None
        self.norm = norm
        self.head = ClassifierHead(widths[-1], num_classes, global_pool, drop_rate, input_fmt='NHWC', **dd)
        self.head_hidden_size = self.head.num_features
        self.pooled = global_pool != ''

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Initial values: linear layers by `init_linear`, every other module by its own ``reset_parameters``."""
        if next(self.parameters()).device.type == 'meta':
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_linear(module)
            elif callable(reset := getattr(module, 'reset_parameters', None)):
                reset()

    @torch.jit.ignore
    def set_input_size(self, img_size: int | tuple[int, int], **arguments: Any) -> None:
        """The size, in pixels, that the model is made for, and timm's record of it; any other runs as well."""
        self.img_size = check_img_size(img_size)
        record_input_size(self, self.img_size, **arguments)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {'*.A_log', '*.D', '*.directions', '*.table'}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        pyramid = isinstance(self.layers[0], Stage)
        fine = r'^layers\.(\d+)\.blocks\.(\d+)' if pyramid and not coarse else r'^layers\.(\d+)'
        downsample = [(r'^layers\.(\d+)\.downsample', (0,))] if pyramid and not coarse else []
        blocks = [*downsample, (fine, None), (r'^norm|^feature_norms', (99999,))]
        return {'stem': r'^stem', 'blocks': blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Computes the inside of every block again in the backward pass instead of keeping it."""
        for layer in self.layers:
            if isinstance(layer, Stage):
                layer.grad_checkpointing = enable
        self.grad_checkpointing = enable and not isinstance(self.layers[0], Stage)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for ``num_classes``; the pooling stays unless it is given."""
        check_integers(0, num_classes=num_classes)
        if global_pool is not None:
            _check_pool(global_pool)
            self.pooled = global_pool != ''
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features
        if isinstance(self.head.fc, nn.Linear) and self.head.fc.weight.device.type != 'meta':
            init_linear(self.head.fc)

    def forward_features(self, x: Tensor) -> Tensor:
        """The normalised last map: (b, in_chans, H, W) -> (b, h, w, num_features)."""
        check_images(x, self.in_chans, self.smallest, self.sides)
        x = self.stem(x)
        for layer in self.layers:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.pooled:
            x = x.flatten(1, -3)  # the frames of a clip stand below one another
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

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
    ) -> Any:
        """Maps behind chosen layers, and the final features.

        Args:
            x: images (b, in_chans, H, W).
            indices: the last n layers, these layers, or all of them if None.
            norm: apply the final norm to the maps that have the final width.
            stop_early: do not run layers behind the last chosen one.
            output_fmt: 'NCHW' or 'NHWC'; in maps of clips, time stands in front of the height.
            intermediates_only: do not return the final features.

        Returns:
            (final features, maps), or the maps.
        """
        if output_fmt not in ('NCHW', 'NHWC'):
            raise bad_argument('output_fmt', "'NCHW' or 'NHWC'", repr(output_fmt))
        chosen, last = feature_take_indices(len(self.layers), indices)
        check_images(x, self.in_chans, self.smallest, self.sides)
        x = self.stem(x)
        maps = []
        for i, layer in enumerate(self.layers[: last + 1] if stop_early else self.layers):
            x = checkpoint(layer, x, use_reentrant=False) if self.grad_checkpointing else layer(x)
            if i in chosen:
                out = x if self.feature_norms is None else self.feature_norms[i](x)
                if norm and x.shape[-1] == self.num_features:
                    out = self.norm(out)
                maps.append(out.movedim(-1, 1) if output_fmt == 'NCHW' else out)
        return maps if intermediates_only else (self.norm(x), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what the maps of the chosen layers do not need; returns their indices.

        Where layers go, the final features are those of the last one kept, and a head that fitted the others goes too.
        """
        chosen, last = feature_take_indices(len(self.layers), indices)
        shorter = last < len(self.layers) - 1
        norm_is_used = any(self.feature_info[i]['num_chs'] == self.num_features for i in chosen)
        self.layers = self.layers[: last + 1]
        if self.feature_norms is not None:
            kept = (norm if i in chosen else nn.Identity() for i, norm in enumerate(self.feature_norms))
            self.feature_norms = nn.ModuleList(kept)
        if prune_norm or not norm_is_used:
            self.norm = nn.Identity()
        if shorter:
            self.num_features = self.feature_info[last]['num_chs']
        if prune_head or shorter:
            self.head.reset(0, '', in_features=self.num_features)
            self.num_classes, self.head_hidden_size, self.pooled = 0, self.head.num_features, False
        return chosen


def check_img_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels."""
    sizes = to_2tuple(img_size)
    if len(sizes) != 2 or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise bad_argument('img_size', 'an integer or (height, width), in pixels', repr(img_size))
    return sizes[0], sizes[1]


def _check_pool(global_pool: str) -> None:
    if global_pool not in _POOLS:
        raise bad_argument('global_pool', ', '.join(map(repr, _POOLS)), repr(global_pool))


def init_linear(linear: nn.Linear) -> None:
    """Truncated normal, std 0.02; bias 0."""
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
