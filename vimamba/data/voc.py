"""Pascal VOC's format of detection: an XML file for each image, checked as in `vimamba.data.coco`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vimamba.data.box_datasets import ObjectDataset, inside
from vimamba.data.files import Root, Transform, listed_names, read_text
from vimamba.errors import UsageError, unknown_name

__all__ = ['VOC_CLASSES', 'VocDataset']

VOC_CLASSES = (
    *('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog'),
    *('horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor'),
)


class VocDataset(ObjectDataset):
    """``ImageSets/Main/<split>.txt``, ``Annotations/<name>.xml`` and ``JPEGImages/<name>.jpg`` in a folder.

    Objects marked difficult become crowds. The files count pixels from 1; the boxes here are outer edges, counted from
    0.

    Args:
        root, split, transform: as in `create_dataset`; root is a folder such as ``VOCdevkit/VOC2012``.
        classes: names of the classes.

    Raises:
        UsageError: see `vimamba.data.coco`.
    """

    splits = ('train', 'val', 'trainval', 'test')

    def __init__(
        self, *, root: Root, split: str, transform: Transform | None = None, classes: Sequence[str] = VOC_CLASSES
    ) -> None:
        super().__init__(classes, transform, masks=False)
        listed = Path(root, 'ImageSets', 'Main', f'{split}.txt')
        for number, (line, name) in enumerate(listed_names(listed).items()):
            path = inside(Path(root, 'JPEGImages'), f'{name}.jpg', f'{listed}: line {line}')
            if not path.is_file():
                raise UsageError(f'{listed}: line {line}: {path} does not exist')
            self._read(Path(root, 'Annotations', f'{name}.xml'), path, number)
        self._close(listed)

    def _read(self, file: Path, path: Path, number: int) -> None:
        text = read_text(file)
        if '<!DOCTYPE' in text or '<!ENTITY' in text:
            raise UsageError(f'{file}: declares entities; annotations need none')
        try:
            tree = ElementTree.fromstring(text)
        except (ValueError, ElementTree.ParseError) as error:
            raise UsageError(f'{file}: not an annotation in XML ({error})') from None
        height, width = (_number(tree, f'size/{side}', str(file), int) for side in ('height', 'width'))
        if not 0 < min(height, width) <= max(height, width) < 2**31:
            raise UsageError(f'{file}: size: expected pixels, got {str(width)[:20]} x {str(height)[:20]}')
        objects = []
        for position, node in enumerate(tree.iter('object')):
            where = f'{file}: object {position}'
            name = (node.findtext('name') or '').strip()
            if name not in self.classes:
                raise UsageError(f'{where}: {unknown_name("class", name, self.classes)}')
            edges = ('xmin', 'ymin', 'xmax', 'ymax')
            left, top, right, bottom = (_number(node, f'bndbox/{edge}', where) for edge in edges)
            if box := self._box((left - 1, top - 1, right, bottom), (height, width), where):
                area = (box[2] - box[0]) * (box[3] - box[1])
                crowd = int(node.findtext('difficult', '0').strip() == '1')
                objects.append({'box': box, 'label': self.classes.index(name), 'iscrowd': crowd, 'area': area})
        self._add(path, number, (height, width), objects)


def _number(node: ElementTree.Element, path: str, where: str, kind: Callable[[str], Any] = float) -> Any:
    text = node.findtext(path)
    try:
        return kind(text or '')
    except ValueError:
        expected = 'an integer' if kind is int else 'a number'
        raise UsageError(f'{where}: {path}: expected {expected}, got {str(text)[:40]!r}') from None
