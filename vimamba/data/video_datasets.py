"""Data sets of labelled videos: folders, lists, Something-Something, UCF101 and HMDB51.

Each is map-style: ``dataset[i] -> (clip, class)``, a clip (3, T, H, W) float32, or several views of it
(V, 3, T, H, W), in evaluation to be averaged; ``dataset.classes``, ``dataset.sample_path(i)``.
"""

from __future__ import annotations

import csv
import inspect
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vimamba.data.image import files_below, subfolders
from vimamba.data.video_decode import VIDEO_EXTENSIONS, read_clip, sample_dense, sample_uniform
from vimamba.errors import UsageError, check_integers, one_of

__all__ = ['Clips', 'Layout', 'SomethingSomething', 'VideoFolder', 'VideoList', 'VideoSplits']

_Found = tuple[list[str], list[int], list[str]]  # paths, the class of each, the names of the classes


class Clips(Dataset):
    """Videos by path and class.

    Args:
        paths: the files.
        targets: the class of each, an index into ``classes``.
        classes: their names.
        split: which part this is.
        transform: (frames (T, H, W, 3) uint8) -> tensor. None: (3, T, H, W) in 0..1.
        training: whether frames are sampled at random; None: those of the train split are.
        num_frames: frames of a clip.
        sampling: 'uniform' (over the whole video) or 'dense' (with ``frame_interval`` from one to the next).
        frame_interval: frames of the video from one of the clip to the next, of dense sampling.
        num_clips: views in time, outside of training.
        time: 'forward', 'backward' or 'shuffled': the frames in another order, to see what a model reads of it.
        repeats: clips of the same frames of a video, each augmented anew, in training (arXiv:1901.09335): a video is
            decoded once for all of them.
    """

    what = 'videos'  # for messages
    mirrors = True  # a mirrored clip is of the same class

    def __init__(
        self,
        paths: Sequence[str],
        targets: Sequence[int],
        classes: Sequence[str],
        split: str,
        transform: Callable[..., Tensor] | None = None,
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
        self.paths = np.array([os.fsencode(path) for path in paths])  # one array: a list would be copied by workers
        self.targets, self.classes = np.array(targets), list(classes)
        self.training = split == 'train' if training is None else training
        self.transform = transform or _to_tensor
        self.num_frames, self.sampling, self.interval = num_frames, sampling, frame_interval
        self.num_clips, self.repeats = (1, repeats) if self.training else (num_clips, 1)
        self.time = time

    def __len__(self) -> int:
        return len(self.paths)

    def sample_path(self, index: int) -> str:
        return os.fsdecode(self.paths[index])

    def choose(self, frames: int) -> list[int]:
        """The frames of all views, one after another, of a video of so many."""
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
            seed = None if self.training else index
            order = torch.randperm(self.num_frames, generator=_generator(seed)).numpy()
            views = views[:, order]
        clips = [self.transform(np.ascontiguousarray(view)) for view in views for _ in range(self.repeats)]
        if len(clips) == 1:
            return clips[0], int(self.targets[index])
        return torch.cat([clip if clip.ndim == 5 else clip[None] for clip in clips]), int(self.targets[index])


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _to_tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255


class Layout(Clips):
    """Clips of the files that ``find`` lists: (root, split, its options) -> (paths, targets, classes).

    Args:
        root: the folder of the data set.
        split: one of ``splits``.
        transform: frames -> tensor, as in `Clips`.
        seed: has no effect.
        options: those of ``find``, and further arguments of `Clips`.
    """

    splits: tuple[str, ...] = ('train', 'val')
    find: Callable[..., _Found]

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        split: str,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
        **options: Any,
    ):
        own = {name: options.pop(name) for name in inspect.signature(self.find).parameters if name in options}
        paths, targets, classes = self.find(Path(root), split, **own)
        unseen = [name for i, name in enumerate(classes) if i not in set(targets)] if split == 'train' else []
        if unseen:
            shown = ', '.join(unseen[:5]) + f' and {len(unseen) - 5} more' * (len(unseen) > 5)
            warnings.warn(f'{root}: no training videos of {shown}: nothing is learned of them', stacklevel=2)
        super().__init__(paths, targets, classes, split, transform, **options)


