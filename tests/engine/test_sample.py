"""Promises: a picture of an evaluation shows mistakes first, each with its own file, and costs little memory."""

import pytest
import torch
from torch import nn

from vimamba.data import create_dataset, create_loader
from vimamba.engine.loop import Sample, evaluate, tensors_in
from vimamba.tasks import ClassificationTask, VideoTask


class Always(nn.Module):
    """Takes everything for a three."""

    def forward(self, images):
        return torch.eye(10)[3].expand(len(images), 10)


@pytest.mark.parametrize('rank', [0, 1])
def test_each_image_has_its_own_path_and_mistakes_come_first(rank, monkeypatch):
    dataset = create_dataset('digits', split='val')
    loader = create_loader(
        dataset, 50, training=False, seed=0, rank=rank, world_size=2
    )  # the last of rank 1 is padding
    sample, shown = Sample(200), {}
    task = ClassificationTask(Always(), dataset.classes)
    evaluate(task, loader, torch.device('cpu'), sample=sample)

    def draw(name, images, targets, outputs, classes, paths):
        shown.update(images=images, targets=targets, paths=paths)

    monkeypatch.setattr('vimamba.engine.loop.picture', draw)
    monkeypatch.setattr(task, 'pixels', lambda images: images)
    sample.picture(task)
    of_path = {dataset.sample_path(i): i for i in range(len(dataset))}
    assert len(set(shown['paths'])) == len(shown['images']) == 135 - rank
    for image, target, path in zip(shown['images'], shown['targets'], shown['paths']):
        assert torch.equal(image, dataset[of_path[path]][0])
        assert target == dataset[of_path[path]][1]
    right = [int(target) == 3 for target in shown['targets']]
    assert right == sorted(right)
    assert any(right)


def test_of_a_batch_of_long_clips_in_many_views_eight_frames_are_kept():
    task, sample = VideoTask(Always(), [str(i) for i in range(10)]), Sample(4)
    views = torch.rand(4, 6, 3, 64, 8, 8)
    sample.add(task, views, torch.zeros(4, dtype=torch.long), task(views), list('abcd'))
    kept = [part.untyped_storage().nbytes() for part in tensors_in(sample.kept[True])]
    assert len(kept) == 12
    assert sum(kept) == 4 * (3 * 8 * 8 * 8 * 4 + 8 + 10 * 4)  # clips, targets, outputs
