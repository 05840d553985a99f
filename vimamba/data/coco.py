"""COCO's format of detection and instance segmentation: a JSON file for each split, polygon and run-length masks.

| a record with | is |
|---|---|
| a missing or wrong key, a number, file or class name used twice, an unknown image or category | refused |
| a box that is not four finite numbers | refused |
| a polygon with fewer than three points, an odd number of coordinates, or points far from the image | refused |
| run lengths whose size or sum is not that of the image | refused |
| a file name that leads out of the folder, or a missing image file | refused |
| a box without area in float32, or outside the image | left out, with one warning for all |
| a box partly outside the image | cut to it |

Refused means a `UsageError` before training, with file, record and reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vimamba.data.box_datasets import ObjectDataset, inside
from vimamba.data.files import Root, Transform, read_json
from vimamba.errors import UsageError, number

__all__ = ['CocoDataset', 'run_lengths']

_SECTIONS: dict[str, tuple[str, dict[str, type]]] = {  # of the file -> its records in messages, and their keys
    'images': ('image', {'file_name': str, 'height': int, 'width': int}),
    'annotations': ('annotation', {'image_id': int, 'category_id': int, 'bbox': list}),
    'categories': ('category', {'name': str}),
}


class CocoDataset(ObjectDataset):
    """``root/train2017/*.jpg`` with ``root/annotations/instances_train2017.json``, or files of other names.

    Args:
        root, split, transform: as in `create_dataset`.
        masks: give instance masks; every object must have one.
        train_images, val_images: the folders of the images, in ``root``.
        train_json, val_json: the files of the annotations, in ``root``.
        keep_empty: also train on images without objects.

    Raises:
        UsageError: a record that the table of this module refuses.
    """

    splits = ('train', 'val')

    def __init__(
        self,
        *,
        root: Root,
        split: str,
        transform: Transform | None = None,
        masks: bool = False,
        train_images: str = 'train2017',
        val_images: str = 'val2017',
        train_json: str = 'annotations/instances_train2017.json',
        val_json: str = 'annotations/instances_val2017.json',
        keep_empty: bool = True,
    ) -> None:
        names = {'train': (train_images, train_json), 'val': (val_images, val_json)}
        folder, file = (Path(root, name) for name in names[split])
        content = _load(file)
        categories = _categories(content, file)
        train = Path(root, train_json)
        if split != 'train' and train.is_file() and _categories(_load(train), train) != categories:
            raise UsageError(f'{file}: its categories differ from those of {train}: write the same into both')
        super().__init__(list(categories.values()), transform, masks)
        images = _images(content, file, folder)
        objects: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
        labels = {number: label for label, number in enumerate(categories)}
        for where, record in _records(content, file, 'annotations'):
            image, category = record['image_id'], record['category_id']
            if image not in images:
                raise UsageError(f'{where}: no image has the id {image}')
            if category not in labels:
                raise UsageError(f'{where}: no category has the id {category}')
            if made := self._object(record, labels[category], images[image][1], where):
                objects[image].append(made)
        for image, (path, size) in images.items():
            if keep_empty or split != 'train' or objects[image]:
                self._add(path, image, size, objects[image])
        if images and not self._added:
            raise UsageError(f'{file}: none of its {len(images)} images has objects; data.keep_empty=True keeps them')
        self._close(file)

    def _object(self, record: dict[str, Any], label: int, size: tuple[int, int], where: str) -> dict[str, Any] | None:
        if len(record['bbox']) != 4:
            raise UsageError(f'{where}: bbox: expected four numbers (left, top, width, height), got {record["bbox"]}')
        left, top, width, height = record['bbox']
        numbers = all(map(number().fits, record['bbox']))
        box = self._box((left, top, left + width, top + height) if numbers else record['bbox'], size, where)
        if not box:
            return None
        crowd, area = record.get('iscrowd', 0), record.get('area', (box[2] - box[0]) * (box[3] - box[1]))
        if crowd not in (0, 1):
            raise UsageError(f'{where}: iscrowd: expected 0 or 1, got {_shown(crowd)}')
        if not number(0).fits(area):
            raise UsageError(f'{where}: area: expected a number of square pixels, got {_shown(area)}')
        shape = _shape(record.get('segmentation'), size, where) if self.with_masks else None
        return {'box': box, 'label': label, 'iscrowd': crowd, 'area': area, 'shape': shape}

    def _mask(self, shape: Any, height: int, width: int) -> np.ndarray:
        if isinstance(shape, dict):
            values = np.arange(len(shape['counts']), dtype=np.uint8) % 2
            return np.repeat(values, shape['counts']).reshape(width, height).T  # columns first
        try:
            from faster_coco_eval.core import mask as coding
        except ImportError as error:
            raise UsageError(f'polygons need faster-coco-eval ({error}): pip install vimamba[det]') from None
        return coding.decode(coding.merge(coding.frPyObjects(shape, height, width)))


def run_lengths(text: str) -> list[int]:
    """The run lengths in COCO's compressed text: five bits per character; from the fourth on, differences.

    A difference is to the run length two places before.

    >>> run_lengths('03o0')
    [0, 3, 31]

    Raises:
        ValueError: the text ends within a number, has other characters, or a number of more than 60 bits.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f'invalid character {character!r}')
        value |= (bits & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError('a number of more than 60 bits')
        if bits & 32:  # the number goes on
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError('it ends within a number')
    return counts


def _load(file: Path) -> dict[str, Any]:
    content = read_json(file)
    _need(content, dict.fromkeys(_SECTIONS, list), str(file))
    return content


def _need(record: Any, keys: dict[str, type], where: str) -> None:
    if not isinstance(record, dict):
        raise UsageError(f'{where}: expected an object with {", ".join(keys)}, got {_shown(record)}')
    for key, kind in keys.items():
        if key not in record:
            raise UsageError(f'{where}: {key} is missing')
        if not isinstance(record[key], kind) or isinstance(record[key], bool):
            raise UsageError(f'{where}: {key}: expected {kind.__name__}, got {_shown(record[key])}')
        if kind is int and not -(2**63) <= record[key] < 2**63:
            raise UsageError(f'{where}: {key}: expected an integer of 64 bits, got {_shown(record[key])}')


def _records(content: dict[str, Any], file: Path, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a section, each with its place: its id, or its number from 1. No id may occur twice."""
    kind, keys = _SECTIONS[section]
    seen: set[int] = set()
    for position, record in enumerate(content[section], 1):
        number = record.get('id') if isinstance(record, dict) else None
        named = type(number) is int and -(2**63) <= number < 2**63
        where = f'{file}: {kind} ' + (f'id {number}' if named else f'number {position}')
        _need(record, {'id': int, **keys}, where)
        if number in seen:
            raise UsageError(f'{where}: another {kind} has this id')
        seen.add(record['id'])
        yield where, record


def _shown(value: Any) -> str:
    """A value as JSON, cut if it is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f'{text[:40]}...'


def _categories(content: dict[str, Any], file: Path) -> dict[int, str]:
    """Names by id, in the order of ids."""
    names: dict[int, str] = {}
    for where, record in _records(content, file, 'categories'):
        if record['name'] in names.values():
            raise UsageError(f'{where}: another category has this name')
        names[record['id']] = record['name']
    if not names:
        raise UsageError(f'{file}: no categories in it')
    return dict(sorted(names.items()))


def _images(content: dict[str, Any], file: Path, folder: Path) -> dict[int, tuple[Path, tuple[int, int]]]:
    """Path and (height, width) by id, in the order of ids."""
    images: dict[int, tuple[Path, tuple[int, int]]] = {}
    files: dict[Path, int] = {}
    missing = []
    for where, record in _records(content, file, 'images'):
        if record['height'] < 1 or record['width'] < 1:
            raise UsageError(f'{where}: a size of {record["width"]} x {record["height"]} pixels')
        path = inside(folder, record['file_name'], where)
        if files.setdefault(path, record['id']) != record['id']:
            raise UsageError(f'{where}: image id {files[path]} has the same file_name')
        if not path.is_file():
            missing.append(f'{where}: {path} does not exist')
        images[record['id']] = path, (record['height'], record['width'])
    if missing:
        raise UsageError(missing[0] + f', nor do {len(missing) - 1} others' * (len(missing) > 1))
    return dict(sorted(images.items()))


def _shape(segmentation: Any, size: tuple[int, int], where: str) -> Any:
    """A segmentation that can be decoded: polygons, or {'counts': run lengths}."""
    height, width = size
    if isinstance(segmentation, dict):
        counts = segmentation.get('counts')
        if segmentation.get('size') != [height, width]:
            sizes = f'size {segmentation.get("size")}, the image {[height, width]} (height, width)'
            raise UsageError(f'{where}: its run lengths have {sizes}')
        try:
            counts = run_lengths(counts) if isinstance(counts, str) else counts
        except ValueError as error:
            raise UsageError(f'{where}: its run lengths are broken: {error}') from None
        if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
            raise UsageError(f'{where}: its run lengths are not a list of integers >= 0')
        if (total := sum(counts)) != height * width:
            raise UsageError(f'{where}: its run lengths add up to {total} pixels, the image has {height * width}')
        return {'counts': counts}
    if not isinstance(segmentation, list) or not segmentation:
        raise UsageError(f'{where}: segmentation: expected polygons or run lengths, got {_shown(segmentation)}')
    limit = 10 * max(size)  # decoding walks along the outline: far corners would take all memory
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            got = f'{len(polygon)} numbers' if isinstance(polygon, list) else repr(polygon)[:40]
            raise UsageError(f'{where}: a polygon of {got}: expected x and y of three points or more')
        if not all(type(value) in (int, float) and -limit <= value <= limit for value in polygon):  # NaN is neither
            raise UsageError(f'{where}: a polygon with coordinates that are not finite numbers, or far from the image')
    return segmentation