class VideoFolder(Layout):
    """``root/{train,val,test}/<class>/**/<video>``; the classes are the folders of train, sorted by name."""

    splits = ('train', 'val', 'test')

    @staticmethod
    def find(root: Path, split: str) -> _Found:
        layout = 'expected train/<class>/<video> and val/<class>/<video>'
        folder = root / split
        classes, own = (subfolders(part, f'{layout} in {root}') for part in (root / 'train', folder))
        if unknown := sorted(set(own) - set(classes)):
            raise UsageError(f'{folder / unknown[0]}: this class has no folder in {root / "train"}')
        paths: list[str] = []
        targets: list[int] = []
        for target, name in enumerate(classes):
            found = files_below(folder / name, VIDEO_EXTENSIONS)
            paths += found
            targets += [target] * len(found)
        if not paths:
            raise UsageError(f'{folder}: no videos in it; {layout}, extensions {" ".join(VIDEO_EXTENSIONS)}')
        return paths, targets, classes


class VideoList(Layout):
    """``root/{train,val,test}.{csv,txt}`` as for Kinetics: a line for each video, its path and the number of its class.

    They are separated by commas, with any columns between the two, or by white space. A first line that names its
    columns is passed over. Paths are relative to root, or to ``videos`` in it. The names of the classes are the lines
    of ``root/classes.txt``; where it is missing, there are as many as the list of train numbers.
    """

    splits = ('train', 'val', 'test')

    @staticmethod
    def find(root: Path, split: str, videos: str = '') -> _Found:
        file = _list(root, split)
        if file is None:
            raise UsageError(f'{root}: no {split}.csv or {split}.txt in it')
        found = _lines(file)
        if not found:
            raise UsageError(f'{file}: no videos in it; expected lines of a path and the number of a class')
        names = root / 'classes.txt'
        if names.is_file():
            classes = [name for name in _text(names).split('\n') if name]
            if twice := sorted(name for name, count in Counter(classes).items() if count > 1):
                raise UsageError(f'{names}: {twice[0]} stands there twice; expected a name for each class')
        else:
            train = _list(root, 'train')
            numbered = [target for _, target in (_lines(train) if train else found)]
            last = max(numbered, default=-1)
            if last > 1000 + 10 * len(numbered):
                raise UsageError(f'{train or file}: class {last} of {len(numbered)} videos; expected numbers from 0 up')
            classes = [str(i) for i in range(last + 1)]
        for path, target in found:
            if target >= len(classes):
                raise UsageError(f'{file}: {path} is of class {target}, but there are {len(classes)} in {root}')
        paths = [str(root / videos / path) for path, _ in found]
        return paths, [target for _, target in found], classes


def _list(root: Path, split: str) -> Path | None:
    files = [file for file in (root / f'{split}.csv', root / f'{split}.txt') if file.is_file()]
    if len(files) > 1:
        raise UsageError(f'{files[0]} and {files[1].name}: two lists of {split}; remove one')
    return files[0] if files else None


def _lines(file: Path) -> list[tuple[str, int]]:
    """The path and the class of each line."""
    found = []
    for number, line in enumerate(_text(file).splitlines(), 1):
        cells = [cell.strip() for cell in (next(csv.reader([line])) if ',' in line else line.rsplit(maxsplit=1))]
        if not any(cells):
            continue
        words = len(cells) > 1 and cells[-1][:1].isalpha() and not cells[0].lower().endswith(VIDEO_EXTENSIONS)
        if number == 1 and words:  # a header
            continue
        if len(cells) < 2 or not cells[-1].isdecimal():
            raise UsageError(f'{file}:{number}: expected a path and the number of a class, got {line!r}')
        found.append((cells[0], int(cells[-1])))
    return found


class SomethingSomething(Layout):
    """Something-Something v2: ``something-something-v2-{train,validation,labels}.json``, ``<id>.webm`` in ``videos``.

    The class of a record is its template without brackets.
    """

    mirrors = False

    @staticmethod
    def find(root: Path, split: str, videos: str = '20bn-something-something-v2') -> _Found:
        stem = f'{root}/something-something-v2-'
        labels, records = (_json(Path(f'{stem}{part}.json')) for part in ('labels', _SSV2[split]))
        if not isinstance(labels, dict) or not all(str(index).isdecimal() for index in labels.values()):
            raise UsageError(f'{stem}labels.json: expected the number of each label')
        number = {name: int(index) for name, index in labels.items()}
        classes = sorted(number, key=lambda name: number[name])
        if [number[name] for name in classes] != list(range(len(classes))):
            raise UsageError(f'{stem}labels.json: expected the numbers 0 to {len(classes) - 1}, each once')
        paths: list[str] = []
        targets: list[int] = []
        for i, record in enumerate(records):
            if not isinstance(record, dict) or not {'id', 'template'} <= record.keys():
                raise UsageError(f'{stem}{_SSV2[split]}.json: record {i}: expected an id and a template')
            name = re.sub(r'[\[\]]', '', record['template'])
            if name not in number:
                raise UsageError(f'{stem}{_SSV2[split]}.json: record {i}: no label {name!r} in labels.json')
            paths.append(str(root / videos / f'{record["id"]}.webm'))
            targets.append(number[name])
        return paths, targets, classes


