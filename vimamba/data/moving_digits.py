"""Moving digits: mp4 files in which one real handwritten digit moves among distractors, to learn the order of time.

A data set of 80 classes, digit x direction, that needs no download. No frame shows the direction, nor does the set of
frames: a reversed clip is equally likely as a clip of the opposite direction. Nor does the centroid of brightness:
equally bright distractors move in other directions. The digits are those of `Digits`, split by
sample before any clip is made.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vimamba.data.files import Root, Transform
from vimamba.data.image_datasets import Digits
from vimamba.data.video_datasets import Clips
from vimamba.data.video_decode import video_library
from vimamba.errors import UsageError, check_integers

__all__ = ['DIRECTIONS', 'MovingDigits', 'compose', 'opposite']

DIRECTIONS = ('east', 'south-east', 'south', 'south-west', 'west', 'north-west', 'north', 'north-east')
SIDE, FRAMES = 32, 8  # pixels, frames of a clip
_CLIPS = {'train': 8000, 'val': 400, 'test': 800}
_VERSION = 1  # of the clips; files of another are not read


def opposite(label: int) -> int:
    """The class of a reversed clip.

    >>> opposite(8 * 3 + DIRECTIONS.index('east')) == 8 * 3 + DIRECTIONS.index('west')
    True
    """
    return label - label % 8 + (label + 4) % 8


def compose(digit: np.ndarray, direction: int, rng: np.random.Generator) -> np.ndarray:
    """A clip of one digit: (8, 8) uint8 ink, 0..7 of `DIRECTIONS` -> (8, 32, 32) uint8.

    The digit, 16 to 20 pixels, moves 0.8 to 1.4 pixels a frame through a point near the middle. Two bars and a disc,
    equally bright and each on another straight path, are behind it. Each frame has different noise.
    """
    times = torch.arange(FRAMES) - (FRAMES - 1) / 2
    angle = direction * math.pi / 4
    clip = torch.zeros(FRAMES, SIDE, SIDE)
    for _ in range(3):
        heading, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 2.0)
        clip = torch.maximum(clip, _move(_distractor(rng), 8, rng.uniform(-12, 12, 2), heading, speed, times))
    ink = torch.from_numpy(digit).float() / 255
    path = rng.uniform(-3, 3, 2)
    moved = _move(ink, rng.uniform(16, 20), path, angle, rng.uniform(0.8, 1.4), times)
    clip = torch.maximum(clip * (1 - moved), moved)
    noise = torch.from_numpy(rng.normal(0, 0.06, clip.shape)).float()
    return ((0.1 + 0.8 * clip + noise).clamp(0, 1) * 255).round().byte().numpy()


def _distractor(rng: np.random.Generator) -> torch.Tensor:
    """A bar or a disc, (8, 8) in 0..1."""
    y, x = np.mgrid[-1:1:8j, -1:1:8j]
    turn = rng.uniform(0, math.pi)
    across = np.abs(x * np.sin(turn) - y * np.cos(turn))
    shape = across < 0.3 if rng.random() < 0.6 else x**2 + y**2 < 0.5
    return torch.from_numpy(shape * rng.uniform(0.6, 1.0)).float()


def _move(
    shape: torch.Tensor, side: float, middle: np.ndarray, heading: float, speed: float, times: torch.Tensor
) -> torch.Tensor:
    """The frames of a shape of ``side`` pixels whose centre is at ``middle`` in mid-clip: (T, 32, 32)."""
    x = middle[0] + speed * math.cos(heading) * times
    y = middle[1] + speed * math.sin(heading) * times
    scale = SIDE / side
    theta = torch.zeros(len(times), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, 0, 2], theta[:, 1, 2] = -x * scale * 2 / SIDE, -y * scale * 2 / SIDE
    grid = F.affine_grid(theta, [len(times), 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(shape.expand(len(times), 1, -1, -1), grid, align_corners=False)[:, 0]


class MovingDigits(Clips):
    """Real mp4 files of 8 frames of 32 x 32 pixels; 8000 for training, 400 for validation, 800 for testing.

    The files are written once, in one or two seconds per thousand, all or none. A clip is a function of its split and
    number, except for the rounding of the encoder, a few grey levels.

    Args:
        root: the folder to keep them in; None for ``$XDG_CACHE_HOME/vimamba`` or ``~/.cache/vimamba``.
        split, transform: as in `Clips`; each of 'train', 'val' and 'test' has other digits.
        time: 'forward', 'backward' (each clip reversed, its class the opposite) or 'shuffled' (in an order that is
            drawn for each sample in training, and fixed for each clip in evaluation).
        clips: number of clips; None for all.
        options: further arguments of `Clips`.
    """

    splits = ('train', 'val', 'test')
    mirrors = False

    def __init__(
        self,
        *,
        root: Root | None = None,
        split: str,
        transform: Transform | None = None,
        time: str = 'forward',
        clips: int | None = None,
        **options: Any,
    ):
        if clips is not None:
            check_integers(1, clips=clips)
        cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
        folder = Path(root or Path(cache, 'vimamba'), f'moving_digits_{_VERSION}', split)
        try:
            if not folder.is_dir():
                _write(folder, split)
            labels = json.loads((folder / 'labels.json').read_text())
        except OSError as error:
            reason = f'the clips cannot be written or read there ({error.strerror or error})'
            raise UsageError(f'{folder.parent}: {reason}; choose another place with data.root=PATH') from error
        if missing := labels.keys() - set(os.listdir(folder)):
            raise UsageError(
                f'{folder}: {len(missing)} clips are missing: remove the folder, and the clips are written again'
            )
        kept = list(labels.items())[:clips]
        classes = [f'{digit} {direction}' for digit in range(10) for direction in DIRECTIONS]
        targets = [opposite(label) if time == 'backward' else label for _, label in kept]
        paths = [str(folder / name) for name, _ in kept]
        super().__init__(paths, targets, classes, split, transform, time=time, **options)


def _write(folder: Path, split: str) -> None:
    digits = Digits(split=split)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(None, f'.{split}-', folder.parent, ignore_cleanup_errors=True) as scratch:
        labels = {}
        for i in range(_CLIPS[split]):
            rng = np.random.default_rng((_VERSION, sorted(_CLIPS).index(split), i))
            which, direction = int(rng.integers(len(digits))), i % 8
            name = f'{i:05d}.mp4'
            _encode(Path(scratch, name), compose(digits.images[which], direction, rng))
            labels[name] = 8 * int(digits.targets[which]) + direction
        Path(scratch, 'labels.json').write_text(json.dumps(labels))
        try:
            os.rename(scratch, folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise


def _encode(path: Path, frames: np.ndarray) -> None:
    av = video_library()
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=Fraction(8), options={'crf': '10', 'threads': '1'})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='gray')))
        container.mux(stream.encode())
