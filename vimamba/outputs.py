"""Output files: checked before the work, and written whole or not at all."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UsageError, first_line

__all__ = ['check_output', 'naming', 'whole_file', 'write_json', 'write_text']


def check_output(option: str, path: str | os.PathLike[str], folder: bool = False, picture: bool = False) -> None:
    """Checks that an output file, or a folder of files, can be written, and changes nothing.

    Raises:
        UsageError: it cannot be written, or the name of a ``picture`` does not end in an image format.
    """
    path = Path(path)
    if picture and path.suffix.lower() not in ('.png', '.jpg', '.jpeg', '.webp'):
        raise UsageError(f'{option} {path}: expected a file name that ends in .png, .jpg or .webp')
    try:
        if not folder and (path.is_dir() or not str(path).strip('.')):
            raise IsADirectoryError(None, 'is a folder')
        if not folder and path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(None, 'cannot be written')
        if folder or not _is_special(path):  # for some folders, such as /proc, only an attempt tells
            place = path if folder else Path(os.path.realpath(path)).parent
            with _folders(place), tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise UsageError(f'{option} {path}: {error.strerror}: choose another place') from error


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields the name of a temporary file, which replaces ``path`` on exit.

    The file is beside ``path``, is flushed to disk, and is renamed in one step, so that a killed process or a full disk
    leaves the old file unchanged. Missing folders are created. A special file, such as a pipe or ``/dev/stdout``, is
    written directly.

    Raises:
        UsageError: the file cannot be written; the message has its name and the reason.

    >>> folder = tempfile.TemporaryDirectory()
    >>> with whole_file(folder.name + '/new/a.txt') as part:
    ...     _ = part.write_text('all of it')
    >>> Path(folder.name, 'new', 'a.txt').read_text()
    'all of it'
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    special = _is_special(target)
    part = target if special else target.with_name(f'.part.{target.name}')  # the suffix may determine the format
    written = 0
    try:
        with _folders(target.parent):
            try:
                yield part
                if not special:
                    with open(part, 'rb+') as file:
                        os.fsync(file.fileno())
                    os.replace(part, target)
            finally:
                if not special and part.exists():
                    written = part.stat().st_size
                    part.unlink()
            _flush_folder(target.parent)
    except (OSError, RuntimeError, UsageError) as error:  # torch turns some failed writes into RuntimeError
        for raised in (error, error.__context__):  # and reports a lost data worker at any time, even during a write,
            if raised and 'DataLoader worker' in str(raised):  # which then fails on exit
                raise raised from None
        if isinstance(error, UsageError) and str(part) not in str(error):  # not an error of writing
            raise
        before = '' if special else f' after {written} bytes; what was there before is untouched'
        raise UsageError(
            f'{path}: cannot be written ({_reason(error)}){before}: make room, or choose another place'
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes text in UTF-8 with `whole_file`."""
    with whole_file(path) as part:
        part.write_text(text, encoding='utf-8')


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON with `whole_file`, or to stdout if ``path`` is ``-``."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
    sys.stdout.write(text) if path == '-' else write_text(path, text)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the file name to errors raised while appending."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f'{path}: cannot be written ({reason}): make room, or choose another place') from error


@contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """Creates missing folders, and removes those still empty on exit."""
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for part in made:
            with suppress(OSError):
                part.rmdir()


def _reason(error: BaseException) -> str:
    """The message of the underlying `OSError`, if there is one among the causes."""
    below: BaseException | None = error
    while below:
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__cause__ or below.__context__
    return first_line(error)


def _flush_folder(folder: Path) -> None:
    """Flushes a folder to disk, without which a new name in it may be lost."""
    if os.name != 'posix':
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        logging.getLogger('vimamba').debug('%s: this file system cannot flush a folder', folder)
    finally:
        os.close(opened)


def _is_special(path: Path) -> bool:
    """Whether the path exists and is neither a regular file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()