_SSV2 = {'train': 'train', 'val': 'validation'}


class VideoSplits(Layout):
    """UCF101 and HMDB51: ``videos/<class>/<video>.avi`` and the authors' lists of ``fold`` 1, 2 or 3 in ``splits``.

    UCF101's are ``trainlist01.txt`` and ``testlist01.txt``, HMDB51's ``<class>_test_split1.txt``, in which 1 is
    training, 2 testing and 0 neither. Testing is the val split here: their authors set no third part aside. Classes
    are in the order of the authors' numbers, in ``classInd.txt`` or the list of training; HMDB51's by name.
    """

    @staticmethod
    def find(root: Path, split: str, fold: int = 1) -> _Found:
        one_of(1, 2, 3)(fold, 'fold')
        videos, lists = (root / name for name in ('videos', 'splits'))
        for folder in (videos, lists):
            if not folder.is_dir():
                raise UsageError(f'{folder}: no such folder; expected videos/<class>/<video> and splits/ in {root}')
        classes = folders = sorted(entry.name for entry in videos.iterdir() if entry.is_dir())
        ucf = lists / f'{"train" if split == "train" else "test"}list{fold:02d}.txt'
        if ucf.is_file():
            names = [line.split()[0] for line in _text(ucf).splitlines() if line.strip()]
            numbers = _ucf_numbers(lists, fold)
            classes = sorted(numbers, key=numbers.__getitem__) or folders
        elif any(lists.glob('trainlist*.txt')):
            raise UsageError(f'{ucf}: no such file; expected the lists of UCF101 of fold {fold}')
        else:
            names = _hmdb(lists, folders, fold, '1' if split == 'train' else '2')
        for name in names:
            if name.split('/')[0] not in folders:
                raise UsageError(f'{lists}: {name}: no folder of this class in {videos}')
            if name.split('/')[0] not in classes:
                raise UsageError(f'{lists}: {name}: no number of this class')
        if not names:
            raise UsageError(f'{lists}: no videos of {split} in fold {fold}; expected the lists of UCF101 or HMDB51')
        paths = [str(videos / name) for name in names]
        return paths, [classes.index(name.split('/')[0]) for name in names], classes


def _ucf_numbers(lists: Path, fold: int) -> dict[str, int]:
    """The authors' numbers: lines ``1 Archery`` of classInd.txt, else ``Archery/v_g08_c01.avi 1`` of the training list.

    None where the training list has no second column.
    """
    named, numbers = lists / 'classInd.txt', dict[str, int]()
    file = named if named.is_file() else lists / f'trainlist{fold:02d}.txt'
    for place, line in enumerate(_text(file).splitlines(), 1):
        cells = line.split()[::-1] if file == named else line.split()
        if not cells or (len(cells) == 1 and file != named):
            continue
        if len(cells) != 2 or not cells[1].isdecimal():
            raise UsageError(f'{file}:{place}: expected a class and its number, got {line!r}')
        name, number = cells[0].split('/')[0], int(cells[1])
        if numbers.setdefault(name, number) != number:
            raise UsageError(f'{file}:{place}: {name} has number {number}, above {numbers[name]}')
    return numbers


def _hmdb(lists: Path, classes: list[str], fold: int, code: str) -> list[str]:
    names = []
    for name in classes:
        file = lists / f'{name}_test_split{fold}.txt'
        if not file.is_file():
            raise UsageError(f'{file}: no such file; expected the lists of UCF101 or HMDB51')
        for number, line in enumerate(_text(file).splitlines(), 1):
            cells = line.split()
            if cells and (len(cells) != 2 or cells[1] not in '012'):
                raise UsageError(f'{file}:{number}: expected a file and 0, 1 or 2, got {line!r}')
            names += [f'{name}/{cells[0]}'] * (cells[1:] == [code])
    return names


def _text(file: Path) -> str:
    """The text of a list, without the mark that some editors put in front of it."""
    try:
        return file.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise UsageError(f'{file}: {(error.strerror or str(error)).lower()}') from None
    except UnicodeDecodeError as error:
        raise UsageError(f'{file}: not UTF-8 at byte {error.start}; save it as UTF-8') from None


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise UsageError(f'{file}: not JSON: {error}') from error
