"""Boxes, masks and maps for image files, from a checkpoint of our training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vimamba.checkpoint import FORMAT, load_weights, model_weights, written_by
from vimamba.data import BrokenImage, DenseTransform, read_image
from vimamba.data.objects import MAX_ASPECT
from vimamba.errors import UsageError, bad_argument

from .dense import DenseTask
from .detection import DetectionTask
from .segmentation import SegmentationTask

__all__ = ['DensePrediction', 'load_dense', 'predict_dense', 'table', 'task_of']

_TASKS: dict[str, type[DenseTask]] = {'detection': DetectionTask, 'segmentation': SegmentationTask}


class DensePrediction(NamedTuple):
    """What a model says of one image."""

    path: str
    image: Tensor  # (C, H, W) in 0..1, upright
    output: Any  # of a detector, or a map (H, W) uint8 of classes
    classes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The objects with their boxes (left, top, right, bottom) in pixels, or the share of pixels of each class."""
        output = self.output
        if isinstance(output, dict):
            rows = zip(output['labels'].tolist(), output['scores'].tolist(), output['boxes'].tolist())
            objects = [{'class': self.classes[label], 'score': score, 'box': box} for label, score, box in rows]
            return {'path': self.path, 'objects': objects}
        counts = np.bincount(output.numpy().ravel(), minlength=len(self.classes)) / output.numel()
        return {'path': self.path, 'shares': {self.classes[i]: float(counts[i]) for i in np.flatnonzero(counts)}}


def task_of(state: dict[str, Any]) -> str:
    """What a checkpoint of our training was trained for; 'classification' for any other file."""
    section = state['config'].get('task', {}) if state.get('format') == FORMAT else {}
    return section.get('name', 'classification')


def load_dense(state: dict[str, Any], path: str | Path) -> Any:
    """The task of a checkpoint of our training, in evaluation mode, with the weights that were evaluated.

    Raises:
        UsageError: the file does not say a model that can be built, or its weights do not fit.
    """
    config = {name: SimpleNamespace(**section) for name, section in state['config'].items()}
    settings = SimpleNamespace(**config, at=lambda key: '')
    if task_of(state) not in _TASKS:
        raise UsageError(
            f'{path}: a model of the task {task_of(state)!r} reads no images; evaluate it with tools/test.py'
        )
    try:
        task = _TASKS[task_of(state)].build(settings, list(state['classes']), with_weights=False)
    except (AttributeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f'{path}: its model cannot be built as the file says ({reason}); use another copy') from error
    author = written_by(state)
    load_weights(task.model, model_weights(state, path), path, author, author)
    task.channels = settings.model.in_chans
    return task.eval()


def predict_dense(
    task: Any, paths: Sequence[str], device: torch.device | str = 'cpu', threshold: float = 0.5
) -> Iterator[DensePrediction | BrokenImage]:
    """What the task's model says of each image, in the order of ``paths``; an unreadable one gives its error.

    Boxes of a score below ``threshold`` are left out; an image that the model does not take gives its error, too.

    Raises:
        UsageError: a threshold that is no score.
    """
    if not 0 <= threshold <= 1:  # NaN is neither
        raise bad_argument('--threshold', 'a score in 0..1', threshold)
    task.to(device)
    transform = DenseTransform(task.channels)
    for path in paths:
        try:
            image, _ = transform(read_image(path, max_aspect=MAX_ASPECT), {})
            with torch.inference_mode():
                (output,) = task([image.to(device)])
        except UsageError as error:  # too large for a backbone of one size, say
            yield error if isinstance(error, BrokenImage) else BrokenImage(path, str(error))
            continue
        if isinstance(output, dict):
            keep = output['scores'] >= threshold
            output = {key: value[keep].cpu() for key, value in output.items()}
        yield DensePrediction(path, image, output if isinstance(output, dict) else output.cpu(), task.classes)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """What `DensePrediction.as_json` gives, as text: objects, or classes by their share of the pixels."""
    lines = []
    for row in rows:
        if 'objects' in row:
            lines.append(f'{row["path"]}: {len(row["objects"])} objects')
            for o in row['objects']:
                lines.append(f'  {o["score"]:>6.1%}  {o["class"]:<20}  ' + ' '.join(f'{edge:.1f}' for edge in o['box']))
        else:
            lines.append(row['path'])
            shares = sorted(row['shares'].items(), key=lambda item: -item[1])
            lines += [f'  {share:>6.1%}  {name}' for name, share in shares]
    return '\n'.join(lines)
