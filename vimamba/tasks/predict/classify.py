"""Labels for image and video files: from a checkpoint of our training, an official file, or published weights."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from vimamba.checkpoint import FORMAT, load_checkpoint, load_weights
from vimamba.data import BrokenImage, create_transform, read_image
from vimamba.data.clip_transforms import ClipTransform
from vimamba.data.video_datasets import Clips
from vimamba.data.video_decode import VIDEO_EXTENSIONS
from vimamba.errors import UsageError, bad_argument, check_integers, first_line, unknown_name
from vimamba.models import filter_weights, input_shape
from vimamba.tasks import VideoTask

from .dense import restore

__all__ = ['LABELS', 'Classifier', 'Prediction', 'load_classifier', 'predict', 'table']

LABELS = ('classification', 'video')  # tasks that give a file a class
_VIEWS = ('sampling', 'frame_interval', 'num_clips', 'time')  # keys of ``data`` that are arguments of `Clips`


class Classifier(NamedTuple):
    """A model with its classes and its preprocessing."""

    name: str
    model: nn.Module  # images (B, C, H, W) or clips (B, C, T, H, W) -> logits (B, classes)
    classes: list[str]
    transform: Callable[..., Tensor]  # of an image, or of the frames of a clip
    data: dict[str, Any]  # of the transform: input_size (C, H, W) or (C, T, H, W), mean, std, ...
    views: dict[str, Any] | None = None  # of a video, as arguments of `Clips`; None for a model of images

    def read(self, path: str) -> Tensor:
        """An image (C, H, W), a clip (C, T, H, W), or several views of it (V, C, T, H, W), as the model takes it.

        Raises:
            BrokenImage: the file cannot be read, or the model takes no such files.
        """
        self.check_kind(path)
        if self.views is None:
            return self.transform(read_image(path))
        return Clips([path], [0], self.classes, 'test', self.transform, **self.views)[0][0]

    def with_views(self, clips: int, crops: int) -> 'Classifier':
        """Changes the views of a video: ``clips`` in time, times 1 or 3 ``crops`` in space."""
        if self.views is None:
            raise UsageError(f'{self.name} labels images, which have no views in time')
        if clips < 1 or crops not in (1, 3):
            raise bad_argument('--views', 'at least 1 clip, and 1 or 3 crops', f'{clips} {crops}')
        return self._replace(transform=_clips(self.data, crops), views={**self.views, 'num_clips': clips})

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities (B, classes), float32 on the CPU. Raises a UsageError if one is not finite."""
        probabilities = logits.float().softmax(1).cpu()
        if not probabilities.isfinite().all():
            raise UsageError(f'{self.name} gives numbers that are not finite: its weights are damaged')
        return probabilities

    def check_kind(self, path: str) -> None:
        """Raises a `BrokenImage` for a video if the model takes images, and for an image if it takes videos."""
        suffix = Path(path).suffix.lower()
        if self.views is None and suffix in VIDEO_EXTENSIONS:
            raise BrokenImage(path, f'a video, but {self.name} labels images')
        if self.views is not None and suffix in IMG_EXTENSIONS:
            raise BrokenImage(path, f'an image, but {self.name} labels videos')


class Prediction(NamedTuple):
    """The likeliest classes of one image or video, the likeliest first."""

    path: str
    classes: list[str]
    indices: list[int]
    scores: list[float]  # probabilities

    def as_json(self) -> dict[str, Any]:
        """The result as ``tools/predict.py --json`` writes it."""
        rows = zip(self.classes, self.indices, self.scores)
        return {'path': self.path, 'predictions': [dict(zip(('class', 'index', 'score'), row)) for row in rows]}


def load_classifier(
    name: str | None = None, checkpoint: str | Path | None = None, state: dict[str, Any] | None = None
) -> Classifier:
    """A classifier in evaluation mode on the CPU; its weights are never random.

    Args:
        name: a timm model; optional with a checkpoint of `vimamba train`.
        checkpoint: a checkpoint of `vimamba train`, which stores the model, the image size and the class names; or an
            official file of weights. None for the weights published for ``name``.
        state: the content of that file, if it is already read.

    A checkpoint of `vimamba train` also stores the views of a video; otherwise there is one.

    Raises:
        UsageError: neither argument determines the weights, they do not fit, or there is no such model or file.
    """
    if state is None:
        state = load_checkpoint(checkpoint) if checkpoint else {}
    if checkpoint and state.get('format') == FORMAT:
        author, config, task = restore(state, checkpoint, LABELS, name)
        return _classifier(author, task.model, task.classes, task.preprocessing._asdict(), config.data.options)
    if name is None:
        what = f'{checkpoint} does not name its model' if checkpoint else 'no model given'
        raise UsageError(f'{what}: add --model NAME' + ('' if checkpoint else ', --checkpoint FILE, or both'))
    if not timm.is_model(name.split('.')[0]):
        raise unknown_name('model', name, timm.list_models())
    model = _with_weights_of(name, state, checkpoint) if checkpoint else _published(name)
    if not model.num_classes:
        raise UsageError(f'{name} has no classifier: choose a model that was trained to classify')
    subset = infer_imagenet_subset({'num_classes': model.num_classes})
    info = ImageNetInfo(subset) if subset else None
    classes = [info.index_to_description(i) if info else str(i) for i in range(int(model.num_classes))]
    data = {**resolve_model_data_config(model), 'input_size': input_shape(model)}
    return _classifier(name, model, classes, data, {})


