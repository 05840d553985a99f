"""Checkpoint files: one writer that never leaves half a file, one reader that executes nothing.

A file is an ordinary ``torch.save`` archive, so ``torch.load`` and timm read it too. Its zip comment, the last
bytes of the file, holds the SHA-256 of all that comes before; the reader refuses a file that does not agree.

    [ the archive, as torch.save writes it .......... | length of the comment ] sha256:<64 hexadecimal digits>
"""

import argparse
import hashlib
import os
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import UsageError
from .outputs import whole_file

__all__ = ['FORMAT', 'load_checkpoint', 'load_weights', 'model_weights', 'save_checkpoint', 'weights_error',
           'written_by']  # fmt: skip

FORMAT = 'vimamba/1'  # under 'format' in the files of the training engine
_MARK = b'sha256:'
_COMMENT = len(_MARK) + 64
_END_RECORD = 22  # bytes of the zip end record when there is no comment


class _HashedFile:
    """Hashes bytes on their way to a file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def save_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Writes tensors, numbers, strings, and lists, tuples and dictionaries of these.

    Afterwards ``path`` is the whole new file, or what it was before, as in `whole_file`.

    Raises:
        UsageError: the file cannot be written; the message names it and the reason.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> save_checkpoint({'model': {'weight': torch.ones(2)}}, folder.name + '/a.pth')
    >>> load_checkpoint(folder.name + '/a.pth')
    {'model': {'weight': tensor([1., 1.])}}
    """
    with whole_file(path) as part, open(part, 'wb') as file:
        hashed = _HashedFile(file)
        torch.save(dict(checkpoint), hashed)  # type: ignore[arg-type]
        file.seek(-2, os.SEEK_END)
        file.write(_comment(hashed.sha256.hexdigest()))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU without executing anything in it.

    ``.safetensors`` files come back as ``{'model': weights}``. Files of `save_checkpoint` are compared with their
    SHA-256, other zip archives with the CRC-32 of their members. Official files that carry an
    ``argparse.Namespace`` of plain values are read as they are.

    Raises:
        UsageError: no such file; it cannot be read; damaged; not a checkpoint; or it asks to import and call
            something, which is named and was not done.
    """
    path = Path(path)
    if tuple(map(int, torch.__version__.split('.')[:2])) < (2, 10):
        raise UsageError(
            f'{path}: not read with torch {torch.__version__}, whose weights_only mode can be made to execute code '
            '(CVE-2026-24747): install torch >= 2.10'
        )
    try:
        if not path.is_file():
            raise UsageError(
                f'{path}: {"is a folder" if path.is_dir() else "no such file"}; expected a checkpoint file'
            )
        with open(path, 'rb'):  # safetensors would say that there is none
            pass
        if path.suffix != '.safetensors':
            _verify(path)
    except OSError as error:
        raise UsageError(f'{path}: cannot be read ({error.strerror or error})') from error
    try:
        if path.suffix == '.safetensors':
            return {'model': load_file(path)}
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # whatever a malformed file provokes is a mistake in the file
        raise UsageError(f'{path}: {_reason(error, path)}') from error
    if not isinstance(checkpoint, dict):
        raise UsageError(f'{path}: expected a dictionary with weights, got {type(checkpoint).__name__}')
    if checkpoint.get('format') == FORMAT and not _says_its_training(checkpoint):
        raise UsageError(f'{path}: a training checkpoint that does not say how it was trained; use another copy')
    return checkpoint


def model_weights(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint: the average in one of `vimamba train`, else ``model``, ``state_dict`` or all of it.

    >>> model_weights({'state_dict': {'module.weight': torch.ones(1)}}, 'a.pth')
    {'weight': tensor([1.])}
    """
    ours = ('model_ema',) if checkpoint.get('format') == FORMAT else ()
    for key in (*ours, 'model', 'state_dict', 'model_state', 'module'):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not checkpoint or not all(isinstance(value, Tensor) for value in checkpoint.values()):
        raise UsageError(f"{path}: holds no weights; expected them under 'model' or 'state_dict'")
    return {name.removeprefix('module.'): value for name, value in checkpoint.items()}


