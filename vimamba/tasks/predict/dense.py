"""Boxes, masks and maps of image files, from a checkpoint of `vimamba train`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vimamba.checkpoint import FORMAT, load_weights, model_weights, written_by
from vimamba.config import Config
from vimamba.data import BrokenImage, DenseTransform, read_image
from vimamba.data.box_datasets import MAX_ASPECT
from vimamba.errors import UsageError, first_line, number
from vimamba.tasks import TASKS
from vimamba.tasks.build import OWN
from vimamba.tasks.coco_metric import run_lengths

__all__ = ['DensePrediction', 'predict_dense', 'restore', 'table', 'task_of']


class DensePrediction(NamedTuple):
    """The objects in an image, or the map of its classes."""

    path: str
    said: dict[str, Any]  # the result as ``tools/predict.py --json`` writes it
    image: Tensor | None  # (C, H, W) in 0..1, upright
    output: Any  # detections, or a map (H, W) uint8 of classes

    def as_json(self) -> dict[str, Any]:
        """Objects with boxes (left, top, right, bottom) in pixels and masks as COCO's RLE, or shares of classes."""
        return {'path': self.path, **self.said}


def task_of(state: dict[str, Any]) -> str:
    """The task of a checkpoint of our training; 'classification' for any other file."""
    section = state['config'].get('task', {}) if state.get('format') == FORMAT else {}
    return section.get('name', 'classification')


def restore(
    state: dict[str, Any], path: str | Path, tasks: Sequence[str], name: str | None = None
) -> tuple[str, Config, Any]:
    """The model's name, the configuration and the task, in evaluation mode, of a checkpoint of our training.

    The weights are those that were evaluated. Activation checkpointing is off.

    Raises:
        UsageError: it is not of one of ``tasks`` or of the model ``name``, does not describe a model that can be built,
            or its weights do not fit.
    """
    author, trained = written_by(state), task_of(state)
    if trained not in tasks:
        raise UsageError(f'{path}: a checkpoint of {trained}; expected {" or ".join(tasks)}')
    if name not in (None, author):
        raise UsageError(f'{path}: written by {author!r}, not {name!r}: leave --model out')
    try:
        config = Config.from_dict(state['config'])
        config = replace(config, run=replace(config.run, grad_checkpointing=False))
        task = TASKS[trained].build(config, list(state['classes']), with_weights=False)
        task.transform(config, training=False)  # its arguments are of the file, too
    except (AttributeError, TypeError, ValueError) as error:
        hint = '' if OWN in str(error) else '; use another copy'
        raise UsageError(f'{path}: its model cannot be built as the file says ({first_line(error)}){hint}') from error
    load_weights(task.model, model_weights(state, path), path, author, author)
    return author, config, task.eval()


def predict_dense(
    task: Any, channels: int, paths: Sequence[str], device: torch.device | str = 'cpu', threshold: float = 0.5
) -> Iterator[DensePrediction | BrokenImage]:
    """Yields the prediction for each image, in the order of ``paths``, or the error of an image that cannot be read.

    Images have ``channels``. Boxes of a score below ``threshold`` are left out.

    Raises:
        UsageError: the threshold is not in 0..1.
    """
    number(0, 1)(threshold, '--threshold')
    task.to(device)
    transform = DenseTransform(channels)
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
            said: dict[str, Any] = {'objects': _objects(output, task.classes)}
        else:
            output = output.cpu()
            counts = np.bincount(output.numpy().ravel(), minlength=len(task.classes)) / output.numel()
            said = {'shares': {task.classes[i]: float(counts[i]) for i in np.flatnonzero(counts)}}
        yield DensePrediction(path, said, image, output)


def _objects(output: dict[str, Tensor], classes: Sequence[str]) -> list[dict[str, Any]]:
    columns = {'class': [classes[label] for label in output['labels'].tolist()]}
    columns |= {'score': output['scores'].tolist(), 'box': output['boxes'].tolist()}
    if 'masks' in output:
        columns['mask'] = [{**mask, 'counts': mask['counts'].decode()} for mask in run_lengths(output['masks'])]
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Results of `DensePrediction.as_json` as text: objects, or classes by their share of the pixels."""
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
