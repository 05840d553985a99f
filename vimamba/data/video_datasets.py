"""Data sets of labelled videos: folders, lists, Something-Something, UCF101 and HMDB51.

Each is map-style: ``dataset[i]`` is (clip, class), a clip (3, T, H, W) float32, or several views (V, 3, T, H, W) whose
scores evaluation averages. Attributes: ``classes``; ``sample_path(i)``.
"""

from __future__ import annotations

import csv
import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vimamba.data.files import FileDataset, Found, Root, class_folders, listed_names, read_json, read_text, subfolders
from vimamba.data.video_decode import VIDEO_EXTENSIONS, read_clip, sample_dense, sample_uniform
from vimamba.errors import UsageError, check_integers, one_of

__all__ = ['Clips', 'Layout', 'SomethingSomething', 'VideoFolder', 'VideoList', 'VideoSplits']

_Transform = Callable[..., Tensor] | None


class Clips(FileDataset):
    """Videos by path and class.

    Args:
        paths: the files.
        targets: the class of each, an index into ``classes``.
        classes: names of the classes.
        split: 'train', or another one.
        transform: (frames (T, H, W, 3) uint8) -> tensor. None: (3, T, H, W) in 0..1.
        training: sample frames at random; None for the train split only.
        num_frames: frames of a clip.
        sampling: 'uniform' (over the whole video, by `sample_uniform`) or 'dense' (by `sample_dense`).
        frame_interval: step between frames of dense sampling.
        num_clips: views in time, outside training.
        time: 'forward', 'backward' or 'shuffled': the order of the frames, to test whether a model uses it.
        repeats: in training, clips of the same frames, each augmented separately (arXiv:1901.09335); the video is
            decoded once.
    """

    what = 'videos'  # in messages
    mirrors = True  # a mirrored clip is of the same class

    def __init__(
        self,
        paths: Sequence[str],
        targets: Sequence[int],
        classes: Sequence[str],
        split: str,
        transform: _Transform = None,
        *,
        training: bool | None = None,
        num_frames: int = 8,
        sampling: str = 'uniform',
        frame_interval: int = 4,
        num_clips: int = 1,
        time: str = 'forward',
        repeats: int = 1,
    ):
        one_of('uniform', 'dense')(sampling, 'sampling')
        one_of('forward', 'backward', 'shuffled')(time, 'time')
        check_integers(1, num_frames=num_frames, frame_interval=frame_interval, num_clips=num_clips, repeats=repeats)
        super().__init__(paths, transform or _to_tensor)
        self.targets, self.classes = np.array(targets), list(classes)
        self.training = split == 'train' if training is None else training
        self.num_frames, self.sampling, self.interval = num_frames, sampling, frame_interval
        self.num_clips, self.repeats = (1, repeats) if self.training else (num_clips, 1)
        self.time = time

    def choose(self, frames: int) -> list[int]:
        """The numbers of the frames of all views, in turn, for a video of ``frames`` frames."""
        if self.sampling == 'uniform':
            views = sample_uniform(frames, self.num_frames, self.num_clips, self.training)
        else:
            views = sample_dense(frames, self.num_frames, self.interval, self.num_clips, self.training)
        return [index for view in views for index in view]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        frames = read_clip(self.sample_path(index), self.choose)
        views = frames.reshape(self.num_clips, self.num_frames, *frames.shape[1:])
        if self.time == 'backward':
            views = views[:, ::-1]
        elif self.time == 'shuffled':
            generator = None if self.training else torch.Generator().manual_seed(index)
            views = views[:, torch.randperm(self.num_frames, generator=generator).numpy()]
        clips = [self.transform(np.ascontiguousarray(view)) for view in views for _ in range(self.repeats)]
        if len(clips) == 1:
            return clips[0], int(self.targets[index])
        return torch.cat([clip if clip.ndim == 5 else clip[None] for clip in clips]), int(self.targets[index])


def _to_tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255


