"""Labels for image files: from a checkpoint of our training, an official file, or published weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
from torch import Tensor, nn

from vimamba.checkpoint import FORMAT, load_checkpoint, load_weights, model_weights, written_by
from vimamba.data import BrokenImage, create_transform, read_image
from vimamba.errors import UsageError, bad_argument, unknown_name

from .classification import ClassificationTask
from .models import build_model, fitted_weights

__all__ = ['Classifier', 'Prediction', 'load_classifier', 'predict', 'table']


class Classifier(NamedTuple):
    """A model with what is needed to ask it."""

    name: str
    model: nn.Module  # images (B, C, H, W) -> logits (B, classes)
    classes: list[str]
    transform: Callable[[Image.Image], Tensor]
    data: dict[str, Any]  # what the transform does: input_size (C, H, W), mean, std, interpolation, crop_pct


class Prediction(NamedTuple):
    """The likeliest classes of one image, first the likeliest."""

    path: str
    classes: list[str]
    indices: list[int]
    scores: list[float]  # probabilities

    def as_json(self) -> dict[str, Any]:
        """What ``tools/predict.py --json`` writes of it."""
        keys = ('class', 'index', 'score')
        rows = zip(self.classes, self.indices, self.scores)
        return {'path': self.path, 'predictions': [dict(zip(keys, row)) for row in rows]}


def load_classifier(name: str | None = None, checkpoint: str | Path | None = None) -> Classifier:
    """A classifier in evaluation mode on the CPU; its weights are never random.

    Args:
        name: a timm model; may be left out where the checkpoint is one of our training.
        checkpoint: of our training, which says the model, the image size and the class names; or an official file of
            the model's weights. None for the weights published for ``name``.

    Raises:
        UsageError: neither says which weights, they do not fit, or there is no such model or file.
    """
    state = load_checkpoint(checkpoint) if checkpoint else {}
    if checkpoint and state.get('format') == FORMAT:
        return _of_our_training(name, state, checkpoint)
    if name is None:
        what = f'{checkpoint} does not say which model it is of' if checkpoint else 'no model given'
        raise UsageError(f'{what}: add --model NAME' + ('' if checkpoint else ', --checkpoint FILE, or both'))
    if not timm.is_model(name.split('.')[0]):
        raise unknown_name('model', name, timm.list_models())
    model = _with_weights_of(name, state, checkpoint) if checkpoint else _published(name)
    if not model.num_classes:
        raise UsageError(f'{name} has no classifier: choose a model that was trained to classify')
    subset = infer_imagenet_subset({'num_classes': model.num_classes})
    info = ImageNetInfo(subset) if subset else None
    classes = [info.index_to_description(i) if info else str(i) for i in range(int(model.num_classes))]
    data = resolve_model_data_config(model)
    return Classifier(name, model.eval(), classes, create_transform(training=False, **data), data)


def predict(
    classifier: Classifier,
    paths: Sequence[str],
    *,
    topk: int = 5,
    batch_size: int = 32,
    device: torch.device | str = 'cpu',
) -> Iterator[Prediction | BrokenImage]:
    """The ``topk`` likeliest classes of each image, in the order of ``paths``; an unreadable one gives its error.

    Raises:
        UsageError: the model's output is not finite.
    """
    if topk < 1 or batch_size < 1:
        raise bad_argument('topk, batch_size', 'positive integers', (topk, batch_size))
    model = classifier.model.to(device)
    for first in range(0, len(paths), batch_size):
        read: list[tuple[str, Tensor | BrokenImage]] = []
        for path in paths[first : first + batch_size]:
            try:
                read.append((path, classifier.transform(read_image(path))))
            except BrokenImage as error:
                read.append((path, error))
        images = [image for _, image in read if isinstance(image, Tensor)]
        rows: Iterator[tuple[list[float], list[int]]] = iter(())
        if images:
            with torch.inference_mode():
                probabilities = model(torch.stack(images).to(device)).float().softmax(1).cpu()
            if not probabilities.isfinite().all():
                raise UsageError(f'{classifier.name} gives numbers that are not finite: its weights are damaged')
            top = probabilities.topk(min(topk, len(classifier.classes)))
            rows = zip(top.values.tolist(), top.indices.tolist())
        for path, image in read:
            if isinstance(image, BrokenImage):
                yield image
            else:
                scores, indices = next(rows)
                yield Prediction(path, [classifier.classes[i] for i in indices], indices, scores)


def _of_our_training(name: str | None, state: dict[str, Any], path: str | Path) -> Classifier:
    author = written_by(state)
    if name not in (None, author):
        raise UsageError(f'{path}: written by {author!r}, not {name!r}: leave --model out')
    config, classes = state['config'], list(state['classes'])
    settings = SimpleNamespace(
        model=SimpleNamespace(**config['model']), data=SimpleNamespace(**config['data']), at=lambda key: ''
    )
    try:
        model = build_model(settings, len(classes), with_weights=False)
        data = ClassificationTask.preprocessing(settings)._asdict()
        transform = create_transform(training=False, **data)
    except (AttributeError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f'{path}: its model cannot be built as the file says ({reason}); use another copy') from error
    load_weights(model, model_weights(state, path), path, author, author)
    return Classifier(author, model.eval(), classes, transform, data)


def _with_weights_of(name: str, state: dict[str, Any], path: str | Path) -> nn.Module:
    """The model with the weights of an official file, and as many classes as that has."""
    model = timm.create_model(name)
    weights = fitted_weights(model, state, path)
    head = model.pretrained_cfg.get('classifier')
    bias = weights.get(f'{head}.bias')
    if bias is not None and len(bias) != model.num_classes:
        model.reset_classifier(len(bias))  # type: ignore[operator]
    load_weights(model, weights, path, name)
    return model


def _published(name: str) -> nn.Module:
    published = timm.get_pretrained_cfg(name)
    if not published or not published.has_weights:
        raise UsageError(f'{name} has no published weights: give --checkpoint FILE')
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the network, a proxy or the hub answers
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(
            f'{name}: its published weights cannot be loaded ({reason}): check the network, or give --checkpoint FILE'
        ) from error


def table(predictions: Sequence[Prediction]) -> str:
    """The predictions as aligned text, the path beside the likeliest class of each image."""
    width = max(len('image'), *(len(p.path) for p in predictions))
    lines = [f'{"image":<{width}}  {"score":>7}  class']
    for p in predictions:
        for first, (name, score) in enumerate(zip(p.classes, p.scores)):
            lines.append(f'{"" if first else p.path:<{width}}  {score:>7.2%}  {name}')
    return '\n'.join(lines)
