"""Object detection and instance segmentation: torchvision's detectors on any timm backbone."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import LevelMapper

from vimamba.config import Config
from vimamba.errors import bad_argument, integer, number, one_of, one_or_several, or_none, several

from .coco_metric import CocoMetric
from .dense import BackboneNorm, Count, DenseTask, OutIndices
from .feature_pyramid import DenseModel, Features, pad

__all__ = ['DETECTORS', 'DetectionTask', 'Detector', 'Resize']

NORMS = {'batch': nn.BatchNorm2d, 'layer': LayerNorm2d}  # of the heads
_THIN = 32  # a thinner image than 1 : 32 is padded to that

Share = Annotated[float, number(0, 1)]
Scale = Annotated[float, number(above=0)]
Ratios = Annotated[Sequence[float], several(number(above=0))]
Norm = Annotated[str | None, or_none(one_of(*NORMS))]


class Neck(nn.Module):
    """Backbone and feature pyramid, as torchvision's detectors call it: images -> named maps of one width.

    A backbone that is a pyramid gets an FPN (arXiv:1612.03144); a flat one has ViTDet's simple feature pyramid.
    """

    def __init__(self, features: Features, out_channels: int, top: nn.Module):
        super().__init__()
        self.features, self.out_channels = features, out_channels
        self.amp: torch.dtype | None = None  # dtype of the maps; boxes need the precision of float32
        self.fpn = None if features.flat else FeaturePyramidNetwork(features.channels, out_channels, top)
        self.top = top if features.flat else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with torch.autocast(images.device.type, self.amp, enabled=self.amp is not None):
            maps = self.features(images)
            named = OrderedDict((str(i), level) for i, level in enumerate(maps))
            if self.fpn is not None:
                named = self.fpn(named)
            elif self.top is not None:
                maps, names = self.top(maps, maps, list(named))
                named = OrderedDict(zip(names, maps))
            return {name: level.float() for name, level in named.items()}


class Anchors(AnchorGenerator):
    """Anchors at the strides of their levels, in pixels; ``centre`` is the centre of the first anchor, in strides.

    torchvision divides the side of the image by the side of the map, which differs if the map was rounded up: on an
    image of 96 pixels, the two rows of stride 64 would be 48 pixels apart.
    """

    def __init__(
        self, sides: Sequence[Sequence[float]], ratios: Sequence[float], strides: Sequence[int], centre: float = 0.0
    ):
        super().__init__(tuple(map(tuple, sides)), (tuple(ratios),) * len(strides))
        self.strides, self.centre = list(strides), centre

    def grid_anchors(self, grid_sizes: Any, strides: Any) -> list[Tensor]:
        anchors = super().grid_anchors(grid_sizes, [[stride, stride] for stride in self.strides])
        return [level + self.centre * stride for level, stride in zip(anchors, self.strides)]


class RoIAlign(MultiScaleRoIAlign):
    """RoIAlign on maps of known strides, each region on the level of its size (arXiv:1612.03144, Eq. 1).

    torchvision derives the strides from the first batch and keeps them, which is wrong if that batch was padded. It
    also places a value at the corner of its cell; here it is at the centre, as in mmdetection.
    """

    def __init__(self, output_size: int, strides: Sequence[int]):
        super().__init__([str(level) for level in range(len(strides))], output_size, sampling_ratio=2)
        self.scales = [1 / stride for stride in strides]
        self.map_levels = LevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        maps = [x[name] for name in self.featmap_names]
        levels = self.map_levels(boxes)
        rois = torch.cat([F.pad(of_image, (1, 0), value=i) for i, of_image in enumerate(boxes)])  # its number in front
        regions = maps[0].new_empty(len(rois), maps[0].shape[1], *self.output_size)
        for level, (features, scale) in enumerate(zip(maps, self.scales)):
            here = torch.nonzero(levels == level)[:, 0]
            regions[here] = roi_align(features, rois[here], self.output_size, scale, self.sampling_ratio, aligned=True)
        return regions


class Resize(GeneralizedRCNNTransform):
    """torchvision's normalisation, resizing and batching, extended to very thin images and fixed-size backbones.

    Attributes:
        padded_size: (height, width) to which every batch is padded, for a backbone that takes nothing else.
    """

    padded_size: tuple[int, int] | None = None

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        height, width = image.shape[1:]
        thin = max(height, width) // _THIN
        down, right = max(thin - height, 0), max(thin - width, 0)
        image = F.pad(image, (0, right, 0, down))
        if target is not None and 'masks' in target:
            target['masks'] = F.pad(target['masks'], (0, right, 0, down))
        image, target = super().resize(image, target)
        return image, target and _with_area(target)

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        batch = super().batch_images(images, 1 if self.padded_size else size_divisible)
        return pad(batch, self.padded_size, size_divisible)

    def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
        padded = [(max(h, w // _THIN), max(w, h // _THIN)) for h, w in original_image_sizes]
        result = super().postprocess(result, image_shapes, padded)
        if self.training:
            return result
        for found, (height, width) in zip(result, original_image_sizes):  # without the padding of a thin image
            found['boxes'] = found['boxes'].minimum(found['boxes'].new_tensor([width, height] * 2))
            if 'masks' in found:
                found['masks'] = found['masks'][..., :height, :width]
        return [_with_area(found) for found in result]


def _with_area(objects: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops objects whose box has no area in float32."""
    keep = (objects['boxes'][:, 2:] > objects['boxes'][:, :2]).all(1)
    return {key: value[keep] for key, value in objects.items()}


