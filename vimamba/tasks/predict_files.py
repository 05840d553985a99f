"""What a checkpoint says of files, whatever it was trained to do with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vimamba.checkpoint import load_checkpoint, written_by
from vimamba.data import BrokenImage, find_images
from vimamba.data.video import find_videos
from vimamba.errors import UsageError

from . import predict, predict_dense

__all__ = ['Answers', 'predict_files']


class Answers(NamedTuple):
    """Of some files."""

    task: str  # 'classification', 'video', 'detection' or 'segmentation'
    name: str  # of the model
    found: list[Any]  # `predict.Prediction` or `predict_dense.DensePrediction`
    broken: list[BrokenImage]
    what: str  # 'image' or 'video'

    @property
    def labels(self) -> bool:
        """Whether files have classes, instead of objects or maps in them."""
        return self.task in ('classification', 'video')

    def as_json(self) -> dict[str, Any]:
        """What ``tools/predict.py --json`` writes besides the model."""
        broken = [{'path': error.path, 'reason': error.reason} for error in self.broken]
        return {f'{self.what}s': [result.as_json() for result in self.found], 'broken': broken}

    def table(self) -> str:
        if self.labels:
            return predict.table(self.found, self.what)
        return predict_dense.table([result.as_json() for result in self.found])


def predict_files(
    files: Sequence[str],
    name: str | None = None,
    checkpoint: str | Path | None = None,
    *,
    topk: int = 5,
    views: tuple[int, int] | None = None,
    threshold: float = 0.5,
    batch_size: int | None = None,
    device: torch.device | str = 'cpu',
) -> Answers:
    """Labels, objects or maps of images, or labels of videos.

    Args:
        files: or folders, which are searched for what the model takes.
        name, checkpoint: as of `predict.load_classifier`.
        topk, batch_size: as of `predict.predict`.
        views: (in time, in space) of a video, as of `predict.Classifier.with_views`.
        threshold: the least score of an object.
        device: where the model runs.

    Raises:
        UsageError: a file that does not exist, no such model, or weights that do not fit.
    """
    state = load_checkpoint(checkpoint) if checkpoint else {}
    task, what = predict_dense.task_of(state), 'image'
    if task in ('classification', 'video'):
        classifier = predict.load_classifier(name, checkpoint)
        classifier = classifier.with_views(*views) if views else classifier
        what = 'image' if classifier.views is None else 'video'
        paths = (find_images if what == 'image' else find_videos)(files)
        name, options = classifier.name, {'topk': topk, 'batch_size': batch_size, 'device': device}
        results = list[Any](predict.predict(classifier, paths, **options))
    else:
        author = written_by(state)
        if name not in (None, author):
            raise UsageError(f'{checkpoint}: written by {author!r}, not {name!r}: leave --model out')
        if views:
            raise UsageError(f'{checkpoint}: a checkpoint of {task}, of which there are no views: leave --views out')
        dense, paths = predict_dense.load_dense(state, str(checkpoint)), find_images(files)
        name, results = author, list(predict_dense.predict_dense(dense, paths, device, threshold))
    found = [result for result in results if not isinstance(result, BrokenImage)]
    return Answers(task, str(name), found, [result for result in results if isinstance(result, BrokenImage)], what)
