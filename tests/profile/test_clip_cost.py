"""Promises: the baseline is DeiT-T over all tokens of a clip, and each measurement has a process of its own."""

import os
from functools import partial

import pytest
import timm
import torch

from vimamba.errors import UsageError
from vimamba.profile.benchmark import COLUMNS
from vimamba.profile.clip_cost import CAUSAL, JOINT, ClipCost, JointViT, measure, plan, time_clips
from vimamba.testing import relative_l2

CPU = (torch.device('cpu'), torch.float32, 1)


def test_the_baseline_is_deit_where_a_clip_is_one_frame():
    torch.manual_seed(0)
    deit = timm.create_model('deit_tiny_patch16_224', img_size=64).eval()
    joint = JointViT(1, 64, num_classes=1000).eval()
    joint.load_state_dict(deit.state_dict())
    frame = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_l2(joint(frame.unsqueeze(2)), deit(frame)) < 1e-5


def test_every_token_attends_to_those_of_every_frame():
    torch.manual_seed(0)
    model, clip = JointViT(4, 32, depth=1).eval(), torch.randn(1, 3, 4, 32, 32, requires_grad=True)
    (grad,) = torch.autograd.grad(model(clip).sum(), clip)
    assert (grad.abs().sum((0, 1, 3, 4)) > 0).all()


def test_a_row_has_what_a_results_file_wants():
    row = measure(ClipCost('test_videomamba', 4, 32, training=True), *CPU, threads=torch.get_num_threads())
    assert row.keys() <= set(COLUMNS)
    assert (row['case'], row['tokens'], row['direction']) == ('4 frames of 32 px', 64, 'forward + backward')
    assert float(row['median_ms']) > 0
    assert int(row['memory_mib']) > 50


def test_training_is_measured_in_each_way_that_saves_memory():
    ways = [cost.name for cost in plan([16], [224], training=True)]
    how = ['', ', recomputed', ', 8 frames at a time', ', 8 frames at a time, recomputed']
    assert ways == [CAUSAL + way for way in how]
    model = plan([16], [32], training=True)[1].build()
    assert model.grad_checkpointing
    assert model.training
    inference = plan([8, 16], [32], [JOINT])
    assert [cost.frames for cost in inference] == [8, 16]
    assert not inference[0].build().training


@pytest.mark.slow
def test_peak_memory_is_that_of_one_measurement_alone():
    costs = [ClipCost('test_videomamba', frames, 128, training=True) for frames in (256, 2)]
    large, small = (int(row['memory_mib']) for row in time_clips(costs, *CPU))
    assert large > small + 100


def test_mistakes_and_a_lack_of_memory_are_one_line():
    with pytest.raises(UsageError, match='test_vit takes images; choose a model of clips'):
        ClipCost('test_vit', 8).build()
    with pytest.raises(UsageError, match='joint space-time ViT-T, 8 frames of 224 px: memory does not suffice'):
        list(time_clips([ClipCost(JOINT, 8)], *CPU, prepare=partial(os._exit, 9)))  # as the system ends a process
