"""Labelled videos in the layouts that people have them in; clips that keep their frames in step; moving digits."""

import json
import os
import random
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vimamba.data import create_dataset, create_loader, create_transform
from vimamba.data.clip_transforms import ClipTransform
from vimamba.data.moving_digits import DIRECTIONS, MovingDigits, compose, opposite
from vimamba.data.video_datasets import Clips
from vimamba.data.video_decode import sample_dense, sample_uniform
from vimamba.errors import UsageError

from .test_video_decode import REASONS, broken, write

pytest.importorskip('av')
PLAIN = {'mean': (0.0,) * 3, 'std': (1.0,) * 3}


def videos(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, 8, (16, 16))


def folder_of_videos(root):
    videos(root, [f'{split}/{name}/{i}.mp4' for split in ('train', 'val') for name in ('run', 'walk') for i in (0, 1)])
    return {'name': 'video_folder', 'root': root}


def lists(root):
    videos(root, ['a b.mp4', 'c.mp4'])
    (root / 'train.csv').write_text('path,frames,label\na b.mp4,8,1\nc.mp4,8,0\n')
    (root / 'val.txt').write_text('a b.mp4 1\nc.mp4 0\n')
    return {'name': 'video_list', 'root': root}


def something(root):
    videos(root, ['videos/1.webm.mp4', 'videos/2.webm.mp4'])
    for i in (1, 2):
        (root / f'videos/{i}.webm.mp4').rename(root / f'videos/{i}.webm')
    stem = 'something-something-v2-'
    (root / f'{stem}labels.json').write_text(json.dumps({'Pushing something': '0', 'Moving something up': '1'}))
    records = [{'id': '1', 'template': 'Moving [something] up'}, {'id': '2', 'template': 'Pushing [something]'}]
    for part in ('train', 'validation'):
        (root / f'{stem}{part}.json').write_text(json.dumps(records))
    return {'name': 'something_v2', 'root': root, 'videos': 'videos'}


def ucf(root):
    videos(root / 'videos', ['Run/v1.avi', 'Walk/v2.avi'])
    (root / 'splits').mkdir()
    (root / 'splits/trainlist01.txt').write_text('Walk/v2.avi 2\nRun/v1.avi 1\n')
    (root / 'splits/testlist01.txt').write_text('Run/v1.avi\nWalk/v2.avi\n')
    return {'name': 'video_splits', 'root': root}


def hmdb(root):
    videos(root / 'videos', ['run/a.avi', 'run/b.avi', 'walk/c.avi'])
    (root / 'splits').mkdir()
    (root / 'splits/run_test_split1.txt').write_text('a.avi 1\nb.avi 2\n')
    (root / 'splits/walk_test_split1.txt').write_text('c.avi 1\n')
    return {'name': 'video_splits', 'root': root}


@pytest.mark.parametrize('make', [folder_of_videos, lists, something, ucf, hmdb])
def test_every_layout_gives_clips_and_classes(tmp_path, make):
    options = make(tmp_path)
    for split in ('train', 'val'):
        dataset = create_dataset(task='video', split=split, num_frames=4, **options)
        clips, targets = next(iter(create_loader(dataset, len(dataset), training=False, seed=0)))
        assert clips.shape == (len(dataset), 3, 4, 16, 16)
        assert targets.tolist() == dataset.targets.tolist()
    assert len(dataset.classes) == 2


def test_labels_are_those_of_the_files(tmp_path):
    for name, make in (('list', lists), ('ssv2', something), ('ucf', ucf), ('hmdb', hmdb)):
        dataset = create_dataset(task='video', split='train', **make(tmp_path / name))
        assert dataset.targets.tolist() == {'list': [1, 0], 'ssv2': [1, 0], 'ucf': [1, 0], 'hmdb': [0, 1]}[name]


