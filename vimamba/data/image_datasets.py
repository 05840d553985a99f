"""Data sets of image classification: scikit-learn's digits, folders of images, ImageNet.

Each is map-style: ``dataset[i]`` is (image, target). Attributes: ``classes``; ``sample_path(i)``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import functional as F

from vimamba.data.files import FileDataset, Root, Transform, class_folders, subfolders
from vimamba.data.image import read_image
from vimamba.errors import UsageError, bad_argument, integer, number, or_none

__all__ = ['Digits', 'Folder', 'ImageNet', 'digits_split']


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)


def _keep(targets: np.ndarray, fraction: float, split: str, seed: int) -> np.ndarray:
    """Sorted indices of ``fraction`` of each class, at least one image of each, drawn under ``seed``."""
    number(above=0, high=1)(fraction, 'fraction')
    if fraction < 1 and split != 'train':
        raise bad_argument('fraction', f'1 for the {split} split', fraction, 'only training images are left out')
    if fraction == 1:
        return np.arange(len(targets))
    order = _stratified_order(targets, seed)
    kept = [order[targets[order] == c] for c in np.unique(targets)]
    return np.sort(np.concatenate([of[: max(1, round(fraction * len(of)))] for of in kept]))


def _stratified_order(targets: np.ndarray, seed: int) -> np.ndarray:
    """A permutation whose contiguous slices all have the classes in proportion, to about one image.

    Uses ``RandomState``, whose streams NumPy keeps the same in future versions.
    """
    order = np.random.RandomState(seed).permutation(len(targets))
    place = np.empty(len(targets))
    for c in np.unique(targets):
        (members,) = np.nonzero(targets[order] == c)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place, kind='stable')]


def digits_split(targets: np.ndarray, *, fold: int | None = None, folds: int = 5) -> dict[str, np.ndarray]:
    """The indices of each digits split, stratified and fixed before any model was tuned on it.

    ``targets`` are the classes, (N,) int. Without ``fold``: 70 % train, 15 % val, 15 % test. With it, 0 to folds - 1,
    for cross-validation: test is that fold of ``folds``, val the 15 % of all images that follow it, train the rest.
    """
    n = len(targets)
    order = _stratified_order(targets, seed=0)
    integer(2, 10)(folds, 'folds')
    or_none(integer(0, folds - 1))(fold, 'fold')
    if fold is None:
        test, val = round(0.15 * n), round(0.30 * n)
    else:
        first, last = (round(f * n / folds) for f in (fold, fold + 1))
        order = np.roll(order, -first)  # this fold comes first
        test = last - first
        val = test + round(0.15 * n)
    return {'test': order[:test], 'val': order[test:val], 'train': order[val:]}


class Digits(Dataset):
    """1,797 real handwritten digits, 8 x 8, 10 classes: E. Alpaydin and C. Kaynak, 1998, as kept in scikit-learn.

    An image is a PIL image of mode L, its 17 grey levels scaled to 0..255. `digits_split` says which are in a split.
    """

    splits = ('train', 'val', 'test')

    def __init__(
        self,
        *,
        split: str,
        transform: Transform | None = None,
        seed: int = 0,
        fold: int | None = None,
        folds: int = 5,
        fraction: float = 1.0,
    ):
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise UsageError('digits are part of scikit-learn, which is missing: pip install vimamba[train]') from None
        scans = load_digits()
        index = np.sort(digits_split(scans.target, fold=fold, folds=folds)[split])
        self.index = index = index[_keep(scans.target[index], fraction, split, seed)]  # into scikit-learn's order
        self.images = np.rint(scans.images[index] * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
        self.targets = scans.target[index]
        self.classes = [str(c) for c in scans.target_names]
        self.transform = transform or _to_tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.targets[index])

    def sample_path(self, index: int) -> str:
        return f'digits/{self.index[index]}'


class Folder(FileDataset):
    """``root/{train,val}/<class>/**/<image>``; the classes are the folders of train, sorted by name."""

    splits = ('train', 'val')

    def __init__(
        self, *, root: Root, split: str, transform: Transform | None = None, seed: int = 0, fraction: float = 1.0
    ):
        folder = Path(root, split)
        found, folders = class_folders(root, split, IMG_EXTENSIONS, 'image')
        self.classes, targets = self._names(folder, folders), np.array([target for _, target in found])
        if split == 'train' and (empty := sorted(set(range(len(folders))) - set(targets.tolist()))):
            raise UsageError(f'{folder / folders[empty[0]]}: no images of this class; add some or remove the folder')
        kept = _keep(targets, fraction, split, seed)
        super().__init__([os.path.relpath(found[i][0], folder) for i in kept], transform or _to_tensor, folder)
        self.targets = targets[kept]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(read_image(self.sample_path(index))), int(self.targets[index])

    @staticmethod
    def _names(folder: Path, folders: list[str]) -> list[str]:
        """Readable class names from the sorted folder names."""
        return folders


class ImageNet(Folder):
    """ImageNet-1k: `Folder` with the 1,000 WordNet ids as folder names; ``classes`` are their names in words."""

    @staticmethod
    def _names(folder: Path, folders: list[str]) -> list[str]:
        info = ImageNetInfo()
        for part, found in ((folder.with_name('train'), folders), (folder, subfolders(folder, ''))):
            if odd := sorted(set(info.label_names()) ^ set(found)):
                raise UsageError(
                    f'{part}: expected the 1000 class folders of ImageNet-1k, '
                    f'found {len(found)}; {odd[0]} is {"not one of them" if odd[0] in found else "missing"}'
                )
        return [info.index_to_description(i) for i in range(len(folders))]
