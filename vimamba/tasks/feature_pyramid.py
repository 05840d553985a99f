"""Feature maps of any timm backbone for dense tasks, as a pyramid, whether the backbone is one or not."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d, freeze_batch_norm_2d
from timm.models import group_parameters
from torch import Tensor, nn

from vimamba.config import Config
from vimamba.errors import UsageError, bad_argument
from vimamba.models._builder import FeatureGetter

from .build import build_model, checkpointed, create, mean_and_std, refusal

__all__ = ['DenseModel', 'Features', 'SimpleFeaturePyramid', 'pad']

_ANY_SIZE = {'dynamic_img_size': True, 'strict_img_size': False}  # how Vim and ViT, and Swin, come to take any image


class SimpleFeaturePyramid(nn.Module):
    """A pyramid out of maps of other strides (ViTDet, arXiv:2203.16527, Sec. 3): deconvolutions up, pooling down.

    Args:
        sources: for each level the (channels, stride in pixels) of the map that it is made of.
        strides: strides of the levels, the source's stride times or divided by powers of two.
        out_channels: channels of the levels, after a 1x1 and a 3x3 convolution, each with a LayerNorm; None for no
            convolutions, and half the channels after each deconvolution.

    Shape: for each level a map (b, channels, h, w) -> (b, out_channels, h', w').

    >>> pyramid = SimpleFeaturePyramid([(32, 16)] * 4, (4, 8, 16, 32), out_channels=24)
    >>> [tuple(level.shape[1:]) for level in pyramid([torch.zeros(1, 32, 6, 4)] * 4)]
    [(24, 24, 16), (24, 12, 8), (24, 6, 4), (24, 3, 2)]
    """

    def __init__(
        self, sources: Sequence[tuple[int, int]], strides: Sequence[int], out_channels: int | None = None
    ) -> None:
        super().__init__()
        self.levels, self.channels = nn.ModuleList(), []
        for (width, stride), wanted in zip(sources, strides, strict=True):
            doublings = math.log2(stride / wanted)
            if not doublings.is_integer():
                raise bad_argument('stride of the backbone', f'{wanted} times or divided by a power of two', stride)
            layers: list[nn.Module] = []
            for step in range(int(doublings)):
                layers += [LayerNorm2d(width), nn.GELU()] if step else []
                layers += [nn.ConvTranspose2d(width, width // 2, 2, 2)]
                width //= 2
            if doublings < 0:
                layers += [nn.MaxPool2d(wanted // stride, ceil_mode=True)]
            if out_channels:
                layers += [nn.Conv2d(width, out_channels, 1, bias=False), LayerNorm2d(out_channels)]
                layers += [nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), LayerNorm2d(out_channels)]
            self.levels.append(nn.Sequential(*layers))
            self.channels.append(out_channels or width)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [level(map_) for level, map_ in zip(self.levels, maps)]


class Features(nn.Module):
    """The configured backbone, which gives maps of chosen strides.

    Args:
        config: ``model``, ``data.mean``, ``data.std`` and ``run.grad_checkpointing`` are read.
        strides: strides of the maps in pixels.
        out_indices: blocks of a flat backbone: one, or one for each stride; None for the last.
        out_channels: channels of the `SimpleFeaturePyramid`, for a backbone with other strides.
        pyramid: False keeps the maps of a flat backbone as they are, all of its stride.
        norm: 'frozen' keeps the statistics and weights of its batch norms; 'batch' and 'sync' leave them.
        with_weights: load those of ``model.pretrained`` or ``model.checkpoint``.

    Attributes:
        channels: channels of each level.
        flat: whether the backbone has other strides, so that a pyramid is made of its maps.
        fixed_size: (height, width) in pixels, if the backbone takes images of one size only.
        mean, std: per channel, for pixels in 0..1, of the images.
        overlap: pixels by which patches overlap. An image is padded by half of them on each side, so that its last
            rows and columns also lie in the middle of a patch.

    Shape: (b, in_chans, H, W) -> a list of (b, channels, H / stride, W / stride), rounded up.

    Raises:
        UsageError: unknown model or argument, a backbone without these strides, or weights that do not fit.
    """

    def __init__(
        self,
        config: Config,
        strides: Sequence[int],
        *,
        out_indices: Sequence[int] | None = None,
        out_channels: int | None = None,
        pyramid: bool = True,
        norm: str = 'batch',
        with_weights: bool = True,
    ) -> None:
        super().__init__()
        plain, arguments, fixed_size = _probe(config)
        layers = _layers([info['reduction'] for info in plain.feature_info], strides, out_indices)
        if not pyramid:
            strides, wanted = [plain.feature_info[i]['reduction'] for i in layers], strides
            if strides == list(wanted):
                raise bad_argument('task.pyramid', 'True for maps of these strides', False)
        indices = sorted(set(layers))
        if type(plain).__module__.startswith('vimamba.'):
            file, arguments = config.model.checkpoint, {**arguments, 'features_only': True, 'out_indices': indices}
            if file and with_weights:
                arguments['pretrained_cfg_overlay'] = {'file': file}
            backbone = create(config, with_weights and bool(file or config.model.pretrained), **arguments)
        else:
            backbone = FeatureGetter(build_model(config, 0, with_weights, **arguments), indices)
        checkpointed(backbone, config)
        self.backbone = freeze_batch_norm_2d(backbone) if norm == 'frozen' else backbone
        self.mean, self.std = map(list, mean_and_std(plain, config))
        self.overlap = _overlap(plain)
        self.fixed_size = fixed_size and tuple(side - self.overlap for side in fixed_size)
        self.strides, self.taken = list(strides), [indices.index(layer) for layer in layers]
        info = backbone.feature_info
        sources = [(info.channels()[i], info.reduction()[i]) for i in self.taken]
        self.flat = [stride for _, stride in sources] != self.strides
        self.pyramid: nn.Module = nn.Identity()
        self.channels = [width for width, _ in sources]
        if self.flat:
            self.pyramid = SimpleFeaturePyramid(sources, strides, out_channels)
            self.channels = self.pyramid.channels

    def forward(self, images: Tensor) -> list[Tensor]:
        before = self.overlap // 2
        maps = self.backbone(F.pad(images, (before, self.overlap - before) * 2) if self.overlap else images)
        return self.pyramid([maps[i] for i in self.taken])


def _probe(config: Config) -> tuple[Any, dict[str, Any], tuple[int, int] | None]:
    """The backbone on the meta device, arguments for images of any size, and the only size if it takes no other."""
    with torch.device('meta'):
        plain = create(config, num_classes=0)
        arguments = {key: on for key, on in _ANY_SIZE.items() if key in inspect.signature(type(plain)).parameters}
        try:
            plain = create(config, num_classes=0, **arguments)
        except UsageError:  # a scan order of one size
            arguments = {}
        fault, fixed_size = '', None
        if getattr(plain, 'num_frames', None):
            fault = 'takes clips; choose one of images'
        elif not hasattr(plain, 'forward_intermediates'):
            fault = 'gives no feature maps: it has no forward_intermediates'
        elif any(refusal(plain, (config.model.in_chans, *size)) for size in ((64, 96), (128, 64))):
            fixed_size = getattr(getattr(plain, 'patch_embed', None), 'img_size', None)
            fault = '' if fixed_size else 'does not take images of 64 x 96 and 128 x 64 pixels'
    if fault:
        raise UsageError(f'model {config.model.name!r} {fault}', key='model.name')
    return plain, arguments, fixed_size


def pad(images: Tensor, size: tuple[int, int] | None, multiple: int = 32) -> Tensor:
    """Adds zeros at the right and the bottom, to ``size``, the only one that a backbone takes, or else to a multiple.

    Raises:
        UsageError: the images (b, c, H, W) are larger than ``size``.
    """
    given = tuple(images.shape[2:])
    height, width = size or (multiple * math.ceil(side / multiple) for side in given)
    if given[0] > height or given[1] > width:
        hint = 'set model.img_size, or task.window to segment'
        raise bad_argument('images', f'at most {size} for this backbone', given, hint)
    return F.pad(images, (0, width - given[1], 0, height - given[0]))


class DenseModel(nn.Module):
    """A module that contains `Features`, with the methods by which timm's models guide an optimizer."""

    def _backbone(self) -> tuple[str, nn.Module]:
        name, features = next((n, m) for n, m in self.named_modules() if isinstance(m, Features))
        return f'{name}.backbone.model.', features.backbone.model

    def no_weight_decay(self) -> set[str]:
        """The exempt parameters of the backbone, by their names in this module."""
        prefix, backbone = self._backbone()
        return {prefix + name for name in getattr(backbone, 'no_weight_decay', set)()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """The layers of the backbone, in its order; necks and heads come after them."""
        prefix, backbone = self._backbone()
        layers = group_parameters(backbone, backbone.group_matcher(coarse=coarse), reverse=True)
        return lambda name: float(layers.get(name.removeprefix(prefix), math.inf))


def _overlap(model: nn.Module) -> int:
    """Pixels by which the patches of a flat model, such as Vim's of 16 every 8, reach into the next ones."""
    patches = getattr(getattr(model, 'patch_embed', None), 'proj', None)
    if not isinstance(patches, nn.Conv2d) or isinstance(patches.padding, str):
        return 0
    return max(0, patches.kernel_size[0] - patches.stride[0] - 2 * patches.padding[0])


def _layers(reductions: Sequence[int], strides: Sequence[int], chosen: Sequence[int] | None) -> list[int]:
    """For each stride a layer of the backbone: the last that has it, or else is finer, or else is the finest."""
    if chosen is None:
        sources = [max((r for r in reductions if r <= stride), default=min(reductions)) for stride in strides]
        return [len(reductions) - 1 - list(reversed(reductions)).index(source) for source in sources]
    if set(strides) <= set(reductions):
        raise bad_argument('task.out_indices', 'None for a pyramid', chosen)
    if len(chosen) not in (1, len(strides)) or not all(0 <= i < len(reductions) for i in chosen):
        expected = f'one, or {len(strides)}, of the blocks 0 to {len(reductions) - 1}'
        raise bad_argument('task.out_indices', expected, chosen)
    return list(chosen) * (len(strides) // len(chosen))
