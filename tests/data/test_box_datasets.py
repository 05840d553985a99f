"""COCO and VOC: what is read is what was drawn; what cannot be true is refused by file, record and reason."""

import copy
import json
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.dense_files import coco_content, shapes, write_coco, write_voc
from vimamba.data import BrokenImage, create_dataset
from vimamba.data.coco import CocoDataset, run_lengths
from vimamba.data.voc import VocDataset
from vimamba.errors import UsageError

coding = pytest.importorskip('faster_coco_eval.core.mask', reason='polygons need vimamba[det]')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp('coco'))


def read(root, content, **options):
    (root / 'a.json').write_text(content if isinstance(content, str) else json.dumps(content))
    return CocoDataset(root=root, split='train', train_json='a.json', masks=True, **options)


def valid(root):
    return json.loads((root / 'annotations/instances_train2017.json').read_text())


def test_objects_are_those_that_were_drawn(root):
    dataset = create_dataset('coco', task='detection', root=root, split='train', masks=True)
    assert dataset.classes == ['rectangle', 'disc']  # by id
    for number in range(len(dataset)):
        image, target = dataset[number]
        drawn, masks = shapes(number)
        assert np.array_equal(np.asarray(image), drawn)
        assert target['image_id'] == number
        assert target['labels'].tolist() == [0, 1]
        assert np.array_equal(target['masks'], np.stack([mask for _, mask in masks]))
        for box, mask, area in zip(target['boxes'], target['masks'], target['area']):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert area == mask.sum()
        assert (target['boxes'].dtype, target['labels'].dtype) == (np.float32, np.int64)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_compressed_run_lengths_are_those_of_the_reference(height, width, seed):
    mask = np.asfortranarray(np.random.RandomState(seed).randint(0, 2, (height, width)).astype(np.uint8))
    text = coding.encode(mask)['counts']
    counts = run_lengths(text.decode() if isinstance(text, bytes) else text)
    assert np.array_equal(np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height).T, mask)


def test_masks_agree_with_pycocotools(root):
    pycoco = pytest.importorskip('pycocotools.coco')
    reference = pycoco.COCO(root / 'annotations/instances_train2017.json')
    dataset = CocoDataset(root=root, split='train', masks=True)
    for i in range(len(dataset)):
        target = dataset[i][1]
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=[target['image_id']]))
        assert np.array_equal(target['masks'], np.stack([reference.annToMask(a) for a in annotations]))


def change(path, value):
    """The valid content with one place changed; ``...`` deletes it."""

    def apply(content):
        *keys, last = path
        for key in keys:
            content = content[key]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return apply


