"""COCO's figures: those of pycocotools on the same detections, in any order, over any number of processes."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch

from vimamba.tasks.coco_metric import CocoMetric

pytest.importorskip('faster_coco_eval', reason='the metric needs vimamba[det]')
NAMES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')


def scene(rng, masks, size=160):
    """Truth with crowds, and detections that are moved, mislabelled, invented or left out."""

    def boxes(n):
        corner, side = rng.uniform(0, size - 40, (n, 2)), np.exp(rng.uniform(1.5, 4.6, (n, 2)))
        return np.concatenate([corner, np.minimum(corner + side, size)], 1)

    n = rng.randint(0, 7)
    truth = boxes(n)
    labels = rng.randint(0, 3, n)
    keep = rng.rand(n) < 0.85
    found = np.concatenate([truth[keep] + rng.normal(0, 1.5, (keep.sum(), 4)), boxes(rng.randint(0, 4))]).clip(0, size)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    guessed = np.concatenate([labels[keep], rng.randint(0, 3, len(found) - keep.sum())])
    target = {
        'boxes': truth, 'labels': labels, 'iscrowd': (rng.rand(n) < 0.1).astype(int),
        'area': (truth[:, 2:] - truth[:, :2]).prod(1),
    }  # fmt: skip
    output = {'boxes': found, 'labels': guessed, 'scores': rng.rand(len(found)).round(2)}
    if masks:
        for part in (target, output):
            part['masks'] = np.zeros((len(part['boxes']), size, size), np.uint8)
            for mask, box in zip(part['masks'], part['boxes']):
                left, top, right, bottom = box.round().astype(int)
                mask[top : bottom + 1, left : right + 1] = (
                    rng.rand(bottom + 1 - top, right + 1 - left)[: size - top, : size - left] < 0.9
                )
        target['area'] = target['masks'].sum((1, 2))
    return [{key: torch.tensor(value) for key, value in part.items()} for part in (output, target)]


def reference(outputs, targets, kind):
    """The six figures by pycocotools, its input written here anew."""
    coco = pytest.importorskip('pycocotools.coco')
    from pycocotools import mask as coding
    from pycocotools.cocoeval import COCOeval

    def entries(part, number, scored):
        rows = []
        for i in range(len(part['boxes'])):
            left, top, right, bottom = part['boxes'][i].tolist()
            row = {'image_id': number, 'category_id': int(part['labels'][i])}
            if kind == 'bbox' or not scored:
                row['bbox'] = [left, top, right - left, bottom - top]
            if kind == 'segm':
                row['segmentation'] = coding.encode(np.asfortranarray(part['masks'][i].numpy()))
            rows.append(row | ({'score': float(part['scores'][i])} if scored else
                               {'iscrowd': int(part['iscrowd'][i]), 'area': float(part['area'][i])}))  # fmt: skip
        return rows

    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO()
        annotations = [row for n, target in enumerate(targets) for row in entries(target, n, False)]
        gt.dataset = {
            'images': [{'id': n, 'height': 160, 'width': 160} for n in range(len(targets))],
            'categories': [{'id': c} for c in range(3)],
            'annotations': [{**row, 'id': i + 1} for i, row in enumerate(annotations)],
        }
        gt.createIndex()
        dt = gt.loadRes([row for n, output in enumerate(outputs) for row in entries(output, n, True)])
        evaluator = COCOeval(gt, dt, kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats[:6]


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('masks', [False, True])
@pytest.mark.parametrize(('seed', 'first'), [(0, 0), (1, 0), (2, 2**60)])  # of ids, which a double does not tell apart
def test_figures_are_those_of_pycocotools(masks, seed, first):
    rng = np.random.RandomState(seed)
    pairs = [scene(rng, masks) for _ in range(25)]
    outputs, targets = ([pair[i] for pair in pairs] for i in (0, 1))
    targets = [{**target, 'image_id': first + n} for n, target in enumerate(targets)]
    metric = CocoMetric(['a', 'b', 'c'])
    metric.update(outputs, targets)
    figures = metric.compute()
    for prefix, kind in {'': 'bbox', **({'mask_': 'segm'} if masks else {})}.items():
        for name, value in zip(NAMES, reference(outputs, targets, kind)):
            expected = 100 * value if value > -1 else math.nan  # -1: nothing to find
            assert figures[prefix + name] == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_the_order_of_images_does_not_matter():
    rng = np.random.RandomState(5)
    pairs = [scene(rng, False) for _ in range(20)]
    results = []
    for order in (range(20), reversed(range(20))):
        metric = CocoMetric(['a', 'b', 'c'])
        for n in order:
            metric.update([pairs[n][0]], [{**pairs[n][1], 'image_id': n}])
        results.append(metric.compute())
    assert results[0] == pytest.approx(results[1], rel=0, abs=0, nan_ok=True)


def test_nothing_found_is_zero_and_nothing_to_find_is_not_a_number():
    empty = {'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0, dtype=torch.int64), 'scores': torch.zeros(0)}
    one = {'boxes': torch.tensor([[0.0, 0, 9, 9]]), 'labels': torch.tensor([1]), 'area': torch.tensor([81.0])}
    metric = CocoMetric(['a', 'b'])
    metric.update([empty], [{**one, 'iscrowd': torch.tensor([0]), 'image_id': 0}])
    assert metric.compute()['AP'] == 0
    assert math.isnan(metric.per_class()['AP'][0])
    assert metric.per_class()['AP'][1] == 0
    metric = CocoMetric(['a'])
    metric.update([empty], [{**{k: v[:0] for k, v in one.items()}, 'iscrowd': torch.zeros(0), 'image_id': 0}])
    assert math.isnan(metric.compute()['AP'])


def test_the_table_is_the_fields():
    rng = np.random.RandomState(3)
    metric = CocoMetric(['a', 'b', 'c'])
    for n in range(5):
        output, target = scene(rng, True)
        metric.update([output], [{**target, 'image_id': n}])
    lines = metric.table().splitlines()
    assert lines[0].split() == list(NAMES)
    assert [line.split()[0] for line in lines[1:4]] == ['box', 'mask', 'class']
    assert len(lines) == 7
