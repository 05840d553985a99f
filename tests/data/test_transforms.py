"""Promises: any image becomes (C, H, W) float32; augmentation depends on the seeds alone; mistakes are named."""

import os
import pickle
import random
import sys

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.test_image import MODES
from vimamba.data import AUGMENT, create_transform
from vimamba.errors import UsageError

SIDE = st.integers(1, 70)
PHOTO = Image.fromarray(np.random.RandomState(0).randint(0, 256, (60, 90, 3), np.uint8))
ALL = {
    'flip': {},
    'none': {'style': 'small'},
    'rand_augment': {'auto_augment': 'rand-m9-n3-mstd0.5-inc1', 're_prob': 1.0},
    'auto_augment': {'auto_augment': 'original'},
    'augmix': {'auto_augment': 'augmix-m3-w3'},
    'jitter': {'color_jitter': 0.4, 'scale': (0.5, 1.0), 'ratio': (0.9, 1.1), 'vflip': 0.5},
    'small': {'style': 'small', 'degrees': 10, 'translate': 0.1, 'scale': (0.9, 1.1), 'shear': 5, 'hflip': 0.5},
    'small_rand': {'style': 'small', 'auto_augment': 'rand-m5', 're_prob': 0.5, 're_mode': 'const', 're_count': 3},
    'albumentations': {'albumentations': [{'type': 'MotionBlur', 'p': 0.5}, {'type': 'GaussNoise'}]},
    'one_of': {
        'albumentations': [{'type': 'OneOf', 'transforms': [{'type': 'Defocus'}, {'type': 'Downscale'}], 'p': 1.0}]
    },
}


def build(channels=3, size=(32, 40), augment=None, training=True, **options):
    normal = {'mean': [0.5] * channels, 'std': [0.25] * channels}
    return create_transform(training=training, input_size=(channels, *size), augment=augment, **normal, **options)


def seeded(transform, image, seed=0):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    return transform(image)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.sampled_from([1, 3, 4]),
    size=st.tuples(SIDE, SIDE),
    source=st.tuples(SIDE, SIDE),
    mode=st.sampled_from(MODES),
    crop=st.floats(0.5, 1.0),
    crop_mode=st.sampled_from(['center', 'squash', 'border']),
    augment=st.sampled_from([None, *[ALL[k] for k in ('flip', 'jitter', 'small', 'rand_augment', 'small_rand')]]),
)
def test_any_image_of_any_mode_becomes_chw(channels, size, source, mode, crop, crop_mode, augment):
    if channels == 4 and augment and augment.keys() & {'auto_augment', 'color_jitter'}:
        augment = {}
    assume(crop_mode != 'border' or min(size) * min(source) >= max(source))  # the image is still a pixel wide
    training = augment is not None
    transform = build(channels, size, augment, training, crop_pct=crop, crop_mode=crop_mode)
    out = transform(Image.new(mode, source))
    assert out.shape == (channels, *size)
    assert out.dtype == torch.float32
    assert out.isfinite().all()


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('channels', [1, 3])
def test_an_augmentation_is_a_function_of_the_seeds(name, channels):
    transform = build(channels, augment=ALL[name])
    outputs = [seeded(transform, PHOTO, seed) for seed in range(12)]
    again = pickle.loads(pickle.dumps(transform))  # as a spawned worker receives it
    for seed, out in reversed(list(enumerate(outputs))):
        assert torch.equal(seeded(again, PHOTO, seed), out)
    distinct = {out.numpy().tobytes() for out in outputs}
    assert (len(distinct) == 1) == (name == 'none')


@pytest.mark.parametrize(
    'name', ['rand-m10-n8-inc1', 'rand-m10-n8', 'rand-m0-n8-inc1', 'augmix-m10-w3', 'augmix-m1', 'v0', '3a']
)
def test_operations_of_the_largest_and_the_smallest_magnitude_run(name):
    transform = build(augment={'auto_augment': name})
    for seed in range(40):
        assert seeded(transform, PHOTO, seed).isfinite().all()


def test_two_albumentations_do_not_share_their_draws():
    coin = {'p': 0.5}
    transform = build(1, (8, 8), {'style': 'small', 'albumentations': [
        {'type': 'InvertImg', **coin}, {'type': 'InvertImg', **coin}]})  # fmt: skip
    black = Image.new('L', (8, 8))
    # Twice or never inverted is black; only independent draws ever give white.
    assert {seeded(transform, black, seed).mean().item() for seed in range(40)} == {-2.0, 2.0}


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_without_augmentation_training_and_evaluation_agree(channels):
    assert torch.equal(build(channels, training=True)(PHOTO), build(channels, training=False)(PHOTO))


@pytest.mark.parametrize('size', [(32, 32), (32, 40), (224, 224)])
@pytest.mark.parametrize('crop', [0.875, 0.9, 1.0])
def test_evaluation_is_timms(size, crop):
    ours = build(3, size, training=False, crop_pct=crop, interpolation='bicubic')
    timms = timm.data.create_transform(
        (3, *size), interpolation='bicubic', mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=crop
    )
    assert torch.equal(ours(PHOTO), timms(PHOTO))


