"""Runs a trained model on files."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from vimamba.checkpoint import load_checkpoint
from vimamba.data import BrokenImage, find_images
from vimamba.data.files import find_files
from vimamba.data.video_decode import VIDEO_EXTENSIONS
from vimamba.errors import UsageError
from vimamba.outputs import whole_file

from . import classify
from . import dense as dense_prediction

__all__ = ['SHOWN', 'Answers', 'predict_files']

SHOWN = 48  # files that a picture shows


class Answers(NamedTuple):
    """The predictions for some files."""

    task: str  # 'classification', 'video', 'detection' or 'segmentation'
    name: str  # of the model
    found: list[Any]  # `classify.Prediction` or `dense.DensePrediction`, the first `SHOWN` with pixels
    broken: list[BrokenImage]
    what: str  # 'image' or 'video'
    classes: list[str]

    @property
    def labels(self) -> bool:
        """Whether files have classes, instead of objects or maps in them."""
        return self.task in classify.LABELS

    def as_json(self) -> dict[str, Any]:
        """The results as ``tools/predict.py --json`` writes them, without the model."""
        broken = [{'path': error.path, 'reason': error.reason} for error in self.broken]
        return {f'{self.what}s': [result.as_json() for result in self.found], 'broken': broken}

    def table(self) -> str:
        if self.labels:
            return classify.table(self.found, self.what)
        return dense_prediction.table([result.as_json() for result in self.found])


def predict_files(
    files: Sequence[str],
    name: str | None = None,
    checkpoint: str | Path | None = None,
    *,
    topk: int | None = None,
    views: tuple[int, int] | None = None,
    threshold: float | None = None,
    batch_size: int | None = None,
    device: torch.device | str = 'cpu',
    maps: str | Path | None = None,
) -> Answers:
    """Predicts labels, objects or maps of images, or labels of videos.

    Args:
        files: files, or folders that are searched for images or videos.
        name, checkpoint: as in `load_classifier`.
        topk, batch_size: as in `predict`; None for its default.
        views: (clips, crops) of a video, as in `Classifier.with_views`.
        threshold: minimum score of an object; None for 0.5.
        maps: folder for the class map of each image, NAME.png.

    Raises:
        UsageError: a missing file or model, weights that do not fit, an option of another task, or maps of two images
            with one name.
    """
    state = load_checkpoint(checkpoint) if checkpoint else {}
    task, what = dense_prediction.task_of(state), 'image'
    for option, value, tasks, reason in (
        ('--maps', maps, ('segmentation',), 'makes no maps'),
        ('--threshold', threshold, ('detection',), 'finds no boxes'),
        ('--topk', topk, classify.LABELS, 'gives a file no classes'),
        ('--batch-size', batch_size, classify.LABELS, 'takes one image at a time'),
        ('--views', views, classify.LABELS, 'has no views'),
    ):
        if value is not None and task not in tasks:
            raise UsageError(f'{checkpoint or name}: a model of {task}, which {reason}: leave {option} out')
    files_of_maps: dict[str, Path] = {}
    if task in classify.LABELS:
        classifier = classify.load_classifier(name, checkpoint, state)
        classifier = classifier.with_views(*views) if views else classifier
        what = 'image' if classifier.views is None else 'video'
        paths = find_images(files) if what == 'image' else find_files(files, VIDEO_EXTENSIONS, 'videos')
        name, classes = classifier.name, classifier.classes
        counts = {'topk': topk, 'batch_size': batch_size}
        counts = {option: count for option, count in counts.items() if count is not None}
        results: Iterator[Any] = classify.predict(classifier, paths, device=device, **counts)
    else:
        name, config, model = dense_prediction.restore(state, str(checkpoint), ('detection', 'segmentation'), name)
        classes, paths, threshold = model.classes, find_images(files), 0.5 if threshold is None else threshold
        results = dense_prediction.predict_dense(model, config.model.in_chans, paths, device, threshold)
        files_of_maps = _files_of_maps(maps, paths) if maps else {}
    found, broken = list[Any](), list[BrokenImage]()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # such a file is refused, in one line
        for result in results:
            if isinstance(result, BrokenImage):
                broken.append(result)
                continue
            if result.path in files_of_maps:
                with whole_file(files_of_maps[result.path]) as part:
                    Image.fromarray(result.output.numpy()).save(part)
            if isinstance(result, dense_prediction.DensePrediction) and len(found) >= SHOWN:
                result = result._replace(image=None, output=None)
            found.append(result)
    return Answers(task, str(name), found, broken, what, classes)


def _files_of_maps(folder: str | Path, paths: Sequence[str]) -> dict[str, Path]:
    """The file for the map of each image."""
    files = {path: Path(folder, Path(path).stem + '.png') for path in paths}
    given, of_file = {Path(path).resolve() for path in paths}, dict[Path, str]()
    for path, file in files.items():
        if (other := of_file.setdefault(file, path)) != path:
            raise UsageError(f'--maps: {other} and {path} would both be {file}: give them in two calls, to two folders')
        if file.resolve() in given:
            raise UsageError(f'--maps: {file} is an image to be read: choose another folder')
    return files
