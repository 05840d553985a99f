"""Semantic segmentation: the decoders of segmentation-models-pytorch on any timm backbone."""

import importlib
import math
import os
from collections.abc import Callable, Sequence
from itertools import product
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from vimamba.config import Config
from vimamba.data import DATASETS
from vimamba.data.transforms import IGNORED
from vimamba.errors import UsageError, bad_argument, flag, integer, number, or_none, several

from .dense import BackboneNorm, Count, DenseTask, OutIndices
from .feature_pyramid import DenseModel, Features, pad

__all__ = ['DECODERS', 'SegmentationMetric', 'SegmentationTask', 'Segmenter']


Size = Annotated[Sequence[int] | None, or_none(several(integer(1), 2))]  # (height, width) in pixels


def _decoder(kind: str, name: str, features: Features, out_channels: int, **options: Any) -> nn.Module:
    """A decoder of segmentation-models-pytorch, which expects maps of strides 1 and 2 before those that it uses."""
    try:
        module = importlib.import_module(f'segmentation_models_pytorch.decoders.{kind}.decoder')
    except ImportError as error:
        needed = f'segmentation needs segmentation-models-pytorch ({error})'
        raise UsageError(f'{needed}: pip install vimamba[seg]') from None
    decoder = getattr(module, name)([0, 0, *features.channels], **options)
    decoder.out_channels = out_channels
    return decoder


def upernet(features: Features, *, channels: Count = 512) -> nn.Module:
    """UPerNet (arXiv:1807.10221): pyramid pooling and a feature pyramid, fused at stride 4."""
    return _decoder('upernet', 'UPerNetDecoder', features, channels, decoder_channels=channels)


def segformer(features: Features, *, channels: Count = 256) -> nn.Module:
    """SegFormer's light head (arXiv:2105.15203): one linear layer per map, fused at stride 4."""
    return _decoder('segformer', 'SegformerDecoder', features, channels, segmentation_channels=channels)


def fpn(features: Features, *, channels: Count = 256) -> nn.Module:
    """Semantic FPN (arXiv:1901.02446): a feature pyramid whose levels are added up at stride 4."""
    if channels % 64 or channels < 128:  # 32 groups of half of them, which may not be of one number each
        raise bad_argument('task.channels', 'a multiple of 64 from 128 on, for the group norms of the FPN', channels)
    if features.fixed_size and any(side % 32 for side in features.fixed_size):
        raise bad_argument('model.img_size', 'multiples of 32 for an FPN, which doubles maps', features.fixed_size)
    narrow = channels // 2
    options = {'pyramid_channels': channels, 'segmentation_channels': narrow, 'dropout': 0.0}  # `Segmenter` has one
    return _decoder('fpn', 'FPNDecoder', features, narrow, **options)


DECODERS: dict[str, Callable[..., nn.Module]] = {'upernet': upernet, 'segformer': segformer, 'fpn': fpn}


class Segmenter(DenseModel):
    """The configured backbone with a decoder: a class for every pixel.

    Args:
        config, with_weights, norm, out_indices, pyramid: as in `Features`.
        num_classes: channels of the logits.
        head: one of `DECODERS`, which takes the further ``options``: maps to one of the finest stride.
        auxiliary: weight of the loss of a second, small head on one of the maps; 0 for none.
        auxiliary_level: index of that map, 0 to 3.
        dropout: before the classifiers.

    Shape: (B, C, H, W), normalised, H and W multiples of 32 -> logits (B, num_classes, H / stride, W / stride); in
        training also those of the second head.
    """

    def __init__(
        self,
        config: Config,
        num_classes: int,
        with_weights: bool = True,
        *,
        head: str = 'upernet',
        norm: BackboneNorm = 'batch',
        out_indices: OutIndices = None,
        pyramid: Annotated[bool, flag()] = True,
        auxiliary: Annotated[float, number(0)] = 0.0,
        auxiliary_level: Annotated[int, integer(0, 3)] = 2,
        dropout: Annotated[float, number(0, 1)] = 0.1,
        **options: Any,
    ) -> None:
        super().__init__()
        self.features = Features(
            config, (4, 8, 16, 32), out_indices=out_indices, pyramid=pyramid, norm=norm, with_weights=with_weights
        )
        self.decoder = DECODERS[head](self.features, **options)
        self.auxiliary, self.auxiliary_level = auxiliary, auxiliary_level
        self.head = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(self.decoder.out_channels, num_classes, 1))
        self.second = None
        if auxiliary:
            self.second = nn.Sequential(
                nn.Conv2d(self.features.channels[auxiliary_level], 256, 3, padding=1, bias=False),
                nn.BatchNorm2d(256),
                nn.ReLU(inplace=True),
                nn.Dropout2d(dropout),
                nn.Conv2d(256, num_classes, 1),
            )

    def forward(self, images: Tensor) -> Any:
        maps = self.features(images)
        logits = self.head(self.decoder([images, images[:, :0], *maps]))  # a decoder may want the size of the first
        if self.second is None or not self.training:
            return logits
        return logits, self.second(maps[self.auxiliary_level])