def faster_rcnn(
    features: Features,
    num_classes: int,
    *,
    channels: Count = 256,
    anchor_scale: Scale = 8.0,
    anchor_ratios: Ratios = (0.5, 1.0, 2.0),
    hidden: Count = 1024,
    proposals: Count = 1000,
    samples: Annotated[int, integer(4)] = 512,  # of which a quarter may be objects
    nms_threshold: Share = 0.5,
    mask_channels: Annotated[int | None, or_none(integer(1))] = None,
    rpn_convs: Count = 1,
    box_convs: Annotated[int, integer(0)] = 0,
    box_norm: Norm = None,
    mask_norm: Norm = None,
) -> nn.Module:
    """Faster R-CNN (arXiv:1506.01497) on P2 to P6, or with a branch for masks Mask R-CNN (arXiv:1703.06870).

    Args:
        features: maps of strides 4 to 32.
        num_classes: without the background.
        channels: width of the pyramid.
        anchor_scale: side of an anchor over the stride of its level.
        anchor_ratios: heights over widths of the anchors.
        hidden: width of the box head.
        proposals: boxes per image that the second stage sees, twice as many in training.
        samples: proposals per image in the loss of the second stage.
        nms_threshold: most overlap (IoU) of boxes that come out.
        mask_channels: width of the four convolutions of the mask branch; None for no masks.
        rpn_convs: convolutions of the first stage.
        box_convs: convolutions of the box head, before one layer of ``hidden``; 0 for two layers and no convolution.
        box_norm, mask_norm: 'batch' or 'layer', after each of these convolutions; None for none.

    Raises:
        UsageError: a norm without convolutions.
    """
    if mask_norm and mask_channels is None:
        raise bad_argument('task.mask_norm', 'None without task.mask_channels', repr(mask_norm))
    if box_norm and not box_convs:
        raise bad_argument('task.box_norm', 'None without task.box_convs', repr(box_norm))
    parts: dict[str, nn.Module] = {'box_roi_pool': RoIAlign(7, features.strides)}
    kind = FasterRCNN
    if mask_channels is not None:
        kind = MaskRCNN
        parts['mask_roi_pool'] = RoIAlign(14, features.strides)
        parts['mask_head'] = MaskRCNNHeads(channels, (mask_channels,) * 4, 1, NORMS.get(mask_norm or ''))
        parts['mask_predictor'] = MaskRCNNPredictor(mask_channels, mask_channels, num_classes + 1)
    strides = [*features.strides, 2 * features.strides[-1]]
    sides = [(anchor_scale * stride,) for stride in strides]
    return kind(
        Neck(features, channels, LastLevelMaxPool()),
        rpn_anchor_generator=Anchors(sides, anchor_ratios, strides),
        rpn_pre_nms_top_n_train=2 * proposals,
        rpn_post_nms_top_n_train=2 * proposals,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_test=proposals,
        box_head=FastRCNNConvFCHead((channels, 7, 7), [channels] * box_convs, [hidden], NORMS.get(box_norm or ''))
        if box_convs
        else TwoMLPHead(channels * 7**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes + 1),
        rpn_head=RPNHead(channels, len(anchor_ratios), rpn_convs),
        box_batch_size_per_image=samples,
        box_nms_thresh=nms_threshold,
        **parts,
    )


def retinanet(
    features: Features,
    num_classes: int,
    *,
    channels: Count = 256,
    anchor_scale: Scale = 4.0,
    anchor_ratios: Ratios = (0.5, 1.0, 2.0),
    nms_threshold: Share = 0.5,
) -> nn.Module:
    """RetinaNet (arXiv:1708.02002) on P3 to P7, three anchors an octave; arguments as in `faster_rcnn`."""
    strides = [*features.strides, 2 * features.strides[-1], 4 * features.strides[-1]]
    sides = [[anchor_scale * stride * 2 ** (octave / 3) for octave in range(3)] for stride in strides]
    return RetinaNet(
        Neck(features, channels, LastLevelP6P7(channels, channels)),
        num_classes,
        anchor_generator=Anchors(sides, anchor_ratios, strides),
        nms_thresh=nms_threshold,
    )


