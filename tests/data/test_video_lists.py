"""Classes are those of the authors whatever the split; a list says where it is wrong; options are what they say."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from vimamba.data import create_dataset
from vimamba.data.clip_transforms import ClipTransform
from vimamba.data.video_datasets import Clips
from vimamba.errors import UsageError

from .test_video_datasets import folder_of_videos, lists, moving, something, ucf, videos  # noqa: F401
from .test_video_decode import levels, write


def created(options, split='train', **more):
    return create_dataset(task='video', split=split, **options, **more)


@pytest.mark.parametrize('indexed', [True, False])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_classes_of_ucf101_have_the_numbers_of_the_authors(tmp_path, indexed, split):
    """Which are not the order of the names by their codes, in which upper case comes first."""
    videos(tmp_path / 'videos', ['YoYo/a.avi', 'Yelp/b.avi', 'apple/c.avi'])
    (tmp_path / 'splits').mkdir()
    (tmp_path / 'splits/trainlist01.txt').write_text('YoYo/a.avi 3\nYelp/b.avi 2\napple/c.avi 1\n')
    (tmp_path / 'splits/testlist01.txt').write_text('Yelp/b.avi\nYoYo/a.avi\n')
    if indexed:
        (tmp_path / 'splits/trainlist01.txt').write_text('YoYo/a.avi\nYelp/b.avi\napple/c.avi\n')
        (tmp_path / 'splits/classInd.txt').write_text('1 apple\n2 Yelp\n3 YoYo\n')
    dataset = created({'name': 'video_splits', 'root': tmp_path}, split)
    assert dataset.classes == ['apple', 'Yelp', 'YoYo']
    assert dataset.targets.tolist() == {'train': [2, 1, 0], 'val': [1, 2]}[split]


@pytest.mark.parametrize(
    ('file', 'text', 'message'),
    [
        ('trainlist01.txt', 'Walk/v2.avi 2\nWalk/v2.avi 1\n', r'trainlist01.txt:2: Walk has number 1 here, 2 before'),
        ('trainlist01.txt', 'Walk/v2.avi two\n', r'trainlist01.txt:1: expected a class and its number'),
        ('classInd.txt', '1 Run\nWalk\n', r'classInd.txt:2: expected a class and its number'),
        ('classInd.txt', '1 Run\n', 'Walk/v2.avi: its class has no number'),
        ('trainlist01.txt', None, r'trainlist01.txt: no such file; expected the lists of UCF101 of fold 1'),
    ],
)
def test_numbers_that_cannot_be_are_named_with_their_place(tmp_path, file, text, message):
    options = ucf(tmp_path)
    if text is None:
        (tmp_path / 'splits' / file).rename(tmp_path / 'splits' / 'trainlist02.txt')
    else:
        (tmp_path / 'splits' / file).write_text(text)
    with pytest.raises(UsageError, match=message):
        created(options)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_classes_of_a_list_are_those_of_training(tmp_path, split):
    options = lists(tmp_path)
    (tmp_path / 'train.csv').write_text('a b.mp4,1\nc.mp4,4\n')
    (tmp_path / 'val.txt').write_text('c.mp4 0\n')
    assert created(options, split).classes == ['0', '1', '2', '3', '4']
    (tmp_path / 'val.txt').write_text('c.mp4 5\n')
    with pytest.raises(UsageError, match=r'val.txt: c.mp4 has class 5, but .* has 5 classes'):
        created(options, 'val')


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({'train.csv': 'c.mp4,100000000\n'}, r'train.csv: class 100000000 of 1 videos; expected numbers from 0 up'),
        ({'train.txt': 'c.mp4 0\n'}, r'train.csv and train.txt: two lists of train; remove one'),
        ({'classes.txt': 'one\ntwo\none\n'}, r"classes.txt: line 3: line 1 has 'one', too"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(tmp_path, files, message):
    options = lists(tmp_path)
    (tmp_path / 'train.csv').write_text('c.mp4,0\n')
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        created(options)


@pytest.mark.parametrize('first', ['path,label', 'video frames class', 'File Name,Class'])
def test_a_header_is_passed_over(tmp_path, first):
    options = lists(tmp_path)
    (tmp_path / 'train.csv').write_text(f'{first}\nc.mp4,1\n')
    assert created(options).targets.tolist() == [1]
    (tmp_path / 'train.csv').write_text(f'c.mp4,1\n{first}\n')
    with pytest.raises(UsageError, match=r'train.csv:2: expected a path and the number of a class'):
        created(options)


@pytest.mark.parametrize('first', ['c.mp4', 'c.mp4,', 'c.mp4,one', 'c,-1', 'c 1.0', 'c.mp4,\u00b2'])
@pytest.mark.parametrize('place', [1, 2])
def test_a_line_without_the_number_of_a_class_is_named(tmp_path, first, place):
    options = lists(tmp_path)
    lines = ['c.mp4,0', 'c.mp4,0']
    lines.insert(place - 1, first)
    (tmp_path / 'train.csv').write_text('\n'.join(lines), encoding='utf-8')
    with pytest.raises(UsageError, match=rf'train.csv:{place}: expected a path and the number of a class, got '):
        created(options)


@pytest.mark.parametrize('name', ['train.csv', 'classes.txt'])
def test_lists_are_utf8_with_or_without_a_mark(tmp_path, name):
    options = lists(tmp_path)
    (tmp_path / 'train.csv').write_text('c.mp4,0\n')
    (tmp_path / 'classes.txt').write_text('one\ntwo\n')
    plain = (tmp_path / name).read_text()
    (tmp_path / name).write_text(plain, encoding='utf-8-sig')
    dataset = created(options)
    assert (dataset.classes, dataset.sample_path(0)) == (['one', 'two'], str(tmp_path / 'c.mp4'))
    (tmp_path / name).write_bytes(b'caf\xe9' + plain.encode())
    with pytest.raises(UsageError, match=rf'{name}: not UTF-8 at byte 3; save it as UTF-8'):
        created(options)


@pytest.mark.parametrize('text', ['{"a": "zero"}', '["a"]'])
def test_labels_without_numbers_are_named(tmp_path, text):
    options = something(tmp_path)
    (tmp_path / 'something-something-v2-labels.json').write_text(text)
    with pytest.raises(UsageError, match=r'labels.json: expected the number of each label'):
        created(options)


def test_frames_are_drawn_in_training_alone_whatever_the_transform(tmp_path):
    """torchvision's transforms are modules, whose own ``training`` is True unless they are told otherwise."""
    file = write(tmp_path / 'a.mp4')
    transform = v2.Identity()
    assert transform.training

    def clips(split, **options):
        return Clips([file], [0], 'a', split, transform, num_frames=4, **options)

    assert levels(clips('val')[0][0]) == levels(clips('val')[0][0]) == [2, 7, 12, 17]
    assert levels(clips('train', training=False)[0][0]) == [2, 7, 12, 17]
    for dataset in (clips('train'), clips('val', training=True)):
        assert len({tuple(levels(dataset[0][0])) for _ in range(20)}) > 1