@pytest.mark.parametrize(
    ('make', 'change', 'message'),
    [
        (
            lists,
            lambda root: (root / 'train.csv').write_text('a.mp4,x\n1'),
            r'csv:1: expected a path and the',
        ),
        (lists, lambda root: (root / 'train.csv').unlink(), 'no train.csv or train.txt'),
        (lists, lambda root: (root / 'classes.txt').write_text('one\n'), 'has class 1, but .* has 1 classes'),
        (lists, lambda root: (root / 'train.csv').write_text(''), 'lists no videos'),
        (
            something,
            lambda root: (root / 'something-something-v2-train.json').write_text('[{"id": 1}]'),
            'record 0: ',
        ),
        (
            something,
            lambda root: (root / 'something-something-v2-labels.json').write_text('{'),
            'not JSON',
        ),
        (
            something,
            lambda root: (root / 'something-something-v2-labels.json').write_text('{"a": 3}'),
            '0 to 0',
        ),
        (ucf, lambda root: (root / 'splits/trainlist01.txt').write_text('Jump/a.avi 1'), 'its class has no folder'),
        (hmdb, lambda root: (root / 'splits/run_test_split1.txt').write_text('a.avi 7'), r'split1.txt:1: exp'),
        (folder_of_videos, lambda root: (root / 'val/jump').mkdir(), 'jump: this class has no folder in'),
    ],
)
def test_a_mistake_in_a_list_is_named_with_its_place(tmp_path, make, change, message):
    options = make(tmp_path)
    change(tmp_path)
    with pytest.raises(UsageError, match=message):
        [create_dataset(task='video', split=split, **options) for split in ('train', 'val')]


def two_epochs(dataset, workers):
    """What is left out, with the warnings of it."""
    loader = create_loader(dataset, 2, training=True, seed=0, max_broken=0.5, workers=workers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            for clips, targets in loader:
                assert clips.shape == (2, 3, 4, 16, 16)
                assert targets.tolist() == [0, 0]
    return loader.broken, [str(warning.message) for warning in caught if 'left out' in str(warning.message)]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(('kind', 'workers'), [*((kind, 0) for kind in REASONS), ('text', 1), ('sizes', 1)])
def test_a_broken_video_is_left_out_of_training_and_ends_an_evaluation(tmp_path, kind, workers):
    videos(tmp_path, ['good/0.mp4', 'good/1.mp4', 'good/2.mp4'])
    bad = str(broken(tmp_path, kind))
    dataset = Clips([*map(str, (tmp_path / 'good').iterdir()), bad], [0, 0, 0, 1], 'ab', 'train', num_frames=4)
    left_out, said = two_epochs(dataset, workers)
    assert list(left_out) == [bad]
    assert re.match(REASONS[kind], left_out[bad])
    assert said == [f'{bad}: {left_out[bad]}; left out']
    dataset.training = False
    with pytest.raises(UsageError, match=rf'{kind}\.mp4: {REASONS[kind]}') as ended:
        list(create_loader(dataset, 2, training=False, seed=0, workers=workers))
    assert '\n' not in str(ended.value)


@pytest.mark.parametrize('workers', [0, 1])
def test_more_broken_videos_than_allowed_stop_training_with_one_line(tmp_path, workers):
    videos(tmp_path, ['good/0.mp4', 'good/1.mp4'])
    bad = [str(broken(tmp_path, kind)) for kind in ('text', 'single')]
    dataset = Clips([*map(str, (tmp_path / 'good').iterdir()), *bad], [0] * 4, 'a', 'train', num_frames=4)
    loader = create_loader(dataset, 2, training=True, seed=0, max_broken=0.25, workers=workers)
    message = (
        r'^2 of 4 training videos cannot be read, more than the 1 that data.max_broken=0.25 allows; the first: '
        r'\S+\.mp4: .*; mend or remove it, or set data.max_broken=0.501 or more$'
    )
    with pytest.warns(UserWarning, match='left out'), pytest.raises(UsageError, match=message) as ended:
        list(loader)
    assert '\n' not in str(ended.value)


def test_a_folder_with_the_name_of_a_video_is_a_folder(tmp_path):
    options = folder_of_videos(tmp_path)
    videos(tmp_path, ['train/run/a.mp4/0.mp4'])
    (tmp_path / 'train/run/notes.txt').write_text('not a video')
    paths = create_dataset(task='video', split='train', **options).paths
    inside = [Path(os.fsdecode(path)).relative_to(tmp_path / 'train').as_posix() for path in paths]
    assert inside == ['run/0.mp4', 'run/1.mp4', 'run/a.mp4/0.mp4', 'walk/0.mp4', 'walk/1.mp4']


STYLES = st.fixed_dictionaries(
    {},
    optional={
        'scale': st.sampled_from([(0.08, 1.0), (0.5, 0.5)]),
        'hflip': st.floats(0, 1),
        'vflip': st.floats(0, 1),
        'color_jitter': st.floats(0, 0.5),
        'auto_augment': st.sampled_from(['rand-m9-n3-mstd0.5-inc1', 'rand-m7-n4-mstd0.5-inc1', 'augmix-m3-w3']),
        're_prob': st.floats(0, 1),
        're_mode': st.sampled_from(['const', 'rand', 'pixel']),
    },
)


@settings(max_examples=40, deadline=None)
@given(style=STYLES, seed=st.integers(0, 2**32), frames=st.integers(1, 5))
def test_what_is_drawn_is_drawn_once_for_all_frames(style, seed, frames):
    """Frames that are alike stay alike, whatever is done to them; and the same is done to the same seed alone."""
    frame = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    transform = ClipTransform((32, 24), **PLAIN, training=True, style=style)
    random.seed(seed)
    clip = transform(np.stack([frame] * frames))
    assert clip.shape == (3, frames, 32, 24)
    assert torch.equal(clip, clip[:, :1].expand_as(clip))
    random.seed(seed)
    assert torch.equal(transform(np.stack([frame] * frames)), clip)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), hflip=st.sampled_from([0.0, 0.5, 1.0]))
