"""Pascal VOC's format of detection: an XML file for each image.

Refused and left out is what `vimamba.data.coco` refuses and leaves out, with file, record and reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vimamba.data.objects import ObjectDataset, checked_box, inside
from vimamba.errors import UsageError, bad_argument, unknown_name

__all__ = ['VOC_CLASSES', 'VocDataset']

VOC_CLASSES = (
    *('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog'),
    *('horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor'),
)


class VocDataset(ObjectDataset):
    """``ImageSets/Main/<split>.txt``, ``Annotations/<name>.xml`` and ``JPEGImages/<name>.jpg`` under a folder.

    Objects marked difficult become crowds: neither to be found nor wrong to be found. Pixels count from 1 in the files;
    the boxes here are outer edges, counted from 0.

    Args:
        root: the folder, such as ``VOCdevkit/VOC2012``.
        split: 'train', 'val', 'trainval' or 'test'.
        transform: see `ObjectDataset`.
        seed: of no effect here.
        classes: their names.

    Raises:
        UsageError: see `vimamba.data.coco`.
    """

    splits = ('train', 'val', 'trainval', 'test')

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        split: str,
        transform: Callable[..., Any] | None = None,
        seed: int = 0,
        classes: Sequence[str] = VOC_CLASSES,
    ) -> None:
        if root is None:
            raise bad_argument('root', 'the folder of ImageSets, Annotations and JPEGImages', root)
        super().__init__(classes, transform, masks=False)
        listed = Path(root, 'ImageSets', 'Main', f'{split}.txt')
        if not listed.is_file():
            raise UsageError(f'{listed}: no such file')
        for number, name in enumerate(listed.read_text().split()):
            path = inside(Path(root, 'JPEGImages'), f'{name}.jpg', str(listed))
            if not path.is_file():
                raise UsageError(f'{listed}: line {number + 1}: no such file as {path}')
            self._read(Path(root, 'Annotations', f'{name}.xml'), path, number)
        self._close(listed)

    def _read(self, file: Path, path: Path, number: int) -> None:
        try:
            text = file.read_text()
            if '<!DOCTYPE' in text or '<!ENTITY' in text:
                raise UsageError(f'{file}: declares entities, which annotations do not need')
            tree = ElementTree.fromstring(text)
        except (OSError, ValueError, ElementTree.ParseError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f'{file}: not an annotation in XML ({error})') from None
        height, width = (int(_number(tree, f'size/{side}', str(file))) for side in ('height', 'width'))
        objects = []
        for position, node in enumerate(tree.iter('object')):
            where = f'{file}: object {position}'
            name = (node.findtext('name') or '').strip()
            if name not in self.classes:
                raise unknown_name('class', name, self.classes, f'{where}: ')
            left, top, right, bottom = (
                _number(node, f'bndbox/{edge}', where) for edge in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            box, why = checked_box((left - 1, top - 1, right, bottom), (height, width), where)
            if why:
                self.skipped.append(f'{where}: {why}')
                continue
            area = (box[2] - box[0]) * (box[3] - box[1])
            crowd = int(node.findtext('difficult', '0').strip() == '1')
            objects.append({'box': box, 'label': self.classes.index(name), 'iscrowd': crowd, 'area': area})
        self._add(path, number, (height, width), objects)


def _number(node: ElementTree.Element, path: str, where: str) -> float:
    text = node.findtext(path)
    try:
        return float(text or '')
    except ValueError:
        raise UsageError(f'{where}: {path}: expected a number, got {text!r}') from None