def written_by(checkpoint: Mapping[str, Any]) -> str:
    """The name of the model that our training wrote a checkpoint of; empty for other files."""
    return checkpoint['config']['model']['name'] if checkpoint.get('format') == FORMAT else ''


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], path: str | Path, name: str = '', author: str = ''
) -> None:
    """Copies weights of `model_weights` into a model: all of them, or none and an error.

    The error names the file, the model and, if it is known, the ``author``: the model that wrote them.

    Raises:
        UsageError: a tensor is missing, unexpected or of another shape.
    """
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    if error := weights_error(shapes, weights, path, name or type(model).__name__, author):
        raise error
    model.load_state_dict(dict(weights))


def weights_error(
    shapes: Mapping[str, Sequence[int]], weights: Mapping[str, Tensor], path: str | Path, name: str, author: str = ''
) -> UsageError | None:
    """The error if weights are not exactly of these shapes, with the names as in `load_weights`."""
    missing = [key for key in shapes if key not in weights]
    unexpected = [key for key in weights if key not in shapes]
    reshaped = [key for key in shapes if key in weights and tuple(shapes[key]) != tuple(weights[key].shape)]
    if not (missing or unexpected or reshaped):
        return None
    faults = [f'{len(keys)} {what} (first: {keys[0]})' for keys, what in
              ((missing, 'missing'), (unexpected, 'unexpected')) if keys]  # fmt: skip
    if reshaped:
        key = reshaped[0]
        sizes = f'{tuple(weights[key].shape)} in the file, {tuple(shapes[key])} in the model'
        faults.append(f'{len(reshaped)} of another shape (first: {key}, {sizes})')
    who = f'are of {author!r}, not of' if author and author != name else 'do not fit'
    return UsageError(
        f'{path}: these weights {who} {name!r}: of {len(shapes)} tensors {", ".join(faults)}; '
        'use the configuration that the file was trained with'
    )


def _says_its_training(checkpoint: Mapping[str, Any]) -> bool:
    match checkpoint:
        case {'config': {'model': {'name': str(), 'options': dict()}, 'data': dict()}, 'classes': [*classes]}:
            return all(isinstance(name, str) for name in classes)
    return False


def _comment(digest: str) -> bytes:
    return _COMMENT.to_bytes(2, 'little') + _MARK + digest.encode()


def _verify(path: Path) -> None:
    """Raises unless the file agrees with its own SHA-256, or, where another program wrote it, with its CRC-32s."""
    size = path.stat().st_size
    with open(path, 'rb') as file:
        zipped = file.read(4) == b'PK\x03\x04'
        file.seek(max(0, size - _COMMENT - 2))
        tail = file.read()
        ours = len(tail) == _COMMENT + 2 and tail[:-64] == _comment('')
        foreign = tail[-_END_RECORD:].startswith(b'PK\x05\x06') and tail.endswith(b'\0\0')
        if ours:
            file.seek(0)
            sha256, left = hashlib.sha256(), size - len(tail)
            while left and (block := file.read(min(left, 1 << 20))):
                sha256.update(block)
                left -= len(block)
            sha256.update(b'\0\0')  # the length of the comment before there was one
            whole = sha256.hexdigest().encode() == tail[-64:]
        elif zipped and foreign:
            try:
                whole = zipfile.ZipFile(file).testzip() is None
            except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError):
                whole = False
        else:
            whole = not zipped  # the format before torch 1.6: torch.load judges it
    if not whole:
        raise UsageError(f'{path}: the file is damaged or cut short ({size} bytes); use another copy')


def _reason(error: Exception, path: Path) -> str:
    """One line on why a file was refused."""
    asked = re.search(r'GLOBAL\s+([\w.]+)|[Uu]nsupported class\s+([\w.]+)', str(error))
    names = [asked[1] or asked[2]] if asked else _named_globals(path)
    if names:
        return (
            f'refused, and nothing in it was executed: it asks for {", ".join(map(repr, names))}, neither tensors '
            'nor plain values; ask its author for a .safetensors file'
        )
    return f'not a checkpoint, or the file is damaged or cut short ({type(error).__name__}); use another copy'


def _named_globals(path: Path) -> list[str]:
    """What a pickle of protocol 4 or later, which ``torch.load`` does not read, would import: disassembled, not run."""
    names: list[str] = []
    strings: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            [pickled] = [name for name in archive.namelist() if name.endswith('/data.pkl')]
            for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
                if opcode.name == 'STACK_GLOBAL':
                    names.append('.'.join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except (zipfile.BadZipFile, ValueError, IndexError):
        return []
    harmless = ('torch.', 'collections.', 'argparse.')
    return sorted({name for name in names if not name.startswith(harmless)})
