"""PIL image -> normalised float tensor (C, H, W), for training and for evaluation.

The parts are timm's and torchvision's; every random number comes from Python's, NumPy's or torch's global generator,
so that seeding those three (as `vimamba.data.loader` does for each sample) repeats an augmentation exactly.
"""

from __future__ import annotations

import inspect
import os
import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import timm.data
import torch
from PIL import Image
from timm.data.auto_augment import posterize
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2

from vimamba.data.image import to_channels
from vimamba.errors import (
    Rule,
    UsageError,
    bad_argument,
    check_options,
    integer,
    number,
    one_of,
    one_or_several,
    or_none,
    several,
    unknown_name,
    within,
)

__all__ = ['AUGMENT', 'create_transform']

RAND_AUGMENT = r'rand(-(m|n|p|mstd|mmax|inc)\d[\d.]*|-t\w+)*'
ALBUMENTATIONS = or_none(
    Rule(
        "a list such as [dict(type='MotionBlur', p=0.3)]",
        lambda value: isinstance(value, (list, tuple)) and all(isinstance(v, dict) and 'type' in v for v in value),
    )
)
INTERVAL = Rule(
    'two positive numbers (low, high)',
    lambda value: several(number(above=0), 2).fits(value) and value[0] <= value[1],
)
AUTO_AUGMENT = Rule(
    "timm's form, such as 'rand-m9-mstd0.5-inc1'",
    lambda value: isinstance(value, str) and (value[:4] != 'rand' or bool(re.fullmatch(RAND_AUGMENT, value))),
)
_COMMON: dict[str, tuple[Any, Rule]] = {
    'hflip': (0.0, number(0, 1)),  # probability of a left-right flip
    'color_jitter': (0.0, or_none(one_or_several(number(0), 3, 4))),  # as in timm, left out beside auto_augment
    'auto_augment': (None, or_none(AUTO_AUGMENT)),  # or 'augmix-m3-w3', 'original', ...
    're_prob': (0.0, number(0, 1)),  # random erasing: probability,
    're_mode': ('pixel', one_of('const', 'rand', 'pixel')),  # fill with 0, one colour or noise,
    're_count': (1, integer(1)),  # and most rectangles
    'albumentations': (None, ALBUMENTATIONS),
}
_STYLES: dict[str, dict[str, tuple[Any, Rule]]] = {
    'imagenet': {  # random resized crop: photographs
        **_COMMON,
        'hflip': (0.5, number(0, 1)),
        'vflip': (0.0, number(0, 1)),
        'scale': ((0.08, 1.0), INTERVAL),
        'ratio': ((3 / 4, 4 / 3), INTERVAL),
    },
    'small': {  # the whole image, resized, then a random affine map: small images, characters
        **_COMMON,
        'degrees': (0.0, one_or_several(number(0), 2)),
        'translate': (0.0, or_none(one_or_several(number(0, 1), 2))),
        'scale': ((1.0, 1.0), INTERVAL),
        'shear': (0.0, or_none(one_or_several(number(), 2, 4))),
        'fill': (0, one_or_several(number(0, 255))),
    },
}
AUGMENT = {style: {name: default for name, (default, _) in options.items()} for style, options in _STYLES.items()}
IGNORED = 255  # in a semantic map: of no class
INTERPOLATION = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')


