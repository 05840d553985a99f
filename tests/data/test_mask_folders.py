"""Mask folders: the classes of each layout, what is ignored, and every mismatch named."""

import numpy as np
import pytest
from PIL import Image

from tests.data.dense_files import semantic, shapes, write_ade20k, write_masks
from vimamba.data import BrokenImage, create_dataset
from vimamba.errors import UsageError


def open_set(name, root, split='train', **options):
    return create_dataset(name, task='segmentation', root=root, split=split, **options)


def test_ade20k_ignores_other_and_counts_from_one(tmp_path):
    dataset = open_set('ade20k', write_ade20k(tmp_path))
    image, target = dataset[3]
    expected = semantic(shapes(3)[1], (64, 80), 1).astype(int) - 1
    assert np.array_equal(target['mask'], np.where(expected < 0, 255, expected))
    assert image.size == (80, 64)
    assert len(dataset.classes) == 150
    assert len(open_set('ade20k', tmp_path, 'val')) == 4


def test_ade20k_names_come_from_its_own_file(tmp_path):
    rows = ''.join(f'{i}\t0.1\t1\t1\tname {i}, other\n' for i in range(150))
    (write_ade20k(tmp_path) / 'objectInfo150.txt').write_text('Idx\tRatio\tTrain\tVal\tName\n' + rows)
    assert open_set('ade20k', tmp_path).classes[:2] == ['name 0', 'name 1']


def test_anyones_folder(tmp_path):
    dataset = open_set('masks', write_masks(tmp_path))
    assert dataset.classes == ['background', 'rectangle', 'disc']
    assert np.array_equal(dataset[5][1]['mask'], semantic(shapes(5)[1], (64, 80), 1))
    assert open_set('masks', tmp_path, classes=['a', 'b', 'c']).classes == ['a', 'b', 'c']


@pytest.mark.parametrize('train_ids', [False, True])
def test_cityscapes_in_both_numberings(tmp_path, train_ids):
    for folder in ('leftImg8bit', 'gtFine'):
        (tmp_path / folder / 'train/bonn').mkdir(parents=True)
    Image.new('RGB', (4, 2)).save(tmp_path / 'leftImg8bit/train/bonn/bonn_0_leftImg8bit.png')
    ids = np.array([[7, 8, 0, 33], [26, 26, 4, 11]], np.uint8)
    trained = np.array([[0, 1, 255, 18], [13, 13, 255, 2]], np.uint8)
    Image.fromarray(ids).save(tmp_path / 'gtFine/train/bonn/bonn_0_gtFine_labelIds.png')
    if train_ids:
        Image.fromarray(trained).save(tmp_path / 'gtFine/train/bonn/bonn_0_gtFine_labelTrainIds.png')
    dataset = open_set('cityscapes', tmp_path)
    assert np.array_equal(dataset[0][1]['mask'], trained)
    assert dataset.classes[13] == 'car'


def test_voc_palette_masks(tmp_path):
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (tmp_path / folder).mkdir(parents=True)
    mask = np.array([[0, 15, 255], [20, 0, 0]], np.uint8)
    for name in 'ab':
        Image.new('RGB', (3, 2)).save(tmp_path / f'JPEGImages/{name}.jpg')
    picture = Image.fromarray(mask, 'P')
    picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / 'SegmentationClass/a.png')
    (tmp_path / 'ImageSets/Segmentation/train.txt').write_text('a\n')
    dataset = open_set('voc', tmp_path)
    assert len(dataset) == 1
    assert np.array_equal(dataset[0][1]['mask'], mask)
    assert (dataset.classes[15], dataset.classes[20]) == ('person', 'tvmonitor')


def test_masks_of_16_bits(tmp_path):
    root = write_masks(tmp_path)
    numbers = np.array([[0, 254, 255]] * 2, np.uint16)
    Image.new('RGB', (3, 2)).save(root / 'train/images/3.jpg')
    Image.fromarray(numbers).save(root / 'train/masks/3.png')
    dataset = open_set('masks', root, classes=list(map(str, range(255))))
    assert np.array_equal(dataset[3][1]['mask'], numbers.astype(np.uint8))


def spoil(root, what):
    mask = root / 'train/masks/3.png'
    if what == 'no mask':
        mask.unlink()
    elif what == 'no image':
        (root / 'train/images/3.jpg').unlink()
    elif what == 'size':
        Image.new('L', (80, 63)).save(mask)
    elif what == 'value':
        Image.new('L', (80, 64), 9).save(mask)
    elif what == '16 bit':
        Image.fromarray(np.full((64, 80), 256, np.uint16)).save(mask)
    elif what == 'two images':
        Image.new('RGB', (80, 64)).save(root / 'train/images/3.PNG')
    elif what == 'two masks':
        Image.new('L', (80, 64)).save(root / 'train/masks/3.PNG')
    elif what == 'many classes':
        (root / 'classes.txt').write_text('\n'.join(map(str, range(256))))
    elif what == 'a class twice':
        (root / 'classes.txt').write_text('sky\nsea\nsky\n')
    elif what == 'colours':
        Image.new('RGB', (80, 64)).save(mask)
    elif what == 'truncated':
        mask.write_bytes(mask.read_bytes()[:60])
    elif what == 'no classes':
        (root / 'classes.txt').unlink()
    elif what == 'no folder':
        (root / 'train/masks').rename(root / 'train/labels')


@pytest.mark.parametrize(
    ('what', 'says'),
    [
        ('no mask', r'3\.jpg: it has no mask .*3\.png'),
        ('no image', r'3\.png: it has no image'),
        ('size', r'3\.png: 80 x 63 pixels, its image 80 x 64'),
        ('value', r'3\.png: a pixel of value 9: no class of 3'),
        ('16 bit', r'3\.png: a pixel of value 256: no class of 3'),
        ('two images', r'images/3\.(jpg|PNG): .*images/3\.(jpg|PNG) differs only in its ending'),
        ('two masks', r'masks/3\.(png|PNG): .*masks/3\.(png|PNG) differs only in its ending'),
        ('many classes', r'classes: expected at most 255, the numbers below 255, got 256'),
        ('a class twice', r"classes\.txt: line 3: line 1 has 'sky', too"),
        ('colours', r'3\.png: a mask of mode RGB: save class numbers'),
        ('truncated', r'3\.png: cannot be read as a mask'),
        ('no classes', r'needs classes\.txt'),
        ('no folder', r'train/masks: no such folder'),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, what, says):
    spoil(write_masks(tmp_path), what)
    with pytest.raises((UsageError, BrokenImage), match=says):
        open_set('masks', tmp_path)[3]