def test_moving_digits_take_the_options_of_clips(moving):  # noqa: F811
    digits = {'name': 'moving_digits', 'root': moving}
    views, _ = created(digits, 'val', num_clips=2, num_frames=4, sampling='dense', frame_interval=2)[0]
    assert views.shape == (2, 3, 4, 32, 32)
    assert len(created(digits, 'val', clips=7)) == 7
    with pytest.raises(UsageError, match='clips: expected an integer >= 1, got -1'):
        created(digits, 'val', clips=-1)


def test_a_filter_that_clips_cannot_be_resized_by_is_refused_at_once():
    with pytest.raises(UsageError, match=r"interpolation: expected 'bilinear' or 'bicubic', got 'box'"):
        ClipTransform((8, 8), (0.5,) * 3, (0.5,) * 3, training=False, interpolation='box')
    for name in ('bilinear', 'bicubic'):
        transform = ClipTransform((8, 8), (0.0,) * 3, (1.0,) * 3, training=False, interpolation=name)
        torch.testing.assert_close(transform(np.full((2, 20, 30, 3), 255, np.uint8)), torch.ones(3, 2, 8, 8))


def test_a_class_without_videos_is_warned_of_and_a_closed_one_an_error(unprivileged):
    options = folder_of_videos(unprivileged)
    (unprivileged / 'train/swim').mkdir()
    with pytest.warns(UserWarning, match='no training videos of swim: these classes are not learned'):
        dataset = created(options)
    assert dataset.classes == ['run', 'swim', 'walk']
    assert dataset.targets.tolist() == [0, 0, 2, 2]
    assert created(options, 'val').targets.tolist() == [0, 0, 2, 2]  # of which nothing need be there
    (unprivileged / 'train/walk').chmod(0)
    try:
        with pytest.raises(UsageError, match=r'/train/walk: this folder cannot be read \(Permission denied\)$'):
            created(options)
    finally:
        (unprivileged / 'train/walk').chmod(0o700)


def test_a_place_where_moving_digits_cannot_be_written_is_named_with_a_way_out(unprivileged):
    unprivileged.chmod(0o500)
    with pytest.raises(UsageError, match=r'/moving_digits_1: .*Permission denied.*; choose .* data.root=PATH$'):
        created({'name': 'moving_digits', 'root': unprivileged}, 'val')
    unprivileged.chmod(0o700)