MALFORMED = {  # what is changed, and what the message says
    'not json': ('{"images": [', r'a\.json:1: not JSON'),
    'a list': ('[]', r'a\.json: expected an object with images'),
    'no categories': (change(['categories'], []), r'no categories'),
    'no annotations key': (change(['annotations'], ...), r'a\.json: annotations is missing'),
    'nan box': (change(['annotations', 1, 'bbox', 2], float('nan')), r'annotation id 2: its box .* finite'),
    'text in a box': (change(['annotations', 1, 'bbox', 2], 'x'), r'annotation id 2: its box .* finite'),
    'three numbers': (change(['annotations', 1, 'bbox'], [1, 2, 3]), r'annotation id 2: bbox: expected four numbers'),
    'unknown category': (change(['annotations', 1, 'category_id'], 99), r'annotation id 2: no category has the id 99'),
    'unknown image': (change(['annotations', 1, 'image_id'], 99), r'annotation id 2: no image has the id 99'),
    'duplicate annotation': (change(['annotations', 1, 'id'], 1), r'annotation id 1: another annotation has this id'),
    'duplicate image': (change(['images', 1, 'id'], 0), r'image id 0: another image has this id'),
    'duplicate category': (change(['categories', 1, 'id'], 7), r'category id 7: another category has this id'),
    'missing image': (change(['images', 1, 'file_name'], 'no.png'), r'image id 1: .*no\.png does not exist'),
    'escaping name': (change(['images', 1, 'file_name'], '../a.json'), r"image id 1: '\.\./a\.json' is not the name"),
    'negative size': (change(['images', 1, 'height'], -3), r'image id 1: a size of 80 x -3'),
    'an id that is text': (change(['annotations', 1, 'id'], 'two'), r'annotation number 2: id: expected int'),
    'an image id with a point': (change(['annotations', 1, 'image_id'], 1.0), 'id 2: image_id: expected int, got 1.0$'),
    'an image id of null': (change(['annotations', 1, 'image_id'], None), 'id 2: image_id: expected int, got null$'),
    'an annotation that is text': (change(['annotations', 1], 'two'), r'annotation number 2: expected an object'),
    'odd polygon': (change(['annotations', 0, 'segmentation', 0], [1] * 7), r'annotation id 1: a polygon of 7 numbers'),
    'two points': (change(['annotations', 0, 'segmentation', 0], [1] * 4), r'annotation id 1: a polygon of 4 numbers'),
    'infinite point': (
        change(['annotations', 0, 'segmentation', 0, 0], float('inf')),
        r'annotation id 1: .*not finite',
    ),
    'no segmentation': (change(['annotations', 0, 'segmentation'], []), r'annotation id 1: segmentation: expected'),
    'runs of another size': (
        change(['annotations', 1, 'segmentation', 'size'], [9, 9]),
        r'annotation id 2: .*size \[9, 9\]',
    ),
    'runs that are short': (
        change(['annotations', 1, 'segmentation', 'counts'], [5]),
        r'annotation id 2: .*add up to 5',
    ),
    'negative run': (
        change(['annotations', 1, 'segmentation', 'counts'], [-1, 1]),
        r'annotation id 2: .*not a list of integers >= 0',
    ),
    'broken text': (change(['annotations', 1, 'segmentation', 'counts'], 'ooo'), r'annotation id 2: .*within a number'),
    'other characters': (
        change(['annotations', 1, 'segmentation', 'counts'], '0é'),
        r'annotation id 2: .*invalid character',
    ),
    'a crowd of two': (change(['annotations', 1, 'iscrowd'], 2), r'annotation id 2: iscrowd: expected 0 or 1'),
    'an image id of 400 digits': (
        change(['images', 1, 'id'], 10**400),
        r'image number 2: id: expected an integer of 64 bits',
    ),
    'a height of 400 digits': (
        change(['images', 1, 'height'], 10**400),
        r'image id 1: height: expected an integer of 64',
    ),
    'an id of 400 digits': (
        change(['annotations', 1, 'id'], 10**400),
        r'annotation number 2: id: expected an integer of 64',
    ),
    'an edge of 400 digits': (change(['annotations', 1, 'bbox', 0], 10**400), r'annotation id 2: its box .* finite'),
    'an area of 400 digits': (change(['annotations', 1, 'area'], 10**400), r'annotation id 2: area: expected a number'),
    'a corner of 400 digits': (
        change(['annotations', 0, 'segmentation', 0, 1], -(10**400)),
        r'annotation id 1: .*far from the image',
    ),
    'a corner that would take all memory': (
        change(['annotations', 0, 'segmentation', 0, 0], 1e9),
        r'annotation id 1: .*far from the image',
    ),
    'a corner that is no number': (
        change(['annotations', 0, 'segmentation', 0, 0], float('nan')),
        r'annotation id 1: .*not finite',
    ),
    'true in a box': (change(['annotations', 1, 'bbox', 2], True), r'annotation id 2: its box .* finite'),
    'endless run lengths': (
        change(['annotations', 1, 'segmentation', 'counts'], 'o' * 10**5),
        r'annotation id 2: .*more than 60 bits',
    ),
    'a file of two images': (
        change(['images', 1, 'file_name'], './0000.png'),
        r'image id 1: image id 0 has the same file_name',
    ),
    'a name of two categories': (
        change(['categories', 1, 'name'], 'disc'),
        r'category id 3: another category has this name',
    ),
    'a negative area': (change(['annotations', 1, 'area'], -1), r'annotation id 2: area: expected'),
}