class Layout(Clips):
    """Clips of the files that ``find`` lists: (root, split, its options) -> `Found`.

    ``options`` are those of ``find``, and further arguments of `Clips`.
    """

    splits: tuple[str, ...] = ('train', 'val')
    find: Callable[..., Found]

    def __init__(self, *, root: Root, split: str, transform: _Transform = None, **options: Any):
        of_find = {name: options.pop(name) for name in inspect.signature(self.find).parameters if name in options}
        found, classes = self.find(Path(root), split, **of_find)
        paths, targets = zip(*found) if found else ((), ())
        unseen = [classes[i] for i in sorted(set(range(len(classes))) - set(targets))]
        if unseen and split == 'train':
            shown = ', '.join(unseen[:5]) + f' and {len(unseen) - 5} more' * (len(unseen) > 5)
            warnings.warn(f'{root}: no training videos of {shown}: these classes are not learned', stacklevel=2)
        super().__init__(paths, targets, classes, split, transform, **options)


class VideoFolder(Layout):
    """``root/{train,val,test}/<class>/**/<video>``; the classes are the folders of train, sorted by name."""

    splits = ('train', 'val', 'test')

    @staticmethod
    def find(root: Path, split: str) -> Found:
        return class_folders(root, split, VIDEO_EXTENSIONS, 'video')


class VideoList(Layout):
    """``root/{train,val,test}.{csv,txt}`` as for Kinetics: a line per video with its path and class number.

    The two are separated by white space, or by commas with any columns between them. A header line is skipped. Paths
    are relative to root, or to ``videos`` in it. The class names are the lines of ``root/classes.txt``; without this
    file they are the numbers up to the highest one in the list of train.
    """

    splits = ('train', 'val', 'test')

    @staticmethod
    def find(root: Path, split: str, videos: str = '') -> Found:
        file = _list(root, split)
        if file is None:
            raise UsageError(f'{root}: has no {split}.csv or {split}.txt')
        found = _lines(file)
        if not found:
            raise UsageError(f'{file}: lists no videos; expected lines of a path and the number of a class')
        names = root / 'classes.txt'
        if names.is_file():
            classes = list(listed_names(names).values())
        else:
            train = _list(root, 'train')
            numbered = [target for _, target in (_lines(train) if train else found)]
            last = max(numbered, default=-1)
            if last > 1000 + 10 * len(numbered):
                raise UsageError(f'{train or file}: class {last} of {len(numbered)} videos; expected numbers from 0 up')
            classes = [str(i) for i in range(last + 1)]
        for path, target in found:
            if target >= len(classes):
                raise UsageError(f'{file}: {path} has class {target}, but {root} has {len(classes)} classes')
        return [(str(root / videos / path), target) for path, target in found], classes


def _list(root: Path, split: str) -> Path | None:
    files = [file for file in (root / f'{split}.csv', root / f'{split}.txt') if file.is_file()]
    if len(files) > 1:
        raise UsageError(f'{files[0]} and {files[1].name}: two lists of {split}; remove one')
    return files[0] if files else None


def _lines(file: Path) -> list[tuple[str, int]]:
    """The path and the class of each line."""
    found = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        cells = [cell.strip() for cell in (next(csv.reader([line])) if ',' in line else line.rsplit(maxsplit=1))]
        words = len(cells) > 1 and cells[-1][:1].isalpha() and not cells[0].lower().endswith(VIDEO_EXTENSIONS)
        if not any(cells) or (number == 1 and words):  # empty, or a header
            continue
        if len(cells) < 2 or not cells[-1].isdecimal():
            raise UsageError(f'{file}:{number}: expected a path and the number of a class, got {line!r}')
        found.append((cells[0], int(cells[-1])))
    return found


class SomethingSomething(Layout):
    """Something-Something v2: ``something-something-v2-{train,validation,labels}.json``, ``<id>.webm`` in ``videos``.

    The class of a record is its template, without the brackets.
    """

    mirrors = False

    @staticmethod
    def find(root: Path, split: str, videos: str = '20bn-something-something-v2') -> Found:
        parts = 'labels', {'train': 'train', 'val': 'validation'}[split]
        names, listed = (root / f'something-something-v2-{part}.json' for part in parts)
        labels, records = read_json(names), read_json(listed)
        if not isinstance(labels, dict) or not all(str(index).isdecimal() for index in labels.values()):
            raise UsageError(f'{names}: expected the number of each label')
        number = {name: int(index) for name, index in labels.items()}
        classes = sorted(number, key=number.__getitem__)
        if [number[name] for name in classes] != list(range(len(classes))):
            raise UsageError(f'{names}: expected the numbers 0 to {len(classes) - 1}, each once')
        found = []
        for i, record in enumerate(records):
            if not isinstance(record, dict) or not {'id', 'template'} <= record.keys():
                raise UsageError(f'{listed}: record {i}: expected an id and a template')
            name = re.sub(r'[\[\]]', '', record['template'])
            if name not in number:
                raise UsageError(f'{listed}: record {i}: no label {name!r} in {names.name}')
            found.append((str(root / videos / f'{record["id"]}.webm'), number[name]))
        return found, classes


