"""The shell that the families share: timm's interface to a model, written once."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from timm.layers import ClassifierHead, get_device_dtype
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vimamba.errors import bad_argument, check_integers
from vimamba.layers.patch_embed import check_images, image_size
from vimamba.mixers import Core

from ._builder import record_input_size

__all__ = ['Backbone', 'MapBackbone', 'Stage', 'init_linear']


class Backbone(nn.Module):
    """image or clip -> embed -> layers -> norm -> head.

    A subclass registers its modules in the order of its state dict and defines what is declared below.
    """

    layers_name = 'layers'  # attribute with the layers
    pools: ClassVar = ('', 'avg', 'max', 'avgmax', 'catavgmax')
    map_formats: ClassVar = ('NCHW', 'NHWC')
    feature_info: list[dict[str, Any]]
    num_features: int
    feature_norms: nn.ModuleList | None
    norm: nn.Module
    embed: Callable[[Tensor], Tensor]  # input -> input of the first layer
    forward_head: Callable[..., Tensor]
    get_classifier: Callable[[], nn.Module]
    _reset_head: Callable[[], None]  # for `num_classes`, `global_pool` and `num_features`
    _feature_map: Callable[..., Any]  # (layer, what `_run_for_map` gave, size of the input, norm, output_fmt)

    def __init__(self, in_chans: int, num_classes: int):
        super().__init__()
        check_integers(0, num_classes=num_classes)
        self.in_chans, self.num_classes = in_chans, num_classes
        self.grad_checkpointing = False

    def _set_pool(self, global_pool: str) -> None:
        if global_pool not in self.pools:
            raise bad_argument('global_pool', ', '.join(map(repr, self.pools)), repr(global_pool))
        self.global_pool = global_pool

    @property
    def _layers(self) -> Any:
        return getattr(self, self.layers_name)

    def no_weight_decay(self) -> set[str]:
        """Names and patterns of parameters without weight decay: those in ``no_weight_decay`` of the modules."""
        names = set()
        for prefix, module in self.named_children():
            for name, inner in module.named_modules(prefix=prefix):
                names |= {f'{name}.{parameter}' for parameter in getattr(inner, 'no_weight_decay', ())}
        return names

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enables activation checkpointing per block."""
        stages = [layer for layer in self._layers if isinstance(layer, Stage)]
        for module in stages or [self]:
            module.grad_checkpointing = enable

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head; keeps the pooling if ``global_pool`` is None."""
        check_integers(0, num_classes=num_classes)
        if global_pool is not None:
            self._set_pool(global_pool)
        self.num_classes = num_classes
        self._reset_head()
        classifier = self.get_classifier()
        if isinstance(classifier, nn.Linear) and classifier.weight.device.type != 'meta':
            self._init_classifier(classifier)

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised output of the last layer."""
        x = self.embed(x)
        for layer in self._layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.grad_checkpointing else layer(x)
        return self._final(self.norm(x))

    def _final(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _run(self, layer: nn.Module, x: Tensor, **options: Any) -> Any:
        if self.grad_checkpointing:
            return checkpoint(layer, x, use_reentrant=False, **options)
        return layer(x, **options)

    def _run_for_map(self, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of a layer, and the tensor that its feature map is made of."""
        x = self._run(layer, x)
        return x, x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
        **options: Any,
    ) -> Any:
        """Feature maps of chosen layers, and the final features.

        Args:
            x: images (b, in_chans, H, W) or clips (b, in_chans, T, H, W).
            indices: the last n layers, a list of layers, or None for all.
            norm: apply the final norm to maps of the final width.
            stop_early: stop behind the last chosen layer.
            output_fmt: 'NCHW', or 'NHWC' of models over maps, 'NLC' of models over sequences. Maps of clips have time
                in front of the height.
            intermediates_only: return only the maps.
            options: ``return_prefix_tokens=True`` of models over sequences returns (map, class tokens) pairs.

        Returns:
            (final features, maps), or the maps.
        """
        if output_fmt not in self.map_formats:
            raise bad_argument('output_fmt', ' or '.join(map(repr, self.map_formats)), repr(output_fmt))
        chosen, last = feature_take_indices(len(self._layers), indices)
        size = tuple(x.shape[2:])
        x = self.embed(x)
        maps = []
        for i, layer in enumerate(self._layers[: last + 1] if stop_early else self._layers):
            x, out = self._run_for_map(layer, x)
            if i in chosen:
                maps.append(self._feature_map(i, out, size, norm, output_fmt, **options))
        return maps if intermediates_only else (self.norm(x), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the maps of the chosen layers do not need; returns their indices.

        The final features are then those of the last layer left. If its width is another, the head is removed too.
        """
        chosen, last = feature_take_indices(len(self._layers), indices)
        setattr(self, self.layers_name, self._layers[: last + 1])
        if self.feature_norms is not None:
            kept = (norm if i in chosen else nn.Identity() for i, norm in enumerate(self.feature_norms))
            self.feature_norms = nn.ModuleList(kept)
        if prune_norm or all(self.feature_info[i]['num_chs'] != self.num_features for i in chosen):
            self.norm = nn.Identity()
        width = self.feature_info[last]['num_chs']
        if prune_head or width != self.num_features:
            self.num_features = width
            self.reset_classifier(0, '')
        return chosen

    @staticmethod
    def _init_classifier(linear: nn.Linear) -> None:
        init_linear(linear)


class Stage(nn.Module):
    """Downsampling and blocks of one width. Shape: (b, h, w, c) -> (b, h', w', c')."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
        return x


class MapBackbone(Backbone):
    """A backbone whose tokens are a map (b, h, w, c), or (b, t, h, w, c) of clips.

    Its layers are the stages of a pyramid or the blocks of a flat model. State-dict keys: ``stem``, ``layers.i``,
    ``feature_norms.i``, ``norm``, ``head``.

    Shape: (b, in_chans, [T,] H, W) -> (b, num_classes).

    Args:
        stem: images to a map.
        layers: maps to maps.
        widths: channels of the map of each layer.
        reductions: stride in pixels of the map of each layer.
        norm: norm of the last map.
        smallest: smallest side of an image in pixels.
        sides: 2 for images, 3 for clips.
        img_size: nominal size in pixels, one integer or (height, width); other sizes are accepted too.
        in_chans: channels of the input.
        num_classes: classes of the head; 0 for none.
        global_pool: 'avg', 'max', 'avgmax', 'catavgmax' or '' for no pooling.
        drop_rate: dropout before the head.
        feature_norm: apply a LayerNorm to each map of `forward_intermediates` and ``features_only``, as official
            backbones for detection and segmentation do.
    """

    output_fmt = 'NHWC'

    def __init__(
        self,
        *,
        stem: nn.Module,
        layers: Sequence[nn.Module],
        widths: Sequence[int],
        reductions: Sequence[int],
        norm: nn.Module,
        smallest: int = 1,
        sides: int = 2,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        feature_norm: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__(in_chans, num_classes)
        self._set_pool(global_pool)
        dd = {'device': device, 'dtype': dtype}
        self.img_size, self.smallest, self.sides = image_size(img_size), smallest, sides
        self.feature_info = [
            {'module': f'layers.{i}', 'num_chs': width, 'reduction': reduction}
            for i, (width, reduction) in enumerate(zip(widths, reductions))
        ]
        self.num_features = widths[-1]
        self.stem = stem
        self.layers = nn.ModuleList(layers)
        norms = (nn.LayerNorm(width, getattr(norm, 'eps', 1e-5), **dd) for width in widths)
        self.feature_norms = nn.ModuleList(norms) if feature_norm else None
        self.norm = norm
        self.head = ClassifierHead(widths[-1], num_classes, global_pool, drop_rate, input_fmt='NHWC', **dd)
        self.head_hidden_size = self.head.num_features

    def init_weights(self) -> None:
        """Initialises linear layers by `init_linear`, mixers' cores and others by their ``reset_parameters``."""
        if next(self.parameters()).device.type == 'meta':
            return
        cores = [module for module in self.modules() if isinstance(module, Core)]  # they initialise their parts
        inside = {m for core in cores for name, m in core.named_modules() if name and not name.startswith('merge')}
        for module in self.modules():
            if module in inside:
                continue
            if isinstance(module, nn.Linear):
                init_linear(module)
            elif callable(reset := getattr(module, 'reset_parameters', None)):
                reset()

    def set_input_size(self, img_size: int | tuple[int, int], **arguments: Any) -> None:
        """Sets the nominal size in pixels, which timm records; other sizes are accepted too."""
        self.img_size = image_size(img_size)
        record_input_size(self, self.img_size, **arguments)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        pyramid = isinstance(self.layers[0], Stage)
        fine = r'^layers\.(\d+)\.blocks\.(\d+)' if pyramid and not coarse else r'^layers\.(\d+)'
        downsample = [(r'^layers\.(\d+)\.downsample', (0,))] if pyramid and not coarse else []
        blocks = [*downsample, (fine, None), (r'^norm|^feature_norms', (99999,))]
        return {'stem': r'^stem', 'blocks': blocks}

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def _reset_head(self) -> None:
        dd = get_device_dtype(self)
        self.head.reset(self.num_classes, self.global_pool, in_features=self.num_features, **dd)
        self.head_hidden_size = self.head.num_features

    def embed(self, x: Tensor) -> Tensor:
        """Images to a map: (b, in_chans, H, W) -> (b, h, w, c)."""
        check_images(x, self.in_chans, self.smallest, self.sides)
        return self.stem(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            x = x.flatten(1, -3)  # the frames of a clip are stacked in height
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def _feature_map(self, i: int, x: Tensor, size: tuple[int, ...], norm: bool, output_fmt: str) -> Tensor:
        out = x if self.feature_norms is None else self.feature_norms[i](x)
        if norm and x.shape[-1] == self.num_features:
            out = self.norm(out)
        return out.movedim(-1, 1) if output_fmt == 'NCHW' else out


def init_linear(linear: nn.Linear) -> None:
    """Truncated normal, std 0.02; bias 0."""
    nn.init.trunc_normal_(linear.weight, std=0.02)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
