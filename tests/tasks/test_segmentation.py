"""Segmentation on any backbone: every size, windows, scales and flips, and the field's metrics."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from tests.tasks.settings import TINY, data_of, settings
from vimamba.errors import UsageError
from vimamba.tasks.segmentation import DECODERS, SegmentationMetric, SegmentationTask

pytest.importorskip('segmentation_models_pytorch', reason='segmentation needs vimamba[seg]')

CLASSES = ['background', *map(str, range(10))]


def task_of(model='vmamba', head='segformer', **options):
    torch.manual_seed(0)
    channels = 128 if head == 'fpn' else 64
    config = settings('segmentation', model, {'head': head, 'channels': channels, **options})
    return config, SegmentationTask.build(config, CLASSES)


def batch(config, task, count=2):
    data = data_of(task, config)
    samples = [data[i] for i in range(count)]
    return [image for image, _ in samples], [target for _, target in samples]


@pytest.mark.parametrize('model', TINY)
def test_every_family_learns_and_maps(model):
    config, task = task_of(model, auxiliary=0.4)
    images, targets = batch(config, task)
    losses = task.train()(images, targets, mode='loss')
    assert set(losses) == {'loss_pixels', 'loss_auxiliary'}
    sum(losses.values()).backward()
    backbone = [p for name, p in task.named_parameters() if '.backbone.model.' in name]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in backbone)
    for found, image in zip(task.eval()(images), images):
        assert found.shape == image.shape[1:]
        assert found.dtype == torch.uint8


@pytest.mark.parametrize('head', DECODERS)
def test_every_head_overfits_two_scenes(head):
    config, task = task_of(head=head, dice=0.5)
    images, targets = batch(config, task)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    totals = []
    for _ in range(25):
        losses = task.train()(images, targets, mode='loss')
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append(sum(losses.values()).item())
    assert totals[-1] < 0.6 * totals[0]


@pytest.mark.parametrize('head', DECODERS)
def test_dropout_is_that_of_the_option_and_no_other(head):
    """Of a backbone without: two passes in training agree without dropout, and differ with it."""
    for rate in (0.0, 0.5):
        config, task = task_of(head=head, dropout=rate)
        assert [m.p for m in task.modules() if isinstance(m, nn.Dropout2d) and m.p] == [rate] * (rate > 0)
        images, _ = batch(config, task)
        task.train()
        first, second = (task.model(torch.stack(images)) for _ in range(2))
        assert torch.equal(first, second) is (rate == 0)


@pytest.mark.parametrize('head', DECODERS)
def test_one_pixel_and_strips_are_learned_from(head):
    _, task = task_of(head=head)
    for size in ((1, 1), (1, 200), (200, 1)):
        targets = [{'mask': torch.ones(size, dtype=torch.uint8)}] * 2
        losses = task.train()([torch.rand(3, *size)] * 2, targets, mode='loss')
        assert all(torch.isfinite(loss) for loss in losses.values())


def test_upernet_learns_from_one_image_where_gpus_put_their_norms_together(monkeypatch):
    options = {'head': 'upernet', 'channels': 16, 'norm': 'sync'}
    config = settings('segmentation', 'vmamba', options)
    for processes, gpu in ((1, True), (8, False)):
        monkeypatch.setenv('WORLD_SIZE', str(processes))
        monkeypatch.setattr(torch.cuda, 'is_available', lambda gpu=gpu: gpu)
        with pytest.raises(UsageError, match=r'data\.batch_size: expected at least 2 for UPerNet'):
            SegmentationTask.check(config)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    SegmentationTask.check(config)
    config.task.options['norm'] = 'batch'
    with pytest.raises(UsageError, match=r'data\.batch_size: expected at least 2 for UPerNet'):
        SegmentationTask.check(config)


class Local(nn.Module):
    """A segmenter whose logits at a place depend on that place alone: what tiling and flipping must not change."""

    def __init__(self):
        super().__init__()
        self.features = nn.Module()
        self.features.mean, self.features.std, self.features.fixed_size = [0.0] * 3, [1.0] * 3, None

    def forward(self, x):
        return torch.cat([x, -x], 1)


@pytest.mark.parametrize('size', [(33, 70), (64, 64), (20, 130)], ids=str)
@pytest.mark.parametrize(
    'options', [{'window': (32, 32)}, {'window': (32, 48), 'stride': (7, 48)}, {'flip': True}], ids=str
)
def test_windows_and_flips_do_not_change_a_local_model(size, options):
    torch.manual_seed(0)
    image = torch.rand(3, *size)
    expected = SegmentationTask(Local(), ['a'] * 6).probabilities(image)
    torch.testing.assert_close(SegmentationTask(Local(), ['a'] * 6, **options).probabilities(image), expected)
    assert torch.equal(expected, torch.cat([image, -image]).softmax(0))


def test_scales_are_averaged():
    task = SegmentationTask(Local(), ['a'] * 6, scales=(0.5, 1.0, 2.0), flip=True)
    image = torch.full((3, 40, 56), 0.3)
    torch.testing.assert_close(task.probabilities(image), torch.cat([image, -image]).softmax(0))


@pytest.mark.parametrize('size', [(1, 2000), (2000, 1), (1, 1), (37, 65)], ids=str)
@pytest.mark.parametrize(
    'options',
    [{'head': 'upernet'}, {'head': 'fpn'}, {}, {'window': (64, 64)}, {'resize': (64, 128)}],
    ids=str,
)
def test_images_of_any_size_are_mapped_pixel_by_pixel(size, options):
    _, task = task_of(**options)
    with torch.inference_mode():
        (found,) = task.eval()([torch.rand(3, *size)])
    assert found.shape == size


def test_pixels_that_do_not_count_teach_nothing():
    config, task = task_of(dice=1.0)
    images, targets = batch(config, task)
    targets[1]['mask'][:] = 255
    alone = task.train()(images, targets, mode='loss')
    assert all(torch.isfinite(loss) for loss in alone.values())
    for target in targets:
        target['mask'] = torch.full_like(target['mask'], 255)
    losses = task(images, targets, mode='loss')
    assert [loss.item() for loss in losses.values()] == [0, 0]


@hypothesis_settings(deadline=None, max_examples=50)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_figures_are_those_of_their_definition(classes, images, seed):
    """IoU = |A and B| / |A or B| of each class over all images, by sets of pixels, without classes that are nowhere."""
    rng = np.random.RandomState(seed)
    truth = rng.choice([*range(classes), 255], (images, 5, 7))
    found = rng.randint(0, classes, (images, 5, 7))
    metric = SegmentationMetric([str(i) for i in range(classes)])
    for t, f in zip(truth, found):
        metric.update([torch.tensor(f, dtype=torch.uint8)], [{'mask': torch.tensor(t, dtype=torch.uint8)}])
    counted = truth != 255
    ious, accuracies = [], []
    for c in range(classes):
        a, b = (truth == c) & counted, (found == c) & counted
        if (a | b).any():
            ious.append((a & b).sum() / (a | b).sum())
        if a.any():
            accuracies.append((a & b).sum() / a.sum())
    result = metric.compute()
    if counted.any():
        assert result['mIoU'] == pytest.approx(100 * np.mean(ious))
        assert result['mAcc'] == pytest.approx(100 * np.mean(accuracies))
        assert result['aAcc'] == pytest.approx(100 * (truth == found)[counted].mean())
    assert result['images'] == images


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        ({'head': 'uppernet'}, "task.head: unknown head 'uppernet': did you mean 'upernet'"),
        ({'windw': (3, 3)}, "'windw': did you mean 'window'"),
        ({'head': 'upernet', 'channels': 16}, 'data.batch_size: expected at least 2 for UPerNet'),
        ({'head': 'fpn', 'channels': 64}, 'task.channels: expected a multiple of 64 from 128 on'),
        ({'head': 'fpn', 'channels': 160}, 'task.channels: expected a multiple of 64 from 128 on'),
    ],
)
def test_mistakes_are_named(options, says):
    with pytest.raises(UsageError, match=says):
        SegmentationTask.check(settings('segmentation', 'vmamba', options))


def test_an_fpn_over_maps_that_do_not_double_is_refused():
    config = settings('segmentation', 'local_vim', {'head': 'fpn', 'channels': 128})
    SegmentationTask.check(config)
    config.model.img_size = 48
    with pytest.raises(UsageError, match=r'model.img_size: expected multiples of 32 for an FPN, .*got \(48, 48\)'):
        SegmentationTask.check(config)