def test_all_frames_show_the_same_place_in_their_order_and_mirrored_only_on_demand(seed, hflip):
    """Red is the column of a pixel, green its row, blue the number of its frame."""
    rows, columns = np.mgrid[:48, :64]
    frames = np.stack([np.stack([4 * columns, 4 * rows, np.full_like(rows, 60 * i)], -1) for i in range(4)])
    style = {'scale': (0.2, 1.0), 'hflip': hflip}
    random.seed(seed)
    clip = ClipTransform((24, 24), **PLAIN, training=True, style=style)(frames.astype(np.uint8)) * 255
    assert torch.equal(clip[:2], clip[:2, :1].expand(2, 4, 24, 24))
    assert clip[2].round().flatten(1).unique(dim=1).tolist() == [[0], [60], [120], [180]]
    mirrored = bool(clip[0, 0, 12, 0] > clip[0, 0, 12, -1])
    assert hflip == 0.5 or mirrored == bool(hflip)
    assert clip[1, 0, 0, 12] < clip[1, 0, -1, 12]


def test_draws_differ_from_clip_to_clip(tmp_path):
    options = {**folder_of_videos(tmp_path), 'num_frames': 4, 'repeats': 3, 'num_clips': 2}
    transform = ClipTransform((12, 12), **PLAIN, training=True, style={'color_jitter': 0.5})
    random.seed(0)
    clips, _ = create_dataset(task='video', split='train', transform=transform, **options)[0]
    assert clips.shape == (3, 3, 4, 12, 12)
    assert not torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[1], clips[2])


def test_repetitions_are_of_training_alone(tmp_path):
    options = {**folder_of_videos(tmp_path), 'num_frames': 4, 'repeats': 3}
    for transform in (None, ClipTransform((12, 12), **PLAIN, training=False)):
        dataset = create_dataset(task='video', split='val', transform=transform, **options)
        assert dataset[0][0].ndim == 4