@pytest.mark.parametrize('name', MALFORMED)
def test_a_malformed_file_is_refused_by_record_and_reason(root, name):
    apply, says = MALFORMED[name]
    content = valid(root)
    if not isinstance(apply, str):
        apply(content)
    with pytest.raises(UsageError, match=says) as error:
        read(root, apply if isinstance(apply, str) else content)
    assert 'a.json' in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('box', 'says'),
    [
        ([5, 5, 0, 9], 'empty or inverted'),
        ([5, 5, 9, -2], 'empty or inverted'),
        ([200, 5, 9, 9], 'outside the image'),
        ([10, 5, 1e-7, 9], 'too thin for float32'),
        ([5, 40, 9, 1e-7], 'too thin for float32'),
        ([1e7, 5, 1e-3, 9], 'outside the image'),
    ],
)
def test_a_box_of_nothing_is_left_out_with_one_warning(root, box, says):
    content = valid(root)
    for i in (1, 3):
        content['annotations'][i]['bbox'] = box
    with pytest.warns(UserWarning, match=f'2 annotations left out, the first: .*a.json: annotation id 2: .*{says}'):
        dataset = read(root, content)
    assert [len(dataset[i][1]['boxes']) for i in range(3)] == [1, 1, 2]
    assert len(dataset.skipped) == 2


def test_a_box_that_sticks_out_is_cut_and_one_pixel_is_kept(root):
    content = valid(root)
    content['annotations'][0]['bbox'] = [-5, 60, 10, 50]
    content['annotations'][1]['bbox'] = [10, 20, 1, 1]
    boxes = read(root, content)[0][1]['boxes']
    assert boxes.tolist() == [[0, 60, 5, 64], [10, 20, 11, 21]]


def test_images_without_objects_are_kept_unless_one_asks(root):
    content = valid(root)
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] != 0]
    dataset = read(root, content)
    assert len(dataset) == 8
    target = dataset[0][1]
    assert target['boxes'].shape == (0, 4)
    assert target['masks'].shape == (0, 64, 80)
    assert len(read(root, content, keep_empty=False)) == 7
    content['annotations'] = []
    with pytest.raises(UsageError, match=r'none of its 8 images has objects; data.keep_empty=True keeps them$'):
        read(root, content, keep_empty=False)
    assert len(read(root, content)) == 8


def test_an_image_of_another_size_is_named(root):
    content = valid(root)
    content['images'][0]['width'] = 81
    content['annotations'] = []
    with pytest.raises(BrokenImage, match=r'0000\.png: 80 x 64 pixels, its annotation says 81 x 64'):
        read(root, content)[0]


@pytest.mark.parametrize(
    ('pixels', 'mode'),
    [
        pytest.param(np.zeros((1, 2000), np.uint8), 'L', id='strip'),
        pytest.param(np.full((9, 7), 40_000, np.uint16), 'L', id='16 bit'),
        pytest.param(np.zeros((9, 7), np.uint8), 'L', id='grey'),
    ],
)
def test_odd_images_are_read_whole(root, pixels, mode):
    content = valid(root)
    Image.fromarray(pixels).save(root / 'train2017/odd.png')
    content['images'] = [{'id': 0, 'file_name': 'odd.png', 'height': pixels.shape[0], 'width': pixels.shape[1]}]
    content['annotations'] = []
    image = read(root, content)[0][0]
    assert (image.mode, image.size) == (mode, pixels.shape[::-1])