class VideoSplits(Layout):
    """UCF101 and HMDB51: ``videos/<class>/<video>.avi`` and the authors' lists of ``fold`` 1, 2 or 3 in ``splits``.

    UCF101's are ``trainlist01.txt`` and ``testlist01.txt``, HMDB51's ``<class>_test_split1.txt``, in which 1 is
    training, 2 testing and 0 neither. The test list is the val split here, since the authors made only two. UCF101's
    classes are in the order of the numbers in ``classInd.txt`` or the training list, HMDB51's in that of their names.
    """

    @staticmethod
    def find(root: Path, split: str, fold: int = 1) -> Found:
        one_of(1, 2, 3)(fold, 'fold')
        videos, lists = root / 'videos', root / 'splits'
        hint = f'expected videos/<class>/<video> and splits/ in {root}'
        classes, _ = (subfolders(folder, hint) for folder in (videos, lists))
        numbers = {name: i for i, name in enumerate(classes)}
        listed = [lists / f'{part}list{fold:02d}.txt' for part in ('train', 'train' if split == 'train' else 'test')]
        if listed[1].is_file():
            names = [cells[0] for _, cells in _cells(listed[1])]
            numbers = _ucf_numbers(lists / 'classInd.txt', listed[0]) or numbers
        elif any(lists.glob('trainlist*.txt')):
            raise UsageError(f'{listed[1]}: no such file; expected the lists of UCF101 of fold {fold}')
        else:
            names = _hmdb(lists, classes, fold, '1' if split == 'train' else '2')
        if not names:
            raise UsageError(f'{lists}: no videos of {split} in fold {fold}; expected the lists of UCF101 or HMDB51')
        ordered, found = sorted(numbers, key=numbers.__getitem__), []
        for name in names:
            of_class, _, _ = name.partition('/')
            for known, missing in ((classes, f'folder in {videos}'), (numbers, 'number')):
                if of_class not in known:
                    raise UsageError(f'{lists}: {name}: its class has no {missing}')
            found.append((str(videos / name), ordered.index(of_class)))
        return found, ordered


def _cells(file: Path) -> list[tuple[str, list[str]]]:
    """The place and the words of each line that is not empty."""
    lines = enumerate(read_text(file).splitlines(), 1)
    return [(f'{file}:{number}', line.split()) for number, line in lines if line.strip()]


def _ucf_numbers(index: Path, listed: Path) -> dict[str, int]:
    """Class numbers: from lines ``1 Archery`` of classInd.txt, else ``Archery/v_g08_c01.avi 1`` of the training list.

    Empty if the training list has no second column.
    """
    numbers: dict[str, int] = {}
    for place, cells in _cells(index) if index.is_file() else _cells(listed):
        if index.is_file():
            cells = cells[::-1]
        elif len(cells) == 1:
            continue
        if len(cells) != 2 or not cells[1].isdecimal():
            raise UsageError(f'{place}: expected a class and its number, got {" ".join(cells)!r}')
        name, number = cells[0].split('/')[0], int(cells[1])
        if numbers.setdefault(name, number) != number:
            raise UsageError(f'{place}: {name} has number {number} here, {numbers[name]} before')
    return numbers


def _hmdb(lists: Path, classes: list[str], fold: int, code: str) -> list[str]:
    names = []
    for name in classes:
        file = lists / f'{name}_test_split{fold}.txt'
        if not file.is_file():
            raise UsageError(f'{file}: no such file; expected the lists of UCF101 or HMDB51')
        for place, cells in _cells(file):
            if len(cells) != 2 or cells[1] not in '012':
                raise UsageError(f'{place}: expected a file and 0, 1 or 2, got {" ".join(cells)!r}')
            names += [f'{name}/{cells[0]}'] * (cells[1] == code)
    return names