@pytest.mark.parametrize(('height', 'width'), [(40, 90), (90, 40), (32, 32), (9, 200)])
def test_three_crops_are_the_ends_and_the_middle_of_the_longer_side(height, width):
    """Red is the part of the width at which a pixel is, green that of the height."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    frames = np.stack([np.stack([x, y, x], -1).round().astype(np.uint8)] * 2)
    views = ClipTransform((24, 24), **PLAIN, training=False, crops=3)(frames)
    assert views.shape == (3, 3, 2, 24, 24)
    along, across = views[:, 0, 0].mean(1), views[:, 1, 0].mean(2)
    if height > width:
        along, across = across, along
    share = min(height, width) / max(height, width)
    begins = torch.tensor([0, (1 - share) / 2, 1 - share])
    torch.testing.assert_close(along[:, 0], begins, rtol=0, atol=0.03)
    torch.testing.assert_close(along[:, -1], begins + share, rtol=0, atol=0.03)
    torch.testing.assert_close(across[:, [0, -1]], torch.tensor([[0.0, 1.0]] * 3), rtol=0, atol=0.03)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_a_frame_is_resized_and_normalised_as_a_photograph(interpolation):
    frames = np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3), dtype=np.uint8)
    options = {'mean': (0.1, 0.2, 0.3), 'std': (0.5, 0.6, 0.7), 'interpolation': interpolation}
    whole = {'scale': (1.0, 1.0), 'ratio': (1.0, 1.0), 'hflip': 0.0}
    for crop_pct, training in ((0.8, {'training': False, 'crop_pct': 0.8}), (1.0, {'training': True, 'style': whole})):
        photograph = create_transform(training=False, input_size=(3, 32, 32), crop_pct=crop_pct, **options)
        want = torch.stack([photograph(Image.fromarray(frame)) for frame in frames], 1)
        clip = ClipTransform((32, 32), **options, **training)(frames)
        torch.testing.assert_close(clip, want, rtol=0, atol=1.01 / 255 / 0.5)  # rounding to a grey level


@pytest.mark.parametrize('sampling', ['uniform', 'dense'])
def test_frames_are_chosen_as_the_options_say(sampling):
    options = {'num_frames': 3, 'sampling': sampling, 'frame_interval': 5, 'num_clips': 2}
    tested, trained = (Clips([], [], [], split, **options) for split in ('val', 'train'))
    views = sample_dense(30, 3, 5, 2) if sampling == 'dense' else sample_uniform(30, 3, 2)
    assert tested.choose(30) == [*views[0], *views[1]]
    drawn = {tuple(trained.choose(30)) for _ in range(50)}
    assert len(drawn) > 5
    assert {len(frames) for frames in drawn} == {3}
    if sampling == 'dense':
        assert {(b - a, c - b) for a, b, c in drawn} == {(5, 5)}


def test_views_in_time_and_space_come_as_one_sample(tmp_path):
    transform = ClipTransform((12, 12), **PLAIN, training=False, crops=3)
    options = {**folder_of_videos(tmp_path), 'transform': transform, 'num_frames': 2, 'num_clips': 4}
    views, _ = create_dataset(task='video', split='val', **options)[0]
    assert views.shape == (12, 3, 2, 12, 12)
    levels = views[::3].mean((1, 3, 4))
    assert (levels[:, 1] > levels[:, 0]).all()
    assert (levels.diff(dim=0) > 0).all()


@pytest.fixture(scope='module')
def moving(tmp_path_factory):
    root = tmp_path_factory.mktemp('moving')
    import vimamba.data.moving_digits as module

    all_clips, module._CLIPS = module._CLIPS, {'train': 16, 'val': 16, 'test': 16}
    yield root
    module._CLIPS = all_clips


def test_moving_digits_are_real_files_the_same_everywhere(moving, tmp_path):
    here, there = (MovingDigits(root=root, split='val') for root in (moving, tmp_path))
    for (clip, label), (other, same) in zip((here[i] for i in range(16)), (there[i] for i in range(16))):
        assert clip.shape == (3, 8, 32, 32)
        assert (clip - other).abs().max() < 0.1  # of the encoder
        assert label == same
    assert len(here.classes) == 80
    assert [label % 8 for label in here.targets] == [*range(8), *range(8)]
    assert not [path for path in (moving / 'moving_digits_1').iterdir() if path.name.startswith('.')]
    (tmp_path / 'moving_digits_1/val/00003.mp4').unlink()
    with pytest.raises(
        UsageError, match='val: 1 clips are missing: remove the folder, and the clips are written again'
    ):
        MovingDigits(root=tmp_path, split='val')


def test_a_clip_backwards_is_one_of_the_opposite_direction(moving):
    forward, backward = (MovingDigits(root=moving, split='val', time=time) for time in ('forward', 'backward'))
    for i in range(16):
        (clip, label), (reversed_clip, other) = forward[i], backward[i]
        assert torch.equal(clip.flip(1), reversed_clip)
        assert other == opposite(label)
        assert opposite(other) == label


def test_shuffled_frames_are_the_same_frames(moving):
    forward, shuffled = (MovingDigits(root=moving, split='val', time=time) for time in ('forward', 'shuffled'))
    for i in range(4):
        sums = [dataset[i][0].sum((0, 2, 3)).sort().values for dataset in (forward, shuffled)]
        assert torch.equal(*sums)
        assert torch.equal(shuffled[i][0], shuffled[i][0])
    shuffled.training = True
    assert any(not torch.equal(shuffled[0][0], shuffled[0][0]) for _ in range(10))


def test_the_digit_moves_where_the_label_says():
    ink = np.full((8, 8), 255, np.uint8)
    for direction, name in enumerate(DIRECTIONS):
        clips = np.stack([compose(ink, direction, np.random.default_rng(i)) for i in range(20)]).astype(float)
        weight = np.maximum(clips.mean(0) - clips.mean(), 0)
        y, x = np.mgrid[:32, :32]
        centre = [(weight * axis).sum((1, 2)) / weight.sum((1, 2)) for axis in (x, y)]
        east, south = (axis[-1] - axis[0] for axis in centre)
        assert (east > 1) == ('east' in name)
        assert (east < -1) == ('west' in name)
        assert (south > 1) == ('south' in name)
        assert (south < -1) == ('north' in name)
