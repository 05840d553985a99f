"""Tiny data sets of every dense format, on disk: coloured rectangles and discs on grey noise."""

import json

import numpy as np
from PIL import Image

from vimamba.data.scenes import DigitScenes

COLOURS = {'rectangle': (230, 60, 40), 'disc': (40, 90, 230)}


def shapes(number, size=(64, 80)):
    """An image (H, W, 3) uint8, and for each of two shapes its class 0 or 1 and mask (H, W)."""
    rng = np.random.RandomState(number)
    image = rng.randint(90, 160, (*size, 3)).astype(np.uint8)
    rows, columns = np.mgrid[: size[0], : size[1]]
    masks = []
    for kind, left in enumerate((4, size[1] // 2)):
        top, side = rng.randint(2, size[0] - 30), rng.randint(16, 26)
        if kind == 0:
            mask = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        else:
            radius = side // 2
            mask = (rows - top - radius) ** 2 + (columns - left - radius) ** 2 <= radius**2
        image[mask] = list(COLOURS.values())[kind]
        masks.append((kind, mask))
    return image, masks


def polygon(mask):
    """The outline of a rectangle's mask, the outer edges."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return [[int(v) for v in (left, top, right, top, right, bottom, left, bottom)]]


def counts(mask):
    """Uncompressed run lengths, columns first, starting with the zeros."""
    flat = mask.T.ravel().astype(np.uint8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return np.diff([0, *edges, flat.size]).tolist()


def coco_content(numbers, folder):
    """The images ``numbers``, written into a folder, and what their JSON file says."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        'images': [],
        'annotations': [],
        'categories': [{'id': 7, 'name': 'disc'}, {'id': 3, 'name': 'rectangle'}],
    }
    for number in numbers:
        image, masks = shapes(number)
        Image.fromarray(image).save(folder / f'{number:04}.png')
        size = {'height': image.shape[0], 'width': image.shape[1]}
        content['images'].append({'id': number, 'file_name': f'{number:04}.png', **size})
        for kind, mask in masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
            runs = {'size': list(mask.shape), 'counts': counts(mask)}
            content['annotations'].append({
                'id': len(content['annotations']) + 1, 'image_id': number, 'category_id': (3, 7)[kind], 'iscrowd': 0,
                'bbox': [float(v) for v in box], 'area': float(mask.sum()),
                'segmentation': polygon(mask) if kind == 0 else runs,
            })  # fmt: skip
    return content


def write_coco(root, train=8, val=4):
    """``root/train2017`` and so on, as COCO's own."""
    (root / 'annotations').mkdir(parents=True)
    for split, numbers in (('train', range(train)), ('val', range(100, 100 + val))):
        content = coco_content(numbers, root / f'{split}2017')
        (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(content))
    return root


def semantic(masks, size, offset):
    """A map (H, W) uint8 of the shapes' classes, ``offset`` on."""
    labels = np.zeros(size, np.uint8)
    for kind, mask in masks:
        labels[mask] = kind + offset
    return labels


def write_ade20k(root, train=8, val=4):
    """ADE20K's folders; 0 is "other", 1 the rectangle, 2 the disc."""
    for folder, numbers in (('training', range(train)), ('validation', range(100, 100 + val))):
        for kind in ('images', 'annotations'):
            (root / kind / folder).mkdir(parents=True)
        for number in numbers:
            image, masks = shapes(number)
            Image.fromarray(image).save(root / 'images' / folder / f'{number}.jpg')
            Image.fromarray(semantic(masks, image.shape[:2], 1)).save(root / 'annotations' / folder / f'{number}.png')
    return root


def write_masks(root, train=8, val=4):
    """Folders of anyone's: background, rectangle, disc."""
    for split, numbers in (('train', range(train)), ('val', range(100, 100 + val))):
        for kind in ('images', 'masks'):
            (root / split / kind).mkdir(parents=True)
        for number in numbers:
            image, masks = shapes(number)
            Image.fromarray(image).save(root / split / 'images' / f'{number}.jpg')
            Image.fromarray(semantic(masks, image.shape[:2], 1)).save(root / split / 'masks' / f'{number}.png')
    (root / 'classes.txt').write_text('background\nrectangle\ndisc\n')
    return root


VOC_OBJECT = (
    '<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>'
    '<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>'
)


def write_voc(root, numbers=range(4)):
    """VOC's folders: the rectangle is a bottle, the disc a difficult sheep."""
    for folder in ('ImageSets/Main', 'Annotations', 'JPEGImages'):
        (root / folder).mkdir(parents=True)
    (root / 'ImageSets/Main/train.txt').write_text('\n'.join(map(str, numbers)))
    for number in numbers:
        image, masks = shapes(number)
        Image.fromarray(image).save(root / f'JPEGImages/{number}.jpg')
        objects = []
        for kind, mask in masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1)
            objects.append(VOC_OBJECT.format(name=('bottle', 'sheep')[kind], difficult=kind, box=box))
        size = f'<size><width>{image.shape[1]}</width><height>{image.shape[0]}</height><depth>3</depth></size>'
        (root / f'Annotations/{number}.xml').write_text(f'<annotation>{size}{"".join(objects)}</annotation>')
    return root


def scenes(**options):
    """A few digit scenes."""
    return DigitScenes(**{'split': 'val', 'scenes': 8, 'size': 96, 'masks': True, **options})
