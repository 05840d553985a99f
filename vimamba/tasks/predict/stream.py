"""Labels of a video by a causal model, frame by frame, in constant memory."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vimamba.data import BrokenImage
from vimamba.data.video_decode import timed_frames
from vimamba.errors import UsageError, check_integers

from .classify import Classifier

__all__ = ['HEADER', 'StreamPrediction', 'check_causal', 'frame_interval', 'stream']

HEADER = f'{"frames":>7} {"time":>11} {"speed":>10} {"score":>8}  class'


class StreamPrediction(NamedTuple):
    """The top class of the frames so far."""

    frames: int  # of the video so far
    seconds: float  # the time of the last one in the video
    label: str
    index: int
    score: float  # probability
    rate: float  # frames per second since the start, including decoding

    def __str__(self) -> str:
        return f'{self.frames:>7} {self.seconds:>9.2f} s {self.rate:>7.1f} /s {self.score:>8.2%}  {self.label}'

    def as_json(self) -> dict[str, Any]:
        """The result as ``tools/predict.py --stream --json`` writes it."""
        return dict(zip(('frames', 'seconds', 'class', 'index', 'score', 'frames_per_second'), self))


def stream(
    classifier: Classifier,
    path: str,
    every: int = 16,
    device: torch.device | str = 'cpu',
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[StreamPrediction | BrokenImage]:
    """Decodes a file frame by frame and carries the state of a causal model along.

    Frames are `frame_interval` apart. The model sees the crop in the middle.

    Yields:
        The prediction from all frames so far, after ``every`` frames of the video and at its end, or once ``stopped``
        returns True. A broken file gives the predictions from its intact frames, then the error. A file that is too
        short for a patch gives an error.

    Raises:
        UsageError: the model is not causal or was trained on frames in another order, or its scores are not finite.
    """
    model = classifier.model.to(device)
    check_causal(classifier)
    check_integers(1, every=every)
    classifier = classifier.with_views(1, 1)
    interval, patch = frame_interval(classifier), int(model.tubelet_size)  # type: ignore[arg-type]
    waiting: list[np.ndarray] = []
    scores = state = broken = None
    seen, reported, seconds, start = 0, 0, 0.0, time.perf_counter()

    def prediction(seconds: float, scores: Tensor) -> StreamPrediction:
        score, index = map(torch.Tensor.item, classifier.probabilities(scores)[0].max(0))
        rate = seen / (time.perf_counter() - start)
        return StreamPrediction(seen, seconds, classifier.classes[int(index)], int(index), score, rate)

    try:
        classifier.check_kind(path)
        for seconds, frame in timed_frames(path):
            seen += 1
            if (seen - 1) % interval == 0:
                waiting.append(frame)
            if len(waiting) == patch:
                clip = classifier.transform(np.stack(waiting)).unsqueeze(0).to(device)  # (1, 3, t, height, width)
                with torch.inference_mode():
                    scores, state = model.step(clip, state)  # type: ignore[operator]
                waiting.clear()
            if seen % every == 0 and scores is not None:
                yield prediction(seconds, scores)
                reported = seen
            if stopped():
                break
    except BrokenImage as error:
        broken = error
    if reported < seen and scores is not None:
        yield prediction(seconds, scores)
    if broken is None and scores is None and not stopped():
        needed = (patch - 1) * interval + 1
        broken = BrokenImage(path, f'{seen} frames; one patch needs {needed}')
    if broken is not None:
        yield broken


def frame_interval(classifier: Classifier) -> int:
    """The step from one frame that a stream takes to the next, in frames of the video.

    That of training if its clips were sampled densely, else 1: the end of a stream is unknown, so its frames cannot be
    sampled uniformly.
    """
    views = classifier.views or {}
    return views.get('frame_interval', 4) if views.get('sampling') == 'dense' else 1


def check_causal(classifier: Classifier) -> None:
    """Raises a UsageError for a model that cannot take a video frame by frame."""
    views = classifier.views or {}
    if not getattr(classifier.model, 'causal', False):
        what = 'images' if classifier.views is None else 'whole clips'
        raise UsageError(f'{classifier.name} takes {what}: a stream of frames needs a causal VideoMamba (causal=True)')
    if views.get('time', 'forward') != 'forward':
        raise UsageError(f'{classifier.name} was trained on frames {views["time"]}: those of a stream run forward')