def create_transform(
    *,
    training: bool,
    input_size: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = 'bicubic',
    crop_pct: float = 0.875,
    crop_mode: str = 'center',
    augment: dict[str, Any] | None = None,
) -> Callable[[Image.Image], torch.Tensor]:
    """Returns a function from a PIL image of any mode to a normalised float32 tensor (C, H, W).

    Without ``augment``: resize so that the image covers ``(H, W) / crop_pct``, centre crop, normalise. With it: its
    geometry ('imagenet': random resized crop; 'small': resize, random affine), flip, colour or
    RandAugment, albumentations, normalise, random erasing.

    Args:
        training: whether ``augment`` may be given.
        input_size: (C, H, W); C is 1 (grey), 3 (RGB) or 4 (RGBA), H and W any two positive integers.
        mean, std: one number per channel, for pixels in 0..1.
        interpolation: a PIL filter by name.
        crop_pct: fraction of each side that the centre crop keeps, in (0, 1].
        crop_mode: timm's 'center', 'squash' (ignores the aspect ratio) or 'border' (pads).
        augment: ``style`` ('imagenet' or 'small') and options; `AUGMENT` lists those of each style with defaults.
            None for no augmentation.

    >>> transform = create_transform(training=False, input_size=(1, 32, 24), mean=[0.5], std=[0.5])
    >>> transform(Image.new('L', (8, 8), 255)).shape
    torch.Size([1, 32, 24])

    Raises:
        UsageError: for a value out of range or an unknown key, with the nearest valid one.
    """
    channels, *size = input_size
    if channels not in (1, 3, 4) or len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise bad_argument('input_size', '(C, H, W), C one of 1, 3, 4, H and W positive integers', input_size)
    for name, value in (('mean', mean), ('std', std)):
        if len(value) != channels:
            raise bad_argument(name, f'{channels} numbers, one per channel', list(value))
    one_of(*INTERPOLATION)(interpolation, 'interpolation')
    one_of('center', 'squash', 'border')(crop_mode, 'crop_mode')
    number(above=0, high=1)(crop_pct, 'crop_pct')
    if augment is None:
        sizes: dict[str, Any] = {'interpolation': interpolation, 'crop_pct': crop_pct, 'crop_mode': crop_mode}
        evaluation = timm.data.create_transform(input_size, mean=tuple(mean), std=tuple(std), **sizes)
        return v2.Compose([partial(to_channels, channels=channels), evaluation])
    if not training:
        raise bad_argument('augment', 'None in evaluation', augment)
    if not isinstance(augment, dict):
        raise bad_argument('augment', 'a dict of options or None', augment)

    with within('augment'):
        return _augmenting(input_size, mean, std, interpolation, augment)


