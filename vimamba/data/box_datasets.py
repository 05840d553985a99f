"""The base of data sets of objects: checked boxes, compact memory, samples."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vimamba.data.files import FileDataset, Root, Transform
from vimamba.data.image import BrokenImage, read_image
from vimamba.errors import UsageError, number

__all__ = ['ObjectDataset', 'inside']

MAX_ASPECT = 100_000  # a strip is padded by the model, not scaled up


class ObjectDataset(FileDataset):
    """Images with boxes, and maybe masks, of the objects in them.

    ``dataset[i]`` is ``transform(image, target)`` with a PIL image and a target of arrays:

        boxes (N, 4) float32     left, top, right, bottom in pixels, the outer edges
        labels (N,) int64        index into ``classes``
        iscrowd (N,) int64       1 for a crowd, which is neither missed nor a false positive
        area (N,) float32        of the object, in square pixels
        masks (N, H, W) uint8    with ``masks=True``
        image_id int

    EXIF orientation is not applied, since annotations refer to the stored pixels.

    Attributes:
        skipped: records left out, as ``'file: record: reason'``.
    """

    def __init__(self, classes: Sequence[str], transform: Transform | None, masks: bool) -> None:
        self.classes, self.transform, self.with_masks = list(classes), transform, masks
        self.skipped: list[str] = []
        self._added: list[tuple[Root, bytes]] = []

    def _add(self, path: Root, number: int, size: tuple[int, int], objects: Sequence[dict]) -> None:
        """An image of ``size`` (height, width) with objects: 'box', 'label', 'iscrowd', 'area', 'shape'."""
        self._added.append((path, json.dumps([number, *size, objects], separators=(',', ':')).encode()))

    def _box(self, box: Sequence[float], size: tuple[int, int], where: str) -> list[float]:
        """A box (left, top, right, bottom) cut to an image of ``size`` (height, width).

        A box without area is added to ``skipped``, and the result is empty.

        Raises:
            UsageError: it is not made of finite numbers.
        """
        if not all(map(number().fits, box)):
            raise UsageError(f'{where}: its box {list(box)} is not made of finite numbers')
        left, top, right, bottom = edges = tuple(map(float, box))
        cut = np.clip(edges, 0, size[::-1] * 2)
        held = cut.astype(np.float32)
        sides = f'({right - left:g} x {bottom - top:g})'
        for given, reason in (
            (edges, f'is empty or inverted {sides}'),
            (cut, f'lies outside the image of {size[1]} x {size[0]} pixels'),
            (held, f'is too thin for float32 {sides}'),
        ):
            if given[2] <= given[0] or given[3] <= given[1]:
                self.skipped.append(f'{where}: its box {reason}')
                return []
        return held.tolist()

    def _close(self, file: Path) -> None:
        """Joins all records into one buffer: workers would copy a million small objects by their reference counts."""
        super().__init__([path for path, _ in self._added], self.transform)
        records = [record for _, record in self._added]
        self._records, self._ends = b''.join(records), np.cumsum([0, *map(len, records)])
        del self._added
        if not len(self):
            raise UsageError(f'{file}: no images in it')
        if self.skipped:
            warnings.warn(f'{len(self.skipped)} annotations left out, the first: {self.skipped[0]}', stacklevel=3)

    def __getitem__(self, index: int) -> Any:
        path = self.sample_path(index)
        image = read_image(path, upright=False, max_aspect=MAX_ASPECT)
        number, height, width, objects = json.loads(self._records[self._ends[index] : self._ends[index + 1]])
        if (image.height, image.width) != (height, width):
            raise BrokenImage(path, f'{image.width} x {image.height} pixels, its annotation says {width} x {height}')
        target: dict[str, Any] = {
            'boxes': np.array([o['box'] for o in objects], np.float32).reshape(-1, 4),
            'labels': np.array([o['label'] for o in objects], np.int64),
            'iscrowd': np.array([o['iscrowd'] for o in objects], np.int64),
            'area': np.array([float(o['area']) for o in objects]).astype(np.float32),
            'image_id': number,
        }
        if self.with_masks:
            masks = [self._mask(o['shape'], height, width) for o in objects]
            target['masks'] = np.array(masks, np.uint8).reshape(-1, height, width)
        return self.transform(image, target) if self.transform else (image, target)

    def _mask(self, shape: Any, height: int, width: int) -> np.ndarray:
        """Decodes the shape of an object: (height, width) uint8."""
        raise NotImplementedError


def inside(folder: Path, name: Any, where: str) -> Path:
    """Joins a folder and the name of a file in it.

    Raises:
        UsageError: the name is not text, or leads out of the folder.
    """
    if not isinstance(name, str) or not name or os.path.isabs(name) or '..' in Path(name).parts or '\0' in name:
        raise UsageError(f'{where}: {name!r} is not the name of a file in {folder}')
    return folder / name