class SegmentationMetric:
    """mIoU, mAcc and aAcc, from a confusion matrix that adds up exactly over processes.

    Attributes:
        state: 'confusion' (classes, classes) int64, rows the true class of a pixel; 'images' () int64.
        records: values gathered from processes instead of summed; empty.

    >>> metric = SegmentationMetric(['sky', 'sea'])
    >>> metric.update([torch.tensor([[0, 1, 1, 1]])], [{'mask': torch.tensor([[0, 0, 1, 255]])}])
    >>> {name: round(value, 1) for name, value in metric.compute().items()}
    {'mIoU': 50.0, 'mAcc': 75.0, 'aAcc': 66.7, 'images': 1}
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes, n = list(classes), len(classes)
        self.records: list[Any] = []
        self.state = {
            'confusion': torch.zeros(n, n, dtype=torch.int64),
            'images': torch.zeros((), dtype=torch.int64),
        }

    def update(self, outputs: Sequence[Tensor], targets: Sequence[dict[str, Any]]) -> None:
        """Adds images: predicted classes (H, W) int, and targets with ``mask`` (H, W), 255 where it does not count."""
        n = len(self.classes)
        for output, target in zip(outputs, targets, strict=True):
            truth = target['mask'].long()
            counted = truth != IGNORED
            pairs = torch.bincount(truth[counted] * n + output.long()[counted], minlength=n * n)
            self.state['confusion'] += pairs.view(n, n)
            self.state['images'] += 1

    def compute(self) -> dict[str, float]:
        """``mIoU`` and ``mAcc``, means over classes that occur, ``aAcc`` over all pixels, in percent; ``images``."""
        confusion = self.state['confusion'].double()
        hits = confusion.diagonal()
        means = {'mIoU': self._iou().nanmean(), 'mAcc': 100 * (hits / confusion.sum(1)).nanmean()}
        means['aAcc'] = 100 * hits.sum() / confusion.sum()
        return {**{name: float(value) for name, value in means.items()}, 'images': int(self.state['images'])}

    def _iou(self) -> Tensor:
        """Of each class in percent; NaN for one that neither occurs nor is predicted."""
        confusion = self.state['confusion'].double()
        hits = confusion.diagonal()
        return 100 * hits / (confusion.sum(0) + confusion.sum(1) - hits)

    def summary(self) -> dict[str, Any]:
        """All figures, for a JSON file."""
        per_class = dict(zip(self.classes, self._iou().tolist()))
        return {**self.compute(), 'per_class': per_class, 'confusion': self.state['confusion'].tolist()}

    def table(self) -> str:
        """The field's usual table."""
        result, confusion = self.compute(), self.state['confusion'].double()
        accuracy = 100 * confusion.diagonal() / confusion.sum(1)
        width = max(7, *(min(len(name), 30) for name in self.classes))
        lines = [f'aAcc {result["aAcc"]:.2f} %   mIoU {result["mIoU"]:.2f} %   mAcc {result["mAcc"]:.2f} %']
        lines.append(f'{"class":<{width}} {"IoU":>7} {"Acc":>7}')
        rows = zip(self.classes, self._iou().tolist(), accuracy.tolist())
        return '\n'.join(lines + [f'{name[:30]:<{width}} {iou:>7.2f} {acc:>7.2f}' for name, iou, acc in rows])


