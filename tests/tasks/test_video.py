"""Clips on their way to a loss or a score: views are averaged, repetitions learnt from, all frames mixed as one."""

import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import nn

pytest.importorskip('mmengine', reason='configurations of training need vimamba[train]')

from vimamba.config import schema
from vimamba.config.reading import Table, apply_option
from vimamba.errors import UsageError
from vimamba.tasks import VideoTask


class Seen(nn.Module):
    """A linear model of clips that remembers what it was given."""

    def __init__(self, classes=3):
        super().__init__()
        self.head = nn.Linear(3, classes)
        self.given = None

    def forward(self, x):
        self.given = x
        return self.head(x.mean((2, 3, 4)))


def configured(*options):
    table = Table()
    own = ['task.name=video', 'model.name=test_videomamba', 'data.name=video_folder', 'run.device=cpu']
    for option in (*own, *options):
        apply_option(table, option)
    return schema.check(table)


def test_the_score_of_several_views_is_their_mean_probability():
    task, views = VideoTask(Seen(), 'abc').eval(), torch.randn(2, 5, 3, 4, 8, 8)
    each = torch.stack([task(views[:, i]).softmax(-1) for i in range(5)])
    torch.testing.assert_close(task(views).exp(), each.mean(0))


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_repetitions_are_clips_of_the_batch(smoothing):
    task, clips, targets = VideoTask(Seen(), 'abc', smoothing), torch.randn(2, 3, 3, 4, 8, 8), torch.tensor([2, 0])
    want = F.cross_entropy(task.model(clips.flatten(0, 1)), torch.tensor([2, 2, 2, 0, 0, 0]), label_smoothing=smoothing)
    torch.testing.assert_close(task(clips, targets, mode='loss')['loss'], want)


@pytest.mark.parametrize('kind', ['mixup_alpha', 'cutmix_alpha'])
def test_a_clip_is_mixed_as_one_and_the_batch_stays_as_it_was(kind):
    """Frames that are alike are alike after mixing, with as much of the other clip as its label says."""
    amounts = {'mixup_alpha': 0.0, 'cutmix_alpha': 0.0, kind: 1.0}
    task = VideoTask(Seen(2), 'ab', mixup=Mixup(**amounts, label_smoothing=0.0, num_classes=2))
    clips = torch.stack([torch.zeros(3, 4, 16, 16), torch.ones(3, 4, 16, 16)])
    before, targets = clips.clone(), torch.tensor([0, 1])
    for _ in range(5):
        loss = task(clips, targets, mode='loss')['loss']
        mixed = task.model.given
        assert torch.equal(clips, before)
        assert torch.equal(mixed, mixed[:, :, :1].expand_as(mixed))
        share = mixed[0].mean()  # of the second clip in the first
        soft = torch.stack([torch.stack([1 - share, share]), torch.stack([share, 1 - share])])
        torch.testing.assert_close(loss, F.cross_entropy(task.model(mixed), soft))


def test_pictures_show_up_to_eight_frames_of_the_first_view():
    task = VideoTask.trial(configured())
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in task.preprocessing[1:3])
    clip, long = torch.rand(3, 4, 8, 6), torch.rand(3, 32, 8, 6)
    for given in ((clip - mean) / std, torch.stack([(clip - mean) / std, torch.zeros_like(clip)])):
        [shown] = task.pixels([given])
        torch.testing.assert_close(shown, clip.transpose(0, 1))
    [shown] = task.pixels([(long - mean) / std])
    torch.testing.assert_close(shown, long.transpose(0, 1)[2::4])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            ['augment.mixup=0.2', 'data.batch_size=1', 'data.repeats=3'],
            'batch_size: expected an even number with mixup',
        ),
        (['model.name=test_vit'], r"model.name: model 'test_vit' takes images; choose one of clips"),
        (['model.in_chans=1'], r'model.in_chans: expected 3: videos are RGB, got 1'),
        (['data.num_crops=2'], 'num_crops: expected 1 or 3, got 2'),
        (['augment.style=imagenet'], "unknown augment style of video 'imagenet'"),
        (['augment.style=clip', 'augment.auto_augment=rand-x9'], "expected timm's form, such as"),
        (['augment.style=clip', 'augment.scale=(1.0,0.5)'], 'expected two positive numbers'),
        (['data.fps=2'], "unknown key in data 'fps'"),
        (['task.head=linear'], "unknown key in task 'head'"),
    ],
)
def test_a_mistake_is_one_line_before_any_data_is_read(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        VideoTask.check(configured(*options))
    assert '\n' not in str(caught.value)


def test_one_video_a_step_is_mixed_where_it_has_two_clips():
    config = configured('augment.mixup=0.2', 'data.batch_size=1', 'data.repeats=2', 'model.img_size=16')
    task = VideoTask.build(config, 'ab').train()
    assert task(torch.randn(1, 2, 3, 4, 16, 16), torch.tensor([1]), mode='loss')['loss'].isfinite()


def kept_for_the_gradient(*options):
    """Bytes that a training step of a clip of 16 frames keeps."""
    causal = ('model.name=test_videomamba_causal', 'model.img_size=16', 'model.num_frames=16')
    torch.manual_seed(0)
    task, storages = VideoTask.build(configured(*causal, *options), 'ab').train(), {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        task(torch.randn(1, 3, 16, 16, 16), torch.tensor([1]), mode='loss')['loss'].backward()
    weights = {p.untyped_storage().data_ptr() for p in task.parameters()}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


@pytest.mark.parametrize('option', ['model.chunk_frames=2', 'run.grad_checkpointing=True'])
def test_a_long_clip_takes_a_fraction_of_the_memory_by_one_key(option):
    assert kept_for_the_gradient(option) < kept_for_the_gradient() / 4
