"""Data sets by name, for each task."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from vimamba.data.coco import CocoDataset
from vimamba.data.image_datasets import Digits, Folder, ImageNet
from vimamba.data.mask_folders import ADE20K, Cityscapes, MaskFolder, VocSegmentation
from vimamba.data.moving_digits import MovingDigits
from vimamba.data.scenes import DigitScenes, SemanticDigitScenes
from vimamba.data.video_datasets import SomethingSomething, VideoFolder, VideoList, VideoSplits
from vimamba.data.voc import VocDataset
from vimamba.errors import bad_argument, unknown_name

__all__ = ['DATASETS', 'arguments_of', 'create_dataset', 'options_of']

DATASETS: dict[str, dict[str, Any]] = {
    'classification': {'digits': Digits, 'folder': Folder, 'imagenet': ImageNet},
    'detection': {'coco': CocoDataset, 'digit_scenes': DigitScenes, 'voc': VocDataset},
    'segmentation': {
        'ade20k': ADE20K,
        'cityscapes': Cityscapes,
        'digit_scenes': SemanticDigitScenes,
        'masks': MaskFolder,
        'voc': VocSegmentation,
    },
    'video': {
        'moving_digits': MovingDigits,
        'something_v2': SomethingSomething,
        'video_folder': VideoFolder,
        'video_list': VideoList,
        'video_splits': VideoSplits,
    },
}


def arguments_of(kind: type) -> list[inspect.Parameter]:
    """The named arguments of a class, with those that it passes on to its bases."""
    named: list[inspect.Parameter] = []
    for base in (base for base in kind.__mro__ if '__init__' in vars(base)):
        parameters = inspect.signature(base).parameters.values()
        named += [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return named


def options_of(kind: Any) -> dict[str, Any]:
    """The keyword arguments of a data set's class and their defaults."""
    found = inspect.signature(kind.find).parameters.values() if hasattr(kind, 'find') else ()
    keywords = [p for p in arguments_of(kind) if p.kind is p.KEYWORD_ONLY]
    return {p.name: p.default for p in (*found, *keywords)}


def create_dataset(
    name: str,
    *,
    task: str = 'classification',
    root: str | os.PathLike[str] | None = None,
    split: str,
    transform: Callable[..., Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Any:
    """A data set by name.

    Args:
        name: one of ``DATASETS[task]``.
        task: 'classification', 'detection', 'segmentation' or 'video'.
        root: the folder of the data set; digits and digit scenes have none.
        split: one of the ``splits`` of the data set, such as 'train' or 'val'.
        transform: for classification, PIL image -> float tensor (C, H, W); None keeps the size and scales to 0..1. For
            boxes and masks, image and target -> both as tensors, such as `DenseTransform`. For videos, see `Clips`.
        seed: only chooses which images ``fraction`` keeps. The digits split never depends on it.
        options: further arguments of the data set's class.

    >>> digits = create_dataset('digits', split='test')
    >>> len(digits), digits[0][0].shape, digits.classes[:3]
    (270, torch.Size([1, 8, 8]), ['0', '1', '2'])

    Raises:
        UsageError: for an unknown name, split or option (with the nearest valid one), a missing or empty folder.
    """
    if task not in DATASETS:
        raise unknown_name('task', task, DATASETS)
    if name not in DATASETS[task]:
        raise unknown_name(f'{task} data set', name, DATASETS[task], key='name')
    kind = DATASETS[task][name]
    if split not in kind.splits:
        raise unknown_name(f'split of {name}', split, kind.splits)
    arguments = options_of(kind)
    given = {'root': root, 'split': split, 'transform': transform, 'seed': seed}
    if 'root' not in arguments and root is not None:
        raise bad_argument('root', f'None for {name} (they come with scikit-learn)', repr(root))
    if arguments.get('root') is not None and root is None:  # it has no default
        raise bad_argument('root', 'the folder of the data set', root)
    for option in options:
        if option not in (valid := arguments.keys() - given):
            raise unknown_name(f'option of data set {name}', option, valid, key=option)
    return kind(**{key: value for key, value in given.items() if key in arguments}, **options)
