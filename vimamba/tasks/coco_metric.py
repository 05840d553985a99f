"""COCO's average precision of boxes and masks, by the ecosystem's evaluator."""

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vimamba.errors import UsageError

__all__ = ['CocoMetric', 'run_lengths']

_NAMES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')  # as COCO's evaluator orders them


class CocoMetric:
    """AP over IoU 0.50 to 0.95, at 0.50, at 0.75, and of small, medium and large objects, in percent.

    A crowd (``iscrowd`` 1) is neither missed nor a false positive, as in COCO.

    Args:
        classes: names of the classes.

    Attributes:
        state: nothing that could be summed over processes.
        records: for each image its number, size, truth and detections, which processes put together.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.state: dict[str, Tensor] = {}
        self.records: list[tuple[int, tuple[int, ...], list[dict[str, Any]], list[dict[str, Any]]]] = []
        self._evaluated: dict[str, Any] = {}
        self.kinds = {'': 'bbox'}  # prefix of the figures -> what the evaluator calls it

    def update(self, outputs: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Any]]) -> None:
        """Adds images: the outputs of a `vimamba.tasks.detection.Detector`, and the targets of the data set."""
        self._evaluated.clear()
        for output, target in zip(outputs, targets, strict=True):
            if 'masks' in output:
                self.kinds['mask_'] = 'segm'
            crowd = {'iscrowd': target['iscrowd'].tolist(), 'area': target['area'].tolist()}
            found = _objects(output, score=output['scores'].tolist())
            size = tuple(output['masks'].shape[1:]) if 'masks' in output else (0, 0)  # which boxes do not need
            self.records.append((int(target['image_id']), size, _objects(target, **crowd), found))

    def compute(self) -> dict[str, float]:
        """The six averages of boxes, those of masks as ``mask_AP`` and so on, and ``images``."""
        result: dict[str, float] = {}
        for prefix, kind in self.kinds.items():
            stats = self._evaluator(kind).stats[:6]
            result |= {prefix + name: 100 * float(value) for name, value in zip(_NAMES, stats)}
        figures = {name: math.nan if value < 0 else value for name, value in result.items()}  # -1: nothing to find
        return {**figures, 'images': len(self.records)}

    def per_class(self) -> dict[str, list[float]]:
        """AP of boxes, and of masks where there are any, of each class in percent; NaN for a class without objects."""
        result = {}
        for prefix, kind in self.kinds.items():
            precision = self._evaluator(kind).eval['precision'][..., 0, -1].transpose(2, 0, 1)  # (class, IoU, recall)
            found = (of[of > -1] for of in precision)
            result[prefix + 'AP'] = [100 * float(of.mean()) if of.size else math.nan for of in found]
        return result

    def _evaluator(self, kind: str) -> Any:
        if kind in self._evaluated:
            return self._evaluated[kind]
        try:
            from faster_coco_eval import COCO, COCOeval_faster
        except ImportError as error:
            raise UsageError(f'COCO metrics need faster-coco-eval ({error}): pip install vimamba[det]') from None
        ordered = sorted(self.records, key=lambda record: record[0])  # the same in any order of processes
        records = [(number, *record[1:]) for number, record in enumerate(ordered)]  # not their ids: it keeps doubles
        truth: dict[str, Any] = {
            'images': [{'id': number, 'height': size[0], 'width': size[1]} for number, size, _, _ in records],
            'categories': [{'id': i, 'name': name} for i, name in enumerate(self.classes)],
            'annotations': [{**o, 'image_id': number} for number, _, objects, _ in records for o in objects],
        }
        for i, annotation in enumerate(truth['annotations']):
            annotation['id'] = i + 1  # 0 means none to the evaluator
        found = [{**o, 'image_id': number} for number, _, _, objects in records for o in objects]
        if kind == 'segm':  # the size of a found object is that of its mask, as the evaluator takes it without a box
            found = [{key: value for key, value in o.items() if key != 'bbox'} for o in found]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a table
            gt = COCO(truth)
            dt = gt.loadRes(found)
            evaluator = COCOeval_faster(gt, dt, kind, print_function=lambda *args: None)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        self._evaluated[kind] = evaluator
        return evaluator

    def summary(self) -> dict[str, Any]:
        """All figures, for a JSON file."""
        per_class = {name: dict(zip(self.classes, values)) for name, values in self.per_class().items()}
        return {**self.compute(), 'per_class': per_class}

    def table(self) -> str:
        """The field's usual table, and one of the classes."""
        figures, per_class = self.compute(), self.per_class()
        lines = [f'{"":<6}' + ''.join(f'{name:>8}' for name in _NAMES)]
        for prefix in self.kinds:
            label = prefix.rstrip('_') or 'box'
            lines.append(f'{label:<6}' + ''.join(f'{figures[prefix + name]:>8.2f}' for name in _NAMES))
        width = max(5, *(min(len(name), 30) for name in self.classes))
        lines.append(f'{"class":<{width}}' + ''.join(f'{name:>9}' for name in per_class))
        for i, name in enumerate(self.classes):
            lines.append(f'{name[:30]:<{width}}' + ''.join(f'{values[i]:>9.2f}' for values in per_class.values()))
        return '\n'.join(lines)


def _objects(arrays: dict[str, Any], **more: list[Any]) -> list[dict[str, Any]]:
    """One dictionary an object, in COCO's form, from boxes (N, 4), labels (N,) and maybe masks (N, H, W)."""
    boxes = torch.as_tensor(arrays['boxes']).double().reshape(-1, 4)
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)  # left, top, width, height
    columns: dict[str, list[Any]] = {'bbox': boxes.tolist(), 'category_id': arrays['labels'].tolist(), **more}
    if 'masks' in arrays:
        columns['segmentation'] = run_lengths(torch.as_tensor(arrays['masks']))
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's code of each mask (N, H, W): its size and its runs as bytes."""
    from faster_coco_eval.core import mask as coding

    return [coding.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in masks]
