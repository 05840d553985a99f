"""What a detector says is true: boxes, labels and masks of images of any shape, in the pixels of the image."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from tests.data.dense_files import shapes
from tests.tasks.settings import settings
from vimamba.tasks.detection import DETECTORS, DetectionTask, Resize, RoIAlign

SIZES = [(96, 96), (40, 64), (50, 130), (300, 17), (5, 320), (320, 5), (1, 2000), (2000, 1)]  # height, width
MIN, MAX = 80, 128  # sides are brought to: none of these sizes stays, and not all are multiples of a stride


def task_of(head, model='vmamba', **options):
    if 'rcnn' in head:
        options = {'hidden': 64, 'proposals': 50, 'samples': 32, **options}
    if head == 'mask_rcnn':
        options['mask_channels'] = 32
    torch.manual_seed(0)
    config = settings('detection', model, {'head': head, 'channels': 64, **options})
    return DetectionTask.build(config, ['rectangle', 'disc'])


def resized(size):
    """Height and width with the padding of thin images, and those that the detector sees."""
    padded = [max(side, max(size) // 32) for side in size]
    factor = min(MIN / min(padded), MAX / max(padded))
    return padded, [int(side * factor) for side in padded]


def anchors(head, size):
    """The squares (N, 4) that the head lays on an image, cut to it, in its own pixels: by the definition."""
    (padded, sides), boxes = resized(size), []
    for stride in (4, 8, 16, 32, 64) if 'rcnn' in head else (8, 16, 32, 64, 128):
        factors = [2 ** (i / 3) for i in range(3)] if head == 'retinanet' else [1]
        rows, columns = (-(-(-(-side // 32) * 32) // stride) for side in sides)
        first = stride // 2 if head == 'fcos' else 0
        for half in (round(factor * stride / 2) for factor in factors):
            y, x = torch.meshgrid(*(torch.arange(n) * stride + first for n in (rows, columns)), indexing='ij')
            boxes.append(torch.stack([x - half, y - half, x + half, y + half], -1).reshape(-1, 4).float())
    clipped = torch.cat(boxes).clamp(min=0).minimum(torch.tensor(sides[::-1] * 2))
    own = clipped * torch.tensor([p / s for p, s in zip(padded, sides)][::-1] * 2)
    return own.minimum(torch.tensor(size[::-1] * 2))


@torch.no_grad()
def blind(network, head, label):
    """Heads that read nothing: every anchor is an object of this label, and its mask is all of it."""
    last = {
        'retinanet': lambda: (network.head.classification_head.cls_logits, network.head.regression_head.bbox_reg),
        'fcos': lambda: (network.head.classification_head.cls_logits, network.head.regression_head.bbox_reg),
    }.get(head, lambda: (network.roi_heads.box_predictor.cls_score, network.roi_heads.box_predictor.bbox_pred))
    classes, boxes = last()
    layers = [classes, boxes]
    if 'rcnn' in head:
        layers += [network.rpn.head.cls_logits, network.rpn.head.bbox_pred]
    for layer in layers:
        layer.weight.zero_()
        layer.bias.zero_()
    per_anchor = classes.bias.view(-1, 2 + ('rcnn' in head))
    per_anchor[:, label - 2] = 9  # from behind, where a background stands in front
    per_anchor[:, 1 - label - 2] = -9
    if head == 'fcos':
        boxes.bias.fill_(0.5)  # strides from the centre to each edge
    if head == 'mask_rcnn':
        mask = network.roi_heads.mask_predictor.mask_fcn_logits
        mask.weight.zero_()
        mask.bias.copy_(torch.tensor([0.0] + [9.0 if own == label else -9.0 for own in range(2)]))


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('head', DETECTORS)
def test_what_is_found_lies_where_the_anchors_are(head, size):
    """Strides, resizing, padding and cutting, each coordinate by itself; labels and masks of what is found."""
    squares = {} if head == 'fcos' else {'anchor_ratios': [1.0], 'anchor_scale': 1}
    task = task_of(head, min_size=MIN, max_size=MAX, **squares)
    wanted = anchors(head, size)
    for label in (0, 1):
        blind(task.model.network, head, label)
        with torch.inference_mode():
            (found,) = task.eval()([torch.rand(3, *size)])
        assert len(found['boxes'])
        distance = (found['boxes'][:, None] - wanted).abs().amax(2).amin(1)
        assert distance.max() <= 1e-3 * max(size)
        assert (found['boxes'][:, 2:] > found['boxes'][:, :2]).all()
        assert set(found['labels'].tolist()) == {label}
        if head == 'mask_rcnn':
            assert (found['masks'].dtype, found['masks'].shape) == (torch.bool, (len(found['boxes']), *size))
            for mask, (left, top, right, bottom) in zip(found['masks'], found['boxes'].tolist()):
                assert mask[int((top + bottom) / 2), int((left + right) / 2)]
                assert mask.sum() <= (bottom - top + 2) * (right - left + 2)


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_targets_go_where_the_pixels_go(size):
    """A bright rectangle in the image that the detector sees is where its box and its mask say; and back again."""
    height, width = size
    image, box = torch.zeros(3, height, width), [width // 4, height // 3, width - width // 8, height]
    image[:, box[1] : box[3], box[0] : box[2]] = 1
    target = {'boxes': torch.tensor([box]).float(), 'labels': torch.tensor([5]), 'masks': image[:1].byte()}
    resize = Resize([MIN], MAX, [0.0] * 3, [1.0] * 3).train()
    batch, (seen,) = resize([image], [target])
    assert tuple(batch.image_sizes[0]) == tuple(resized(size)[1])
    assert batch.tensors.shape[2] % 32 == batch.tensors.shape[3] % 32 == 0
    bright = batch.tensors[0, 0] > 0.5
    scale = torch.tensor([s / p for p, s in zip(*resized(size))][::-1] * 2)
    torch.testing.assert_close(seen['boxes'][0], torch.tensor(box) * scale)
    if min(size) > 1:  # a strip of one pixel is scaled away
        assert (box_of(bright) - seen['boxes'][0]).abs().max() <= 1
        assert (box_of(seen['masks'][0]) - seen['boxes'][0]).abs().max() <= 1
    (back,) = resize.eval().postprocess([{'boxes': seen['boxes']}], batch.image_sizes, [size])
    torch.testing.assert_close(back['boxes'], target['boxes'], rtol=1e-5, atol=1e-3)


def test_a_box_too_thin_for_float32_is_left_out_of_training():
    """Scaling may bring the two edges of a box to one number, which torchvision refuses with an exception."""
    task = task_of('faster_rcnn', min_size=MIN, max_size=MAX)
    image, target = scene(0, (96, 96))
    left = (
        torch.linspace(40, 60, 71).sqrt() ** 2
    )  # a number of float32 apart: some are one after the resizing, and some are not
    thin = torch.stack([left, left * 0, left.nextafter(torch.tensor(99.0)), left], 1)
    target = {key: value[:1].repeat_interleave(71, 0) for key, value in target.items()} | {'boxes': thin}
    _, (seen,) = task.model.network.transform.train()([image], [target])
    assert 0 < len(seen['boxes']) < 71
    assert len(seen['masks']) == len(seen['labels']) == len(seen['boxes'])
    assert all(torch.isfinite(loss) for loss in task.train()([image], [target], mode='loss').values())


@pytest.mark.parametrize('first', [(20, 300), (300, 20)], ids=str)
def test_regions_are_read_where_they_are_whatever_came_first(first):
    """From maps that hold where their cells have their centres: the bins of a region hold those of their own."""
    strides = (4, 8, 16, 32)
    pool = RoIAlign(7, strides)

    def coordinates(size):
        sides = [-(-side // 32) * 32 for side in size]
        y_x = [torch.meshgrid(*(torch.arange(s / 2, side, s) for side in sides), indexing='ij') for s in strides]
        return {str(i): torch.stack([x, y])[None] for i, (y, x) in enumerate(y_x)}

    pool(coordinates(first), [torch.tensor([[2.0, 2, 12, 12]])], [first])
    boxes = torch.tensor([[100.0, 60, 170, 130], [64, 32, 288, 288], [40, 80, 300, 420]])
    cells = pool(coordinates((512, 480)), [boxes], [(500, 470)])  # of levels 2, 4 and 4
    centres = (torch.arange(7) + 0.5) / 7
    for (left, top, right, bottom), (x, y) in zip(boxes.tolist(), cells):
        torch.testing.assert_close(x, (left + (right - left) * centres).expand(7, 7))
        torch.testing.assert_close(y, (top + (bottom - top) * centres)[:, None].expand(7, 7))


def scene(number, size):
    """An image (3, H, W) in 0..1 of a rectangle and a disc, and its target."""
    image, drawn = shapes(number, size)
    masks = torch.from_numpy(np.stack([mask for _, mask in drawn]).astype(np.uint8))
    target = {'boxes': torch.stack([box_of(mask) for mask in masks]), 'masks': masks}
    kinds = {'labels': torch.tensor([kind for kind, _ in drawn]), 'iscrowd': torch.zeros(2, dtype=torch.int64)}
    return torch.from_numpy(image).permute(2, 0, 1) / 255, target | kinds


def box_of(mask):
    """The outer edges (left, top, right, bottom) of what is there."""
    rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


# Steps: focal loss begins slowly, with few positives.
@pytest.mark.slow
@pytest.mark.parametrize(('head', 'steps'), [('faster_rcnn', 80), ('mask_rcnn', 80), ('fcos', 60), ('retinanet', 200)])
def test_two_scenes_learned_by_heart_are_told(head, steps):
    """Of a broad and a tall image, both resized: every object by its box, its label and its mask."""
    scale = {'anchor_scale': 4} if 'rcnn' in head else {}
    task = task_of(head, 'timm convnext', min_size=64, max_size=96, **scale)
    images, targets = zip(scene(0, (40, 80)), scene(1, (96, 60)))
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    for _ in range(steps):
        losses = task.train()(images, targets, mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.inference_mode():
        outputs = task.eval()(images)
    for found, target in zip(outputs, targets):
        best = found['scores'].argsort(descending=True)[:2]  # there are two objects
        overlap, which = box_iou(target['boxes'], found['boxes'][best]).max(1)
        assert overlap.min() > 0.6
        assert torch.equal(found['labels'][best][which], target['labels'])
        if head == 'mask_rcnn':
            masks, wanted = found['masks'][best][which], target['masks'].bool()
            assert ((masks & wanted).sum((1, 2)) / (masks | wanted).sum((1, 2))).min() > 0.6