def predict(
    classifier: Classifier,
    paths: Sequence[str],
    *,
    topk: int = 5,
    batch_size: int = 32,
    device: torch.device | str = 'cpu',
) -> Iterator[Prediction | BrokenImage]:
    """Yields the ``topk`` classes of each file, in the order of ``paths``, or the error of an unreadable file.

    A batch has ``batch_size`` images, or videos with as many frames in all, but at least one. The probabilities of the
    views of a video are averaged.

    Raises:
        UsageError: the output of the model is not finite.
    """
    check_integers(1, topk=topk, batch_size=batch_size)
    model = classifier.model.to(device)
    if (views := classifier.views) is not None:
        model = VideoTask(model, classifier.classes)  # it averages
        frames = views['num_frames'] * views.get('num_clips', 1) * classifier.transform.crops  # type: ignore[attr-defined]
        batch_size = max(1, batch_size // frames)
    for first in range(0, len(paths), batch_size):
        batch = paths[first : first + batch_size]
        images: dict[int, Tensor] = {}
        answers: dict[int, Prediction | BrokenImage] = {}
        for place, path in enumerate(batch):
            try:
                images[place] = classifier.read(path)
            except BrokenImage as error:
                answers[place] = error
        if images:
            with torch.inference_mode():
                probabilities = classifier.probabilities(model(torch.stack([*images.values()]).to(device)))
            top = probabilities.topk(min(topk, len(classifier.classes)))
            for place, indices, scores in zip(images, top.indices.tolist(), top.values.tolist()):
                answers[place] = Prediction(batch[place], [classifier.classes[i] for i in indices], indices, scores)
        yield from (answers[place] for place in range(len(batch)))


def _classifier(
    name: str, model: nn.Module, classes: list[str], data: dict[str, Any], options: dict[str, Any]
) -> Classifier:
    """A classifier; ``options`` are those of the data that the model was trained on."""
    size = data['input_size']
    if len(size) == 3:
        return Classifier(name, model.eval(), classes, create_transform(training=False, **data), data)
    views = {'num_frames': size[1], **{key: options[key] for key in _VIEWS if key in options}}
    return Classifier(name, model.eval(), classes, _clips(data, options.get('num_crops', 1)), data, views)


def _clips(data: dict[str, Any], crops: int) -> ClipTransform:
    size, options = data['input_size'][-2:], {key: data[key] for key in ('mean', 'std', 'interpolation', 'crop_pct')}
    return ClipTransform(size, training=False, crops=crops, **options)


def _with_weights_of(name: str, state: dict[str, Any], path: str | Path) -> nn.Module:
    """The model with the weights, and the number of classes, of an official file."""
    model = timm.create_model(name)
    weights = filter_weights(state, model, path)
    head = model.pretrained_cfg.get('classifier')
    own = model.state_dict()
    for key in (f'{head}.weight', f'{head}.bias'):
        if key in own and key in weights and weights[key].data_ptr() == own[key].data_ptr():  # inflated from images
            raise UsageError(f'{path}: has no classifier for {name}; train one from this file, then label with it')
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
    except Exception as error:  # of the network, a proxy or the hub
        reason = f'its published weights cannot be loaded ({first_line(error)})'
        raise UsageError(f'{name}: {reason}: check the network, or give --checkpoint FILE') from error


def table(predictions: Sequence[Prediction], what: str = 'image') -> str:
    """The predictions as aligned text, with the path beside the top class of each image or video."""
    width = max(len(what), *(len(p.path) for p in predictions))
    lines = [f'{what:<{width}}  {"score":>7}  class']
    for p in predictions:
        for first, (name, score) in enumerate(zip(p.classes, p.scores)):
            lines.append(f'{"" if first else p.path:<{width}}  {score:>7.2%}  {name}')
    return '\n'.join(lines)
