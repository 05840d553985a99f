"""Views are tried one after another; no data set is mirrored whose classes have a left and a right."""

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine', reason='configurations of training need vimamba[train]')

from vimamba.config import schema
from vimamba.config.reading import Table, apply_option
from vimamba.errors import UsageError
from vimamba.tasks import VideoTask


def configured(*options):
    table = Table()
    for option in ('task.name=video', 'model.name=test_videomamba', 'data.name=video_folder', *options):
        apply_option(table, option)
    return schema.check(table)


def test_the_model_sees_no_more_clips_at_once_than_the_batch_has():
    class Counted(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.mean((2, 3, 4))

    sizes = []
    views = torch.randn(2, 12, 3, 4, 8, 8)
    scores = VideoTask(Counted(), 'abc').eval()(views)
    assert sizes == [2] * 12
    torch.testing.assert_close(scores.exp(), views.mean((3, 4, 5)).softmax(-1).mean(1))


@pytest.mark.parametrize(
    ('options', 'mirrored'),
    [
        (['data.name=something_v2'], False),
        (['data.name=moving_digits'], False),
        (['data.name=something_v2', 'augment.hflip=1.0'], True),
        (['data.name=video_folder', 'augment.hflip=1.0'], True),
    ],
)
def test_left_and_right_stay_where_classes_tell_them_apart(options, mirrored):
    config = configured('augment.style=clip', 'augment.scale=(1.0,1.0)', 'augment.ratio=(1.0,1.0)', *options)
    transform = VideoTask.trial(config).transform(config, training=True)
    height, width = transform.size
    frames = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    frames[:, :, : width // 2] = 255
    for _ in range(10):
        clip = transform(frames.numpy())
        assert bool(clip[..., 0].mean() < clip[..., -1].mean()) == mirrored


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.in_chans=1', 'model.in_chans: expected 3: videos are RGB, got 1'),
        ('data.num_crops=2', r'^--cfg-options data.num_crops: expected 1 or 3, got 2$'),
        ('data.interpolation=box', "data.interpolation: expected 'bilinear' or 'bicubic', got 'box'"),
        ('data.training=True', "unknown key in data 'training'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_data_is_read(option, message):
    config = configured(option)
    with pytest.raises(UsageError, match=message) as caught, config.located():
        VideoTask.check(config)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['data.name=moving_digits', 'data.clips=-1'], 'data.clips: expected an integer >= 1, got -1'),
        (['data.root=None'], 'data.root: expected the folder of the data set, got None'),
    ],
)
def test_what_the_data_set_refuses_is_told_with_its_key_and_place(options, message):
    config = configured(*options)
    with pytest.raises(UsageError) as caught, config.located():
        VideoTask.dataset(config, 'val', training=False)
    assert str(caught.value) == f'--cfg-options {message}'
