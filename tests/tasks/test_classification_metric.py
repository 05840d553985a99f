"""Promises: the table names the worst of those classes that were seen, the figures say how many of what there were."""

import torch

from vimamba.tasks.classification import ClassificationMetric


def metric(classes, seen, what='videos'):
    """Of ``seen`` classes one sample each, right but for the first two."""
    found = ClassificationMetric([f'class {i}' for i in range(classes)], what)
    logits = torch.eye(classes)[:seen]
    logits[:2] = torch.eye(classes)[seen - 1]
    found.update(logits, torch.arange(seen))
    return found


def test_classes_without_samples_are_not_among_the_worst():
    lines = metric(60, 30).table().splitlines()
    assert lines[1] == 'the 10 worst of 30 classes:'
    assert lines[2].split() == ['class', 'videos', 'accuracy']
    assert [line.split() for line in lines[3:5]] == [['class', str(i), '1', '0.00'] for i in range(2)]
    assert len(lines) == 3 + 10
    assert 'nan' not in '\n'.join(lines)
    assert metric(60, 4).table().splitlines()[1] == 'the 4 worst of 4 classes:'
    assert ['class', '9', '0', 'nan'] in [line.split() for line in metric(10, 5).table().splitlines()]  # all are listed


def test_figures_count_videos_as_videos():
    for what, other in (('videos', 'images'), ('images', 'videos')):
        figures = metric(10, 5, what).summary()
        assert figures[what] == 5
        assert other not in figures
