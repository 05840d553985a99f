"""Data sets of labelled videos: folders, lists, Something-Something, UCF101 and HMDB51.

Each is map-style: ``dataset[i] -> (clip, class)``, a clip (3, T, H, W) float32, or several views of it
(V, 3, T, H, W), in evaluation to be averaged; ``dataset.classes``, ``dataset.sample_path(i)``.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vimamba.data.video import VIDEO_EXTENSIONS, read_clip, sample_dense, sample_uniform
from vimamba.errors import UsageError, bad_argument, check_integers, unknown_name

__all__ = ['Clips', 'SomethingSomething', 'VideoFolder', 'VideoList', 'VideoSplits']

SAMPLING = ('uniform', 'dense')
TIMES = ('forward', 'backward', 'shuffled')


class Clips(Dataset):
    """Videos by path and class.

    Args:
        paths: the files.
        targets: the class of each, an index into ``classes``.
        classes: their names.
        split: which part this is.
        transform: (frames (T, H, W, 3) uint8) -> tensor; its ``training`` says whether frames are sampled at random,
            by default those of the train split. None: (3, T, H, W) in 0..1.
        num_frames: frames of a clip.
        sampling: 'uniform' (over the whole video) or 'dense' (with ``frame_interval`` from one to the next).
        frame_interval: frames of the video from one of the clip to the next, of dense sampling.
        num_clips: views in time, outside of training.
        time: 'forward', 'backward' or 'shuffled': the frames in another order, to see what a model reads of it.
        repeats: clips of the same frames of a video, each augmented anew, in training (arXiv:1901.09335): a video is
            decoded once for all of them.
    """

    def __init__(
        self,
        paths: Sequence[str],
        targets: Sequence[int],
        classes: Sequence[str],
        split: str,
        transform: Callable[..., Tensor] | None = None,
        num_frames: int = 8,
        sampling: str = 'uniform',
        frame_interval: int = 4,
        num_clips: int = 1,
        time: str = 'forward',
        repeats: int = 1,
    ):
        for name, value, known in (('sampling', sampling, SAMPLING), ('time', time, TIMES)):
            if value not in known:
                raise unknown_name(name, value, known)
        check_integers(1, num_frames=num_frames, frame_interval=frame_interval, num_clips=num_clips, repeats=repeats)
        self.paths = np.array([os.fsencode(path) for path in paths])  # one array: a list would be copied by workers
        self.targets, self.classes = np.array(targets), list(classes)
        self.training = getattr(transform, 'training', split == 'train')
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


class VideoFolder(Clips):
    """``root/{train,val,test}/<class>/**/<video>``; the classes are the folders of train, sorted by name."""

    splits = ('train', 'val', 'test')

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        split: str,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
        **options: Any,
    ):
        layout = 'expected train/<class>/<video> and val/<class>/<video>'
        folder = _root(root) / split
        for needed in (_root(root) / 'train', folder):
            if not needed.is_dir():
                raise UsageError(f'{needed}: no such folder; {layout} in {root}')
        classes = sorted(entry.name for entry in (_root(root) / 'train').iterdir() if entry.is_dir())
        if unknown := sorted({entry.name for entry in folder.iterdir() if entry.is_dir()} - set(classes)):
            raise UsageError(f'{folder / unknown[0]}: this class has no folder in {_root(root) / "train"}')
        paths: list[str] = []
        targets: list[int] = []
        for target, name in enumerate(classes):
            inside = (Path(top, file) for top, _, files in os.walk(folder / name) for file in files)
            found = sorted(path for path in inside if path.suffix.lower() in VIDEO_EXTENSIONS)
            paths += map(str, found)
            targets += [target] * len(found)
        if not paths:
            raise UsageError(f'{folder}: no videos in it; {layout}, extensions {" ".join(VIDEO_EXTENSIONS)}')
        super().__init__(paths, targets, classes, split, transform, **options)


class VideoList(Clips):
    """``root/{train,val,test}.{csv,txt}`` as for Kinetics: a line for each video, its path and the number of its class.

    They are separated by a comma or by white space; a header and columns between the two are passed over. Paths are
    relative to root, or to ``videos`` in it. The names of the classes are the lines of ``root/classes.txt``, if it is
    there.
    """

    splits = ('train', 'val', 'test')

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        split: str,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
        videos: str = '',
        **options: Any,
    ):
        file = _first(_root(root), [f'{split}.csv', f'{split}.txt'])
        paths: list[str] = []
        targets: list[int] = []
        for number, line in enumerate(file.read_text(encoding='utf-8').splitlines(), 1):
            cells = next(csv.reader([line])) if ',' in line else line.rsplit(maxsplit=1)
            cells = [cell.strip() for cell in cells]
            if not any(cells) or (number == 1 and not cells[-1].isdigit()):
                continue
            if len(cells) < 2 or not cells[-1].isdigit():
                raise UsageError(f'{file}:{number}: expected a path and the number of a class, got {line!r}')
            paths.append(str(_root(root) / videos / cells[0]))
            targets.append(int(cells[-1]))
        names = _root(root) / 'classes.txt'
        classes = names.read_text(encoding='utf-8').split('\n') if names.is_file() else []
        classes = [name for name in classes if name] or [str(i) for i in range(max(targets, default=-1) + 1)]
        if bad := [i for i, target in enumerate(targets) if target >= len(classes)]:
            raise UsageError(f'{file}: {paths[bad[0]]} is of class {targets[bad[0]]}, but there are {len(classes)}')
        if not paths:
            raise UsageError(f'{file}: no videos in it; expected lines of a path and the number of a class')
        super().__init__(paths, targets, classes, split, transform, **options)


class SomethingSomething(Clips):
    """Something-Something v2: ``something-something-v2-{train,validation,labels}.json``, ``<id>.webm`` in ``videos``.

    The class of a record is its template without brackets.
    """

    splits = ('train', 'val')

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        split: str,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
        videos: str = '20bn-something-something-v2',
        **options: Any,
    ):
        stem = f'{_root(root)}/something-something-v2-'
        labels, records = (_json(Path(f'{stem}{part}.json')) for part in ('labels', _SSV2[split]))
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
            paths.append(str(_root(root) / videos / f'{record["id"]}.webm'))
            targets.append(number[name])
        super().__init__(paths, targets, classes, split, transform, **options)


_SSV2 = {'train': 'train', 'val': 'validation'}


class VideoSplits(Clips):
    """UCF101 and HMDB51: ``videos/<class>/<video>.avi`` and the authors' lists of ``fold`` 1, 2 or 3 in ``splits``.

    UCF101's are ``trainlist01.txt`` and ``testlist01.txt``, HMDB51's ``<class>_test_split1.txt``, in which 1 is
    training, 2 testing and 0 neither. Testing is the val split here: their authors set no third part aside.
    """

    splits = ('train', 'val')

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        split: str,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
        fold: int = 1,
        **options: Any,
    ):
        if fold not in (1, 2, 3):
            raise bad_argument('fold', '1, 2 or 3', fold)
        videos, lists = (_root(root) / name for name in ('videos', 'splits'))
        for folder in (videos, lists):
            if not folder.is_dir():
                raise UsageError(f'{folder}: no such folder; expected videos/<class>/<video> and splits/ in {root}')
        classes = sorted(entry.name for entry in videos.iterdir() if entry.is_dir())
        ucf = lists / f'{"train" if split == "train" else "test"}list{fold:02d}.txt'
        names = _ucf(ucf) if ucf.is_file() else _hmdb(lists, classes, fold, '1' if split == 'train' else '2')
        for name in names:
            if name.split('/')[0] not in classes:
                raise UsageError(f'{lists}: {name}: no folder of this class in {videos}')
        if not names:
            raise UsageError(f'{lists}: no videos of {split} in fold {fold}; expected the lists of UCF101 or HMDB51')
        paths = [str(videos / name) for name in names]
        super().__init__(paths, [classes.index(n.split('/')[0]) for n in names], classes, split, transform, **options)


def _ucf(file: Path) -> list[str]:
    return [line.split()[0] for line in file.read_text().splitlines() if line.strip()]


def _hmdb(lists: Path, classes: list[str], fold: int, code: str) -> list[str]:
    names = []
    for name in classes:
        file = lists / f'{name}_test_split{fold}.txt'
        if not file.is_file():
            raise UsageError(f'{file}: no such file; expected the lists of UCF101 or HMDB51')
        for number, line in enumerate(file.read_text().splitlines(), 1):
            cells = line.split()
            if cells and (len(cells) != 2 or cells[1] not in '012'):
                raise UsageError(f'{file}:{number}: expected a file and 0, 1 or 2, got {line!r}')
            names += [f'{name}/{cells[0]}'] * (cells[1:] == [code])
    return names


def _root(root: str | os.PathLike[str] | None) -> Path:
    if root is None:
        raise bad_argument('root', 'the folder of the data set', root)
    return Path(root)


def _first(root: Path, names: list[str]) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UsageError(f'{root}: no {" or ".join(names)} in it')


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding='utf-8'))
    except OSError:
        raise UsageError(f'{file}: no such file') from None
    except ValueError as error:
        raise UsageError(f'{file}: not JSON: {error}') from error