class SegmentationTask(DenseTask):
    """A class for every pixel of an image.

    Args:
        model: the network.
        classes: names of the classes.
        resize: (short side, most of the long side) in pixels that evaluation brings an image to; None: as it is.
        window: (height, width) in pixels of a sliding window; None for the whole image at once.
        stride: stride of the window in pixels; None for two thirds of its size.
        scales: factors on the size whose predictions are averaged.
        flip: average with the mirrored image's prediction, too.
        dice: weight of the Dice loss (of arXiv:1606.04797, sums in place of sums of squares) beside the
            cross-entropy, for thin or rare things.
    """

    name = 'segmentation'
    best = 'mIoU'
    heads = DECODERS
    network = Segmenter

    def __init__(
        self,
        model: Segmenter,
        classes: Sequence[str],
        *,
        resize: Size = None,
        window: Size = None,
        stride: Size = None,
        scales: Annotated[Sequence[float], several(number(above=0))] = (1.0,),
        flip: Annotated[bool, flag()] = False,
        dice: Annotated[float, number(0)] = 0.0,
    ) -> None:
        super().__init__(model, classes)
        self.resize, self.window, self.scales, self.flip, self.dice = resize, window, scales, flip, dice
        self.stride = stride or (window and [max(1, side * 2 // 3) for side in window])
        if stride and not (window and all(0 < step <= side for step, side in zip(stride, window))):
            expected = f'from 1 to the window, {tuple(window)}' if window else 'None without task.window'
            raise bad_argument('task.stride', expected, tuple(stride))
        if resize and resize[0] > resize[1]:
            raise bad_argument('task.resize', '(short side, most of the long side)', tuple(resize))

    def check_together(self, config: Config, transform: Any) -> None:
        options = self.options(config)
        batch, window, resize = config.data.batch_size, options['window'], options['resize']
        together = options['norm'] == 'sync' and torch.cuda.is_available()  # batch norms of all processes
        normalised = batch * (int(os.environ.get('WORLD_SIZE', 1)) if together else 1)
        if options['head'] == 'upernet' and normalised < 2:
            expected = 'at least 2 for UPerNet, which normalises pooled maps of one pixel'
            raise bad_argument('data.batch_size', expected, batch)
        if options['head'] == 'fpn' and not options['pyramid']:
            raise bad_argument('task.pyramid', "True with head 'fpn', which doubles the size at each level", False)
        augment = transform.options or {}
        low, high = augment.get('scale', (1, 1))
        if batch > 1 and not augment.get('crop') and (low < high or not DATASETS[self.name][config.data.name].one_size):
            expected, hint = '1 without augment.crop, for images of different sizes', 'set augment.crop=(HEIGHT, WIDTH)'
            raise bad_argument('data.batch_size', expected, batch, hint)
        if options['auxiliary_level'] != 2 and not options['auxiliary']:
            raise bad_argument('task.auxiliary_level', '2 without task.auxiliary', options['auxiliary_level'])
        if fixed := self.model.features.fixed_size:
            hint = f'{config.model.name!r} takes {fixed} alone: set model.img_size'
            for name, size in (('task.window', window), ('augment.crop', augment.get('crop'))):
                if size and any(side > limit for side, limit in zip(size, fixed)):
                    raise bad_argument(name, f'at most {fixed}', tuple(size), hint)
            largest = [side * max(options['scales']) for side in resize or ()]
            if resize and not window and (largest[0] > min(fixed) or largest[1] > max(fixed)):
                times = f' times {max(options["scales"])}, of task.scales' * (max(options['scales']) != 1)
                raise bad_argument(
                    'task.resize', f'at most {fixed}', f'{tuple(resize)}{times}', f'{hint} or task.window'
                )

    def forward(self, images: Sequence[Tensor], targets: Any = None, mode: str = 'predict') -> Any:
        """``{'loss_pixels': ()}`` in mode 'loss', classes (H, W) uint8 of each image in mode 'predict'.

        In mode 'loss' the images (C, H, W) in 0..1 are all of one size, and targets have a ``mask`` (H, W).
        """
        if mode == 'predict':
            return [self.probabilities(image).argmax(0).to(torch.uint8) for image in images]
        assert targets is not None
        batch, truth = torch.stack(list(images)), torch.stack([target['mask'] for target in targets]).long()
        logits, *second = self._at_pixels(normalize(batch, self.model.features.mean, self.model.features.std))
        losses = {'loss_pixels': _cross_entropy(logits, truth)}
        if self.dice:
            losses['loss_dice'] = self.dice * _dice(logits, truth)
        if second:
            losses['loss_auxiliary'] = self.model.auxiliary * _cross_entropy(second[0], truth)
        return losses

    def probabilities(self, image: Tensor) -> Tensor:
        """(classes, H, W) for the pixels of an image (C, H, W) in 0..1, averaged over scales and flips."""
        height, width = image.shape[1:]
        factor = 1.0
        if self.resize:
            factor = min(self.resize[0] / min(height, width), self.resize[1] / max(height, width))
        total = torch.zeros(())
        for scale in self.scales:
            size = [max(1, round(side * factor * scale)) for side in (height, width)]
            batch = normalize(image[None], self.model.features.mean, self.model.features.std)
            if size != [height, width]:
                batch = F.interpolate(batch, size, mode='bilinear', antialias=True)
            for mirrored in (False, True)[: 1 + self.flip]:
                logits = self._logits(batch.flip(3) if mirrored else batch)
                logits = F.interpolate(logits.flip(3) if mirrored else logits, (height, width), mode='bilinear')
                total = total.to(logits.device) + logits[0].softmax(0)
        return total / (len(self.scales) * (1 + self.flip))

    def _logits(self, batch: Tensor) -> Tensor:
        """(1, C, H, W) normalised -> (1, classes, H, W), whole or in windows whose overlaps are averaged."""
        if self.window is None:
            return self._at_pixels(batch)[0]
        assert self.stride is not None
        tops, lefts = (
            sorted({min(i * step, max(0, side - of)) for i in range(math.ceil(max(0, side - of) / step) + 1)})
            for side, of, step in zip(batch.shape[2:], self.window, self.stride)
        )
        total, count = torch.zeros(()), torch.zeros((1, 1, *batch.shape[2:]), device=batch.device)
        for top, left in product(tops, lefts):
            place = (..., slice(top, top + self.window[0]), slice(left, left + self.window[1]))
            logits = self._at_pixels(batch[place])[0]
            if total.ndim == 0:
                total = torch.zeros((1, logits.shape[1], *batch.shape[2:]), device=batch.device)
            total[place] += logits
            count[place] += 1
        return total / count

    def _at_pixels(self, batch: Tensor) -> list[Tensor]:
        """(B, C, H, W) normalised -> the logits (B, classes, H, W) of each head."""
        padded, (height, width) = pad(batch, self.model.features.fixed_size), batch.shape[2:]
        outputs = self.model(padded)
        maps = outputs if isinstance(outputs, tuple) else (outputs,)
        logits = (F.interpolate(map_.float(), padded.shape[2:], mode='bilinear') for map_ in maps)
        return [of_head[..., :height, :width] for of_head in logits]

    def metric(self) -> SegmentationMetric:
        return SegmentationMetric(self.classes)


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """The mean over the pixels that count; 0 without any."""
    total = F.cross_entropy(logits, truth, ignore_index=IGNORED, reduction='sum')
    return total / (truth != IGNORED).sum().clamp(1)


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    """One less the mean overlap of the classes that the batch has, over the pixels that count."""
    counted = truth != IGNORED
    probabilities = logits.softmax(1).movedim(1, -1)[counted]  # (pixels, classes)
    wanted = F.one_hot(truth[counted], logits.shape[1])
    overlap = 2 * (probabilities * wanted).sum(0) / (probabilities + wanted).sum(0).clamp(1e-6)
    present = wanted.any(0)
    return ((1 - overlap) * present).sum() / present.sum().clamp(1)