def test_an_orientation_in_the_file_does_not_turn_it_away_from_its_boxes(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(shapes(0)[0]).save(root / 'train2017/turned.jpg', exif=exif)
    content = valid(root)
    content['images'][0]['file_name'] = 'turned.jpg'
    assert read(root, content)[0][0].size == (80, 64)


def test_validation_has_the_classes_of_training(root):
    content = valid(root)
    content['categories'][0]['name'] = 'ring'
    (root / 'other.json').write_text(json.dumps(content))
    with pytest.raises(UsageError, match='its categories differ from those of'):
        CocoDataset(root=root, split='val', val_json='other.json')


LEAVES = st.one_of(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.text(max_size=3),
    st.lists(st.integers(-3, 300), max_size=7),
    st.dictionaries(st.text(max_size=3), st.integers()),
)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_a_file_says_it_is_read_or_refused(root, data):
    content = copy.deepcopy(valid(root))
    here, way = content, []
    while isinstance(here, dict | list) and here and (not way or data.draw(st.booleans())):
        key = data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        way.append((here, key))
        here = here[key]
    holder, key = way[-1]
    holder[key] = data.draw(LEAVES)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            dataset = read(root, content)
            for i in range(len(dataset)):
                dataset[i]
        except UsageError as error:
            said = str(error)
            assert '\n' not in said


def test_voc_counts_from_one_and_difficult_ones_are_not_to_be_found(tmp_path):
    write_voc(tmp_path / 'voc')
    dataset = create_dataset('voc', task='detection', root=tmp_path / 'voc', split='train')
    _, target = dataset[2]
    for box, (_, mask) in zip(target['boxes'], shapes(2)[1]):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert [dataset.classes[i] for i in target['labels']] == ['bottle', 'sheep']
    assert target['iscrowd'].tolist() == [0, 1]


@pytest.mark.parametrize(
    ('old', 'new', 'says'),
    [
        ('<name>bottle</name>', '<name>botle</name>', "object 0: unknown class 'botle': did you mean 'bottle'"),
        ('<xmin>', '<xmin>nan', 'object 0: bndbox/xmin: expected a number'),
        ('<width>80', '<width>', 'size/width: expected an integer'),
        ('<width>80', '<width>nan', "size/width: expected an integer, got 'nan'"),
        ('<width>80', '<width>inf', "size/width: expected an integer, got 'inf'"),
        ('<width>80', '<width>0', 'size: expected pixels, got 0 x 64'),
        ('<height>64', '<height>-64', 'size: expected pixels, got 80 x -64'),
        ('<height>64', '<height>' + '9' * 400, 'size: expected pixels, got 80 x 99999999999999999999'),
        ('<xmax>', '<xmax>1e999', 'object 0: its box'),
        ('</annotation>', '', 'not an annotation in XML'),
        ('<annotation>', '<!DOCTYPE a [<!ENTITY b "c">]><annotation>', 'declares entities'),
    ],
)
def test_a_malformed_voc_file_is_refused(tmp_path, old, new, says):
    file = write_voc(tmp_path / 'voc') / 'Annotations/1.xml'
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=f'1.xml: {re.escape(says)}'):
        VocDataset(root=tmp_path / 'voc', split='train')


def test_a_voc_image_that_is_not_there_is_named(tmp_path):
    (write_voc(tmp_path / 'voc') / 'JPEGImages/1.jpg').unlink()
    with pytest.raises(UsageError, match=r'train\.txt: line 2: .*1\.jpg does not exist'):
        VocDataset(root=tmp_path / 'voc', split='train')


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_a_name_that_voc_lists_twice_is_refused(tmp_path, task):
    root = write_voc(tmp_path / 'voc')
    for folder in ('SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir()
    folder = {'detection': 'Main', 'segmentation': 'Segmentation'}[task]
    (root / f'ImageSets/{folder}/train.txt').write_text('0\n1\n\n 0 \n')
    with pytest.raises(UsageError, match=r"train\.txt: line 4: line 1 has '0', too"):
        create_dataset('voc', task=task, root=root, split='train')


def test_reading_takes_little_memory_per_object(tmp_path):
    """A data set of n objects is arrays, not n Python objects, which workers would copy as they touch them."""
    content = coco_content(range(2), tmp_path / 'images')
    annotation = content['annotations'][0]
    content['annotations'] = [{**annotation, 'id': i} for i in range(20_000)]
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = CocoDataset(root=tmp_path, split='train', train_json='a.json', train_images='images')
    held = [v for v in vars(dataset).values() if isinstance(v, list | dict) and len(v) > 100]
    assert not held
    assert len(dataset[0][1]['boxes']) == 20_000
