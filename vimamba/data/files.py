"""Finds, lists and reads the files of data sets; errors name the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from vimamba.errors import UsageError

__all__ = ['FileDataset', 'Found', 'class_folders', 'files_below', 'find_files', 'listed_names', 'read_json',
           'read_text', 'subfolders']  # fmt: skip

Root = str | os.PathLike[str]
Transform = Callable[..., Any]
Found = tuple[list[tuple[str, int]], list[str]]  # paths with the numbers of their classes, the names of all classes


class FileDataset(Dataset):
    """Samples that are files: their ``paths``, relative to ``root``."""

    transform: Any

    def __init__(self, paths: Iterable[Root], transform: Transform | None, root: Root = '') -> None:
        self.root, self.transform = root, transform
        # One array of bytes: a list of a million strings would be copied into each worker as it touches them.
        self.paths = np.array([os.fsencode(path) for path in paths])

    def __len__(self) -> int:
        return len(self.paths)

    def sample_path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))


def find_files(paths: Iterable[Root], extensions: Sequence[str], kind: str) -> list[str]:
    """The given files, and those with some extensions below the given folders, in a fixed order, each once.

    Raises:
        UsageError: if a path does not exist, a folder cannot be read, or nothing is found.
    """
    found: list[Path] = []
    if not (given := list(map(Path, paths))):
        raise UsageError(f'no {kind} given: name files or folders of them')
    for path in given:
        if not path.exists():
            raise UsageError(f'{path}: no such file or folder')
        found += sorted(map(Path, files_below(path, extensions))) if path.is_dir() else [path]
    if not found:
        raise UsageError(f'no {kind} found in {", ".join(map(str, given))}: looked for {" ".join(extensions)}')
    return list(dict.fromkeys(map(str, found)))


def files_below(folder: Root, extensions: Sequence[str]) -> list[str]:
    """The files with some extensions below a folder, sorted by folder, without hidden ones; none if it is missing.

    Raises:
        UsageError: the folder, or one below it, cannot be read.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise _unreadable(error) from error

    found = []
    for top, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = (name for name in folders if not name.startswith('.'))
        # a hidden file is, for example, the ._photo.jpg that macOS leaves beside a photo.jpg
        found += [(top, n) for n in names if n.lower().endswith(tuple(extensions)) and not n.startswith('.')]
    return [os.path.join(top, name) for top, name in sorted(found)]


def subfolders(folder: Root, hint: str) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones; ``hint`` says what was expected.

    Raises:
        UsageError: it is missing or cannot be read.
    """
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith('.'))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f'{folder}: no such folder; {hint}') from None
    except OSError as error:
        raise _unreadable(error) from error


def class_folders(root: Root, split: str, extensions: Sequence[str], kind: str) -> Found:
    """The files ``root/<split>/<class>/**/<file>``; the classes are the folders of train, sorted.

    Raises:
        UsageError: a folder is missing or cannot be read, a class is not in train, or there are no files.
    """
    train, folder = Path(root, 'train'), Path(root, split)
    layout = f'expected train/<class>/<{kind}> and val/<class>/<{kind}>'
    _, classes, seen = (subfolders(part, f'{layout} in {root}') for part in (root, train, folder))
    if unknown := sorted(set(seen) - set(classes)):
        raise UsageError(f'{folder / unknown[0]}: this class has no folder in {train}')
    found = [(path, i) for i, name in enumerate(classes) for path in files_below(folder / name, extensions)]
    if not found:
        raise UsageError(f'{folder}: no {kind}s in it; {layout}, extensions {" ".join(extensions)}')
    return found, classes


def read_text(file: Path) -> str:
    """Reads a text file in UTF-8, without a byte order mark.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding='utf-8-sig')
    except OSError as error:
        raise UsageError(f'{file}: {(error.strerror or str(error)).lower()}') from None
    except UnicodeDecodeError as error:
        raise UsageError(f'{file}: not UTF-8 at byte {error.start}; save it as UTF-8') from None


def read_json(file: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UsageError: it cannot be read, or is not JSON.
    """
    text = read_text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f'{file}:{error.lineno}: not JSON: {error.msg}') from None
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, lists a thousand deep
        raise UsageError(f'{file}: cannot be read ({error})') from None


def listed_names(file: Path) -> dict[int, str]:
    """The names in a file with one name per line, by line number from 1.

    Raises:
        UsageError: the file cannot be read, or lists a name twice.
    """
    names = {number: line.strip() for number, line in enumerate(read_text(file).split('\n'), 1) if line.strip()}
    first: dict[str, int] = {}
    for number, name in names.items():
        if first.setdefault(name, number) != number:
            raise UsageError(f'{file}: line {number}: line {first[name]} has {name!r}, too')
    return names


def _unreadable(error: OSError) -> UsageError:
    return UsageError(f'{error.filename}: this folder cannot be read ({error.strerror})')