def fcos(
    features: Features,
    num_classes: int,
    *,
    channels: Count = 256,
    nms_threshold: Share = 0.6,
) -> nn.Module:
    """FCOS (arXiv:1904.01355) on P3 to P7, without anchors; arguments as in `faster_rcnn`."""
    if channels % 32 or channels < 64:  # 32 groups, which may not be of one number each
        raise bad_argument('task.channels', 'a multiple of 32 from 64 on, for the group norms of FCOS', channels)
    strides = [*features.strides, 2 * features.strides[-1], 4 * features.strides[-1]]
    return FCOS(
        Neck(features, channels, LastLevelP6P7(channels, channels)),
        num_classes,
        anchor_generator=Anchors([(stride,) for stride in strides], (1.0,), strides, centre=0.5),
        nms_thresh=nms_threshold,
    )


DETECTORS: dict[str, Callable[..., nn.Module]] = {
    'faster_rcnn': faster_rcnn,
    'mask_rcnn': partial(faster_rcnn, mask_channels=256),
    'retinanet': retinanet,
    'fcos': fcos,
}


class Detector(DenseModel):
    """A detector of torchvision on the configured backbone, whose labels count from 0, without a background.

    Args:
        config, with_weights, norm, out_indices: as in `Features`.
        num_classes: without the background.
        head: one of `DETECTORS`, which takes ``channels`` and the further ``options``.
        min_size: the short side of images in pixels; in training one of several, drawn at random, else the largest.
        max_size: the most for the long side.
        score_threshold, detections: least score and most boxes per image that come out.

    Shape: a list of images (C, H, W) in 0..1, of any sizes -> in training a dictionary of losses, else for each image
        boxes (N, 4) in its own pixels, labels (N,), scores (N,) and, of Mask R-CNN, masks (N, H, W) bool.
    """

    def __init__(
        self,
        config: Config,
        num_classes: int,
        with_weights: bool = True,
        *,
        head: str = 'faster_rcnn',
        min_size: Annotated[int | Sequence[int], one_or_several(integer(1))] = 800,
        max_size: Count = 1333,
        norm: BackboneNorm = 'batch',
        out_indices: OutIndices = None,
        channels: Count = 256,
        score_threshold: Share = 0.05,
        detections: Count = 100,
        **options: Any,
    ) -> None:
        super().__init__()
        strides = (8, 16, 32) if head in ('retinanet', 'fcos') else (4, 8, 16, 32)
        features = Features(
            config, strides, out_indices=out_indices, out_channels=channels, norm=norm, with_weights=with_weights
        )
        self.network = DETECTORS[head](features, num_classes, channels=channels, **options)
        scores = getattr(self.network, 'roi_heads', self.network)
        scores.score_thresh, scores.detections_per_img = score_threshold, detections
        sizes = (min_size,) if isinstance(min_size, int) else min_size
        self.network.transform = Resize(sorted(sizes), max_size, features.mean, features.std)
        self.network.transform.padded_size = features.fixed_size
        self.background = int(isinstance(self.network, FasterRCNN))

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        device = images[0].device.type
        self.network.backbone.amp = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        wanted = None
        if self.training:
            assert targets is not None, 'a detector in training mode needs targets'
            wanted = [self._single(target) for target in targets]
        with torch.autocast(device, enabled=False):
            detections = self.network(list(images), wanted)
        if self.training:
            return {'loss_' + name.removeprefix('loss_'): loss for name, loss in detections.items()}
        for found in detections:
            found['labels'] = found['labels'] - self.background
            if 'masks' in found:
                found['masks'] = found['masks'][:, 0] > 0.5
        return detections

    def _single(self, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """The targets that the detector learns from: no crowds, and labels with the background."""
        keep = target['iscrowd'] == 0
        wanted = {key: target[key][keep] for key in ('boxes', 'labels', 'masks') if key in target}
        wanted['labels'] = wanted['labels'] + self.background
        return wanted


class DetectionTask(DenseTask):
    """Boxes, and with Mask R-CNN masks, of the objects in an image."""

    name = 'detection'
    best = 'AP'
    heads = DETECTORS
    network = Detector

    @classmethod
    def dataset_options(cls, config: Config, training: bool) -> dict[str, Any]:
        return {} if cls.options(config).get('mask_channels') is None else {'masks': True}

    def check_together(self, config: Config, transform: Any) -> None:
        options = self.options(config)
        sides, most = options['min_size'], options['max_size']
        shortest = max([sides] if isinstance(sides, int) else sides)
        if most < shortest:
            raise bad_argument('task.max_size', f'at least task.min_size, {shortest}', most)
        fixed = self.model.network.backbone.features.fixed_size
        if fixed and (most > max(fixed) or shortest > min(fixed)):
            only, given = f'at most {max(fixed)}, and task.min_size {min(fixed)}', f'{most} and {shortest}'
            hint = f'{config.model.name!r} takes {fixed} alone: set model.img_size'
            raise bad_argument('task.max_size', only, given, hint)

    def forward(self, images: Sequence[Tensor], targets: Any = None, mode: str = 'predict') -> Any:
        """Losses in mode 'loss', detections in mode 'predict'; see `Detector`."""
        return self.model(images, targets) if mode == 'loss' else self.model(images)

    def metric(self) -> CocoMetric:
        return CocoMetric(self.classes)