def _augmenting(input_size: Any, mean: Any, std: Any, interpolation: str, augment: dict[str, Any]) -> v2.Compose:
    channels, *size = input_size
    options = dict(augment)
    style = one_of(*AUGMENT)(options.pop('style', 'imagenet'), 'style')
    check_options(options, {name: rule for name, (_, rule) in _STYLES[style].items()}, f'{style!r} augment option')
    a = {**AUGMENT[style], **options}
    recolour = a['auto_augment'] or a['color_jitter']
    if recolour and channels == 4:
        name = 'auto_augment' if a['auto_augment'] else 'color_jitter'
        raise bad_argument(name, 'no auto_augment or color_jitter with 4 channels', recolour)
    work = 3 if recolour else channels  # timm's colour operations want RGB
    try:
        crop, colour, _ = timm.data.create_transform(
            input_size,
            interpolation=interpolation,
            mean=tuple(mean) * (work // channels),
            is_training=True,
            separate=True,
            hflip=a['hflip'],
            vflip=a.get('vflip', 0.0),
            scale=a['scale'] if style == 'imagenet' else None,
            ratio=a.get('ratio'),
            color_jitter=a['color_jitter'] or None,  # type: ignore[arg-type]
            auto_augment=a['auto_augment'],
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:  # the rules leave it the one to judge
        raise UsageError(f'{one_line(error)}, got {a["auto_augment"]!r}', key='auto_augment') from error
    _keep_a_bit(colour)
    geometry = crop if style == 'imagenet' else _affine(size, interpolation, a)
    steps = [partial(to_channels, channels=work), geometry, colour, partial(to_channels, channels=channels)]
    if a['albumentations']:
        steps.append(_Albumentations(a['albumentations'], input_size))
    steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    if a['re_prob']:
        steps.append(RandomErasing(a['re_prob'], mode=a['re_mode'], max_count=a['re_count'], device='cpu'))
    return v2.Compose(steps)


def _keep_a_bit(colour: v2.Compose) -> None:
    """Makes timm's posterize keep at least one bit: at its largest magnitudes it keeps 0, which Pillow 12 refuses."""
    for step in colour.transforms:
        for op in (*getattr(step, 'ops', ()), *chain.from_iterable(getattr(step, 'policy', ()))):
            if op.aug_fn is posterize:
                op.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    return posterize(image, max(bits, 1), **options)


def _affine(size: Sequence[int], interpolation: str, a: dict[str, Any]) -> v2.Compose:
    shift = a['translate']
    shift = (shift, shift) if isinstance(shift, (int, float)) else shift  # part of the width, height
    moved = {'translate': shift, 'scale': a['scale'], 'shear': a['shear'], 'fill': a['fill']}
    affine = v2.RandomAffine(a['degrees'], **moved, interpolation=v2.InterpolationMode.BILINEAR)
    resize = v2.Resize(list(size), interpolation=v2.InterpolationMode(interpolation))
    return v2.Compose([resize, affine, v2.RandomHorizontalFlip(a['hflip'])])


class _Albumentations:
    """A pipeline of albumentations on uint8 (H, W, C), which keeps the size and type of the image."""

    def __init__(self, specs: list[dict[str, Any]], input_size: tuple[int, int, int]):
        self.shape = (*input_size[1:], input_size[0])
        transforms = build_albumentations(specs)
        self.pipeline = load_albumentations()['Compose'](transforms)
        self.pipeline.set_random_state(np.random.default_rng(0), random.Random(0))
        for spec, transform in zip(specs, transforms):  # one that cannot work says so now, not hours later
            try:
                self._check(transform(image=np.zeros(self.shape, np.uint8), force_apply=True)['image'])
            except Exception as error:
                raise UsageError(f'{spec["type"]}: {one_line(error)}', key='albumentations') from error

    def __call__(self, image: Image.Image) -> Image.Image:
        seed_albumentations(self.pipeline)
        out = self.pipeline(image=np.asarray(image).reshape(self.shape))['image']
        self._check(out)
        return Image.fromarray(out[..., 0] if self.shape[2] == 1 else out)

    def _check(self, out: np.ndarray) -> None:
        if out.shape != self.shape or out.dtype != np.uint8:
            raise bad_argument('the image it gives', f'uint8 {self.shape}', f'{out.dtype} {out.shape}')


def load_albumentations() -> dict[str, type]:
    """The transforms and compositions of albumentations by name.

    Raises:
        UsageError: albumentations is not installed.
    """
    os.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'  # otherwise importing it asks the package index for news
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise UsageError(f'this augmentation needs albumentations ({error}): pip install vimamba[train]') from None
    cv2.setNumThreads(0)  # OpenCV's threads do not survive the fork into a worker
    kinds = (albumentations.BasicTransform, albumentations.BaseCompose, albumentations.BboxParams)
    return {n: k for n, k in vars(albumentations).items() if inspect.isclass(k) and issubclass(k, kinds)}


def seed_albumentations(pipeline: Any) -> None:
    """Seeds the generators of albumentations from Python's, which the loader seeds for each sample."""
    seed = random.getrandbits(64)
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))


def build_albumentations(specs: Any) -> list[Any]:
    """The transforms that ``[dict(type='MotionBlur', p=0.3), ...]`` describes."""
    ALBUMENTATIONS(specs, 'albumentations')
    library, built = load_albumentations(), []
    for spec in specs:
        options = {key: value for key, value in spec.items() if key != 'type'}
        if (name := spec['type']) not in library:
            raise unknown_name('transform', name, library, 'albumentations')
        valid = inspect.signature(library[name]).parameters
        for key in options:
            if key not in valid:
                raise unknown_name(f'{name} option', key, valid, 'albumentations')
        if 'fill_mask' in valid and valid['fill_mask'].default == 0:  # there is nothing beyond the image, not class 0
            options.setdefault('fill_mask', IGNORED)
        if 'transforms' in options:  # OneOf, SomeOf, Sequential, ...
            options['transforms'] = build_albumentations(options['transforms'])
        try:
            built.append(library[name](**options))
        except (TypeError, ValueError) as error:
            raise UsageError(f'{name}: {one_line(error)}', key='albumentations') from error
    return built


def one_line(error: Exception) -> str:
    return ' '.join(str(error).split())[:200]
