"""Promises: the splits are fixed, stratified and disjoint; a folder that is not as it should be is named."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import ImageNetInfo

from vimamba.data import BrokenImage, create_dataset
from vimamba.data.image_datasets import digits_split
from vimamba.errors import UsageError

# SHA-256 of the sorted indices of train, val and test as little-endian int64, joined by '|'. Chosen before any model
# was trained; a change here invalidates every number that was ever published on these splits.
CHECKSUMS = {
    None: '1b1dfa7822b3a880',
    0: 'e471df76dce44c84',
    1: '3504345e68635605',
    2: 'd099b54cd6b31aa1',
    3: 'f972cac0cb0358b7',
    4: 'd67a8bf2831804b3',
}


@pytest.mark.parametrize('fold', CHECKSUMS)
def test_the_digits_splits_are_the_published_ones(fold):
    parts = [create_dataset('digits', split=s, fold=fold, seed=7).index for s in ('train', 'val', 'test')]
    digest = hashlib.sha256(b'|'.join(np.sort(part).astype('<i8').tobytes() for part in parts)).hexdigest()
    assert digest[:16] == CHECKSUMS[fold]


def test_the_digits_split_is_70_15_15():
    assert [len(create_dataset('digits', split=s)) for s in ('train', 'val', 'test')] == [1258, 269, 270]


@given(st.lists(st.integers(0, 4), min_size=40, max_size=300), st.integers(2, 10), st.data())
def test_splits_are_disjoint_complete_and_stratified(targets, folds, data):
    targets = np.array(targets)
    fold = data.draw(st.none() | st.integers(0, folds - 1))
    parts = digits_split(targets, fold=fold, folds=folds)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(targets)))
    for part in parts.values():
        counts = np.bincount(targets[part], minlength=5)
        expected = np.bincount(targets, minlength=5) * len(part) / len(targets)
        assert np.abs(counts - expected).max() <= 3  # the classes interleave to about one image at each end


def test_each_digit_is_tested_in_exactly_one_fold():
    tested = [create_dataset('digits', split='test', fold=fold).index for fold in range(5)]
    assert sorted(np.concatenate(tested)) == list(range(1797))


def test_digits_are_the_scans_of_scikit_learn():
    scans = load_digits()
    dataset = create_dataset('digits', split='val')
    for i in range(0, len(dataset), 40):
        image, target = dataset[i]
        original = int(dataset.sample_path(i).removeprefix('digits/'))
        assert target == scans.target[original]
        assert torch.equal((image * 16).round(), torch.tensor(scans.images[original])[None].float())


@pytest.fixture
def root(tmp_path):
    """Three classes, six training and two validation images each; class 'c' has no validation images."""
    for split, count in (('train', 6), ('val', 2)):
        for value, name in enumerate('bca' if split == 'train' else 'ab'):
            (folder := tmp_path / split / name / 'deeper').mkdir(parents=True)
            for i in range(count):
                Image.new('RGB', (8 + i, 9), (value, 0, i)).save(folder / f'{i}.PNG')
    (tmp_path / 'train' / '.cache').mkdir()
    (tmp_path / 'train' / 'notes.txt').touch()
    return tmp_path


def test_folder_classes_are_those_of_train_sorted(root):
    train, val = (create_dataset('folder', root=root, split=s) for s in ('train', 'val'))
    assert train.classes == val.classes == ['a', 'b', 'c']
    assert (len(train), len(val)) == (18, 4)
    for dataset in (train, val):
        for i in range(len(dataset)):
            image, target = dataset[i]
            path = dataset.sample_path(i)
            assert f'/{dataset.classes[target]}/' in path
            with Image.open(path) as original:
                assert image.shape == (3, original.height, original.width)


@given(fraction=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_fraction_keeps_that_part_of_every_class(fraction, seed):
    whole = create_dataset('digits', split='train')
    part = create_dataset('digits', split='train', fraction=fraction, seed=seed)
    assert set(part.index) <= set(whole.index)
    expected = [max(1, round(fraction * n)) for n in np.bincount(whole.targets)]
    assert np.bincount(part.targets, minlength=10).tolist() == expected


def _remove(path):
    for inner in sorted(path.rglob('*'), reverse=True):
        inner.rmdir() if inner.is_dir() else inner.unlink()
    path.rmdir()


@pytest.mark.parametrize(
    ('damage', 'split', 'message'),
    [
        (lambda r: _remove(r / 'val'), 'val', r'/val: no such folder; expected train/<class>/<image>'),
        (lambda r: _remove(r / 'train'), 'val', r'/train: no such folder'),
        (lambda r: _remove(r), 'train', r'no such folder'),
        (lambda r: (r / 'val' / 'd').mkdir(), 'val', r'/val/d: this class has no folder in .*train'),
        (lambda r: (r / 'train' / 'd').mkdir(), 'train', r'/train/d: no images of this class'),
        (lambda r: [_remove(r / 'val' / c) for c in 'ab'], 'val', r'/val: no images in it'),
    ],
)
def test_a_wrong_folder_is_named_in_one_line(root, damage, split, message):
    damage(root)
    with pytest.raises(UsageError, match=message) as error:
        create_dataset('folder', root=root, split=split)
    assert str(root) in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('closed', ['.', 'train', 'train/a', 'train/a/deeper'])
def test_a_folder_that_cannot_be_read_is_an_error_and_not_an_empty_class(unprivileged, closed):
    for name in ('train/a/deeper', 'train/b', 'val/a', 'val/b'):
        folder = unprivileged / name
        folder.mkdir(parents=True)
        Image.new('L', (8, 8)).save(folder / '0.png')
    Image.new('L', (8, 8)).save(unprivileged / 'train/a/1.png')
    assert len(create_dataset('folder', root=unprivileged, split='train')) == 3
    (unprivileged / closed).chmod(0)
    try:
        with pytest.raises(UsageError, match=r'^\S+: this folder cannot be read \(Permission denied\)$') as error:
            create_dataset('folder', root=unprivileged, split='train')
        assert str(error.value).startswith(f'{unprivileged / closed}: ')
    finally:
        (unprivileged / closed).chmod(0o700)


def test_a_broken_file_is_named(root):
    dataset = create_dataset('folder', root=root, split='train')
    with open(dataset.sample_path(4), 'wb') as file:
        file.write(b'no image')
    with pytest.raises(BrokenImage, match=dataset.sample_path(4)):
        dataset[4]


def test_imagenet_wants_its_thousand_folders_and_names_them_in_words(tmp_path):
    wnids = ImageNetInfo().label_names()
    for split in ('train', 'val'):
        for wnid in wnids:
            (tmp_path / split / wnid).mkdir(parents=True)
            (tmp_path / split / wnid / 'x.JPEG').touch()
    dataset = create_dataset('imagenet', root=tmp_path, split='val')
    assert len(dataset) == len(dataset.classes) == 1000
    for target, name in ((0, 'tench'), (207, 'golden retriever'), (999, 'toilet tissue')):
        assert dataset.classes[target].startswith(name)
        assert wnids[target] in dataset.sample_path(target)
    _remove(tmp_path / 'val' / wnids[5])
    with pytest.raises(UsageError, match=rf'/val: expected the 1000 class .* found 999; {wnids[5]} is missing'):
        create_dataset('imagenet', root=tmp_path, split='val')
    (tmp_path / 'train' / 'n99').mkdir()
    with pytest.raises(UsageError, match=r'/train: .*found 1001; n99 is not one of them'):
        create_dataset('imagenet', root=tmp_path, split='train')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'name': 'digit', 'split': 'train'}, "unknown classification data set 'digit': did you mean 'digits'"),
        ({'name': 'digits', 'split': 'vall'}, "unknown split of digits 'vall': did you mean 'val'"),
        ({'name': 'folder', 'split': 'test', 'root': '.'}, 'unknown split of folder'),
        ({'name': 'digits', 'split': 'train', 'flod': 1}, "'flod': did you mean 'fold'"),
        ({'name': 'imagenet', 'split': 'train', 'root': '.', 'fractoin': 1}, "did you mean 'fraction'"),
        ({'name': 'digits', 'split': 'train', 'root': '/data'}, 'root: expected None for digits'),
        ({'name': 'folder', 'split': 'train'}, 'root: expected the folder of the data set'),
        ({'name': 'digits', 'split': 'train', 'fold': 5}, 'fold: expected an integer >= 0 and <= 4'),
        ({'name': 'digits', 'split': 'train', 'folds': 1}, 'folds: expected an integer >= 2 and <= 10'),
        ({'name': 'digits', 'split': 'train', 'fraction': 0}, 'fraction: expected'),
        ({'name': 'digits', 'split': 'test', 'fraction': 0.5}, 'fraction: expected 1 for the test split'),
    ],
)
def test_a_mistake_is_answered_with_what_is_valid(arguments, message):
    with pytest.raises(UsageError) as error:
        create_dataset(**arguments)
    assert message in str(error.value)


def test_without_scikit_learn_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(UsageError, match=r'pip install vimamba\[train\]') as error:
        create_dataset('digits', split='train')
    assert '\n' not in str(error.value)