def test_pixels_are_normalised_per_channel():
    transform = create_transform(
        training=False, input_size=(3, 4, 4), mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 0.25], crop_pct=1.0
    )
    out = transform(Image.new('RGB', (9, 9), (255, 0, 255)))
    assert torch.allclose(out.mean((1, 2)), torch.tensor([1.0, -1.0, 0.0]))


def test_grey_in_grey_out_even_through_colour_operations():
    grey = Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 40), np.uint8))
    out = seeded(build(1, (40, 40), {'style': 'small', 'auto_augment': 'rand-m9-p0'}), grey)
    assert torch.allclose(out * 0.25 + 0.5, torch.tensor(np.asarray(grey))[None] / 255, atol=1e-6)


def test_small_images_are_not_cropped_or_flipped_unless_asked():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (8, 8), np.uint8))
    transform = build(1, (8, 8), {'style': 'small'})
    outs = [seeded(transform, image, seed) for seed in range(8)]
    assert all(torch.allclose(o * 0.25 + 0.5, torch.tensor(np.asarray(image))[None] / 255, atol=1e-6) for o in outs)


def blur(**options):
    return {'albumentations': [{'type': 'MotionBlur', **options}]}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'augment': {'hflpi': 1}}, "unknown 'imagenet' augment option 'hflpi': did you mean 'hflip'"),
        ({'augment': {'style': 'small', 'ratio': (1, 1)}}, "unknown 'small' augment option 'ratio'"),
        ({'augment': {'style': 'imagnet'}}, "did you mean 'imagenet'"),
        ({'augment': {'hflip': 2}}, 'augment.hflip: expected a number >= 0 and <= 1, got 2'),
        ({'augment': {'scale': (1.0, 0.1)}}, 'augment.scale: expected two positive numbers (low, high)'),
        ({'augment': {'re_mode': 'pixl'}}, "did you mean 'pixel'"),
        ({'augment': {'auto_augment': 'rand-magnitude9'}}, "such as 'rand-m9-mstd0.5-inc1'"),
        (
            {'augment': {'auto_augment': 'rnd-m9'}},
            'augment.auto_augment: Unknown AutoAugment config section',
        ),
        ({'augment': {'style': 'small', 'degrees': -1}}, 'augment.degrees: expected a number >= 0'),
        ({'augment': ['hflip']}, 'augment: expected a dict'),
        ({'augment': {}, 'training': False}, 'augment: expected None in evaluation'),
        ({'augment': {'auto_augment': 'rand-m9'}, 'channels': 4}, 'no auto_augment or color_jitter with 4 channels'),
        ({'augment': {'albumentations': [{'type': 'MotonBlur'}]}}, "did you mean 'MotionBlur'"),
        ({'augment': blur(blurlimit=3)}, "unknown MotionBlur option 'blurlimit': did you mean 'blur_limit'"),
        ({'augment': blur(blur_limit='wide')}, 'augment.albumentations: MotionBlur: '),
        ({'augment': {'albumentations': {'type': 'MotionBlur'}}}, 'augment.albumentations: expected a list'),
        ({'augment': {'albumentations': ['MotionBlur']}}, 'augment.albumentations: expected a list'),
        ({'augment': {'albumentations': [{'type': 'Resize', 'height': 8, 'width': 8}]}}, 'expected uint8 (32, 40, 3)'),
        ({'augment': {'albumentations': [{'type': 'Normalize'}]}}, 'got float32'),
        ({'augment': {'albumentations': [{'type': 'RandomRain'}]}, 'channels': 4}, 'RandomRain: '),
        ({'interpolation': 'bicubik'}, "did you mean 'bicubic'"),
        ({'crop_mode': 'centre'}, "did you mean 'center'"),
        ({'crop_pct': 0}, 'crop_pct: expected a number > 0 and <= 1'),
        ({'channels': 2}, 'input_size: expected (C, H, W), C one of 1, 3, 4'),
        ({'size': (0, 8)}, 'input_size: expected'),
        ({'size': (8.0, 8)}, 'input_size: expected'),
    ],
)
def test_a_mistake_is_answered_in_one_line(options, message):
    with pytest.raises(UsageError) as error:
        build(**options)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


def test_mean_and_std_have_one_number_per_channel():
    with pytest.raises(UsageError, match='std: expected 1 numbers, one per channel'):
        create_transform(training=False, input_size=(1, 8, 8), mean=[0.5], std=[0.5, 0.5])


@pytest.mark.parametrize('style', AUGMENT)
def test_every_listed_option_is_accepted_with_its_default(style):
    transform = build(augment={'style': style, **AUGMENT[style]})
    assert torch.equal(seeded(transform, PHOTO), seeded(build(augment={'style': style}), PHOTO))


def test_without_albumentations_the_rest_works_and_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'albumentations', None)
    build(augment={'auto_augment': 'rand-m9'})
    with pytest.raises(UsageError, match=r'pip install vimamba\[train\]'):
        build(augment=blur())


def test_albumentations_is_kept_from_asking_the_package_index(monkeypatch):
    monkeypatch.delenv('NO_ALBUMENTATIONS_UPDATE', raising=False)
    build(augment=blur())
    assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'
