"""Semantic segmentation from folders: images, and masks of class numbers with the same names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from vimamba.data.box_datasets import MAX_ASPECT
from vimamba.data.files import FileDataset, Root, Transform, files_below, listed_names, read_text
from vimamba.data.image import BrokenImage, read_image
from vimamba.data.transforms import IGNORED
from vimamba.data.voc import VOC_CLASSES
from vimamba.errors import UsageError, bad_argument, first_line

__all__ = ['ADE20K', 'Cityscapes', 'MaskFolder', 'VocSegmentation']

_CITYSCAPES = torchvision.datasets.Cityscapes.classes
_Layout = tuple[Path, tuple[str, ...], Path, str]  # folder and endings of images, folder and ending of masks


class MaskFolder(FileDataset):
    """``root/{train,val}/images/*`` with ``root/{train,val}/masks/*.png`` of the same names.

    A mask has one channel of 8 or 16 bits (grey, or a palette, whose colours do not matter); its values are class
    numbers, at most 254; 255 is left out of loss and metric. ``dataset[i]`` is ``transform(image, target)`` with a
    PIL image and ``{'mask': (H, W) uint8, 'image_id': int}``.

    Args:
        root, split, transform: as in `create_dataset`.
        classes: names of the classes, from number 0; None for the lines of ``root/classes.txt``.

    Raises:
        UsageError: a folder, an image or a mask is missing; the message names it.
    """

    splits: tuple[str, ...] = ('train', 'val')
    one_size = False  # all images have the same size

    def __init__(
        self, *, root: Root, split: str, transform: Transform | None = None, classes: Sequence[str] | None = None
    ) -> None:
        root = Path(root)
        self.classes = list(classes or self._classes(root))
        if len(self.classes) > IGNORED:
            raise bad_argument('classes', f'at most {IGNORED}, the numbers below {IGNORED}', len(self.classes))
        if len(set(self.classes)) < len(self.classes):
            raise bad_argument('classes', 'each name once', self.classes)
        image_folder, endings, mask_folder, mask_ending = self._layout(root, split)
        images, masks = _files(image_folder, endings), _files(mask_folder, (mask_ending,))
        chosen = self._chosen(root, split)
        keys = sorted(images) if chosen is None else chosen
        for key in keys:
            if key not in images:
                raise UsageError(f'{image_folder / key}: no such image')
            if key not in masks:
                raise UsageError(f'{images[key]}: it has no mask {mask_folder / key}{mask_ending}')
        if chosen is None and (alone := sorted(set(masks) - set(images))):
            raise UsageError(f'{masks[alone[0]]}: it has no image in {image_folder}')
        if not keys:
            raise UsageError(f'{image_folder}: no images in it')
        super().__init__([images[key] for key in keys], transform)
        self._masks = FileDataset([masks[key] for key in keys], None)
        self._numbers = np.full(256, -1, np.int16)  # of the file -> of the class; -1: not allowed
        for number, label in {**self._meaning(), IGNORED: IGNORED}.items():
            self._numbers[number] = label

    def _layout(self, root: Path, split: str) -> _Layout:
        return root / split / 'images', IMG_EXTENSIONS, root / split / 'masks', '.png'

    def _classes(self, root: Path) -> Sequence[str]:
        file = root / 'classes.txt'
        names = list(listed_names(file).values()) if file.is_file() else []
        if not names:
            raise UsageError(f'{root}: needs classes.txt, a name on each line, or data.classes=[...]')
        return names

    def _chosen(self, root: Path, split: str) -> list[str] | None:
        """The names of the split, if a file lists them."""
        return None

    def _meaning(self) -> dict[int, int]:
        """The class of each number in a mask, except 255."""
        return {i: i for i in range(len(self.classes))}

    def __getitem__(self, index: int) -> Any:
        path, mask_path = self.sample_path(index), self._masks.sample_path(index)
        image = read_image(path, upright=False, max_aspect=MAX_ASPECT)
        values = _read_mask(mask_path)
        if values.shape != (image.height, image.width):
            sizes = f'{values.shape[1]} x {values.shape[0]} pixels, its image {image.width} x {image.height}'
            raise BrokenImage(mask_path, sizes)
        mask = self._numbers[values.clip(0, IGNORED)]
        if (odd := (mask < 0) | (values != values.clip(0, IGNORED))).any():
            wrong = int(values[odd][0])
            raise BrokenImage(mask_path, f'a pixel of value {wrong}: no class of {len(self.classes)} has it')
        target = {'mask': mask.astype(np.uint8), 'image_id': index}
        return self.transform(image, target) if self.transform else (image, target)


class ADE20K(MaskFolder):
    """ADE20K's 150 classes: ``images/{training,validation}`` and ``annotations/...``; 0, "other", is ignored.

    The names come from ``root/objectInfo150.txt``, if that file exists.
    """

    def _layout(self, root: Path, split: str) -> _Layout:
        folder = {'train': 'training', 'val': 'validation'}[split]
        return root / 'images' / folder, IMG_EXTENSIONS, root / 'annotations' / folder, '.png'

    def _classes(self, root: Path) -> Sequence[str]:
        file = root / 'objectInfo150.txt'
        lines = read_text(file).split('\n')[1:] if file.is_file() else []
        names = [line.split('\t')[-1].split(',')[0].strip() for line in lines if line.strip()]
        return names if len(names) == 150 else [str(i + 1) for i in range(150)]

    def _meaning(self) -> dict[int, int]:
        return {0: IGNORED, **{i + 1: i for i in range(len(self.classes))}}


class Cityscapes(MaskFolder):
    """Cityscapes' 19 classes: ``leftImg8bit/{split}/*/*_leftImg8bit.png`` and ``gtFine/{split}/*/*_labelIds.png``.

    Masks ``*_labelTrainIds.png``, as made by its scripts, are preferred if there are any.
    """

    splits = ('train', 'val', 'test')
    one_size = True

    def _layout(self, root: Path, split: str) -> _Layout:
        masks = root / 'gtFine' / split
        self.train_ids = next(masks.rglob('*_gtFine_labelTrainIds.png'), None) is not None
        ending = '_gtFine_labelTrainIds.png' if self.train_ids else '_gtFine_labelIds.png'
        return root / 'leftImg8bit' / split, ('_leftImg8bit.png',), masks, ending

    def _classes(self, root: Path) -> Sequence[str]:
        return [kind.name for kind in _CITYSCAPES if kind.train_id in range(19)]

    def _meaning(self) -> dict[int, int]:
        if self.train_ids:
            return super()._meaning()
        return {kind.id: kind.train_id for kind in _CITYSCAPES if kind.id >= 0}  # 255 for those left out


class VocSegmentation(MaskFolder):
    """Pascal VOC's 21 classes: ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation/{split}.txt``."""

    splits = ('train', 'val', 'trainval')

    def _layout(self, root: Path, split: str) -> _Layout:
        return root / 'JPEGImages', ('.jpg',), root / 'SegmentationClass', '.png'

    def _classes(self, root: Path) -> Sequence[str]:
        return ('background', *VOC_CLASSES)

    def _chosen(self, root: Path, split: str) -> list[str]:
        return list(listed_names(Path(root, 'ImageSets', 'Segmentation', f'{split}.txt')).values())


def _files(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Files by their path in the folder without the ending."""
    if not folder.is_dir():
        raise UsageError(f'{folder}: no such folder')
    found: dict[str, Path] = {}
    for path in sorted(map(Path, files_below(folder, [ending.lower() for ending in endings]))):
        name = path.relative_to(folder).as_posix()
        key = name[: -next(len(e) for e in endings if name.lower().endswith(e.lower()))]
        if found.setdefault(key, path) != path:
            raise UsageError(f'{path}: {found[key]} differs only in its ending; remove one of them')
    return found


def _read_mask(path: str) -> np.ndarray:
    """Reads a mask as (H, W) int32; a palette image gives its indices."""
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenImage(path, f'cannot be read as a mask ({first_line(error)})') from None
    if mode not in ('L', 'P', '1', 'I', 'I;16', 'I;16B'):
        raise BrokenImage(path, f'a mask of mode {mode}: save class numbers in one channel of 8 bits')
    return values.astype(np.int32)
