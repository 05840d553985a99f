"""From a loss to new weights: the schedules, parameter groups, clipping, mixed precision and averages are what they
are called in the literature."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import complete, last, records, said, write_config
from vimamba.config.reading import Table
from vimamba.config.schema import check
from vimamba.engine.optim import NonFinite, Update, autocast, create_optimizer, create_schedule
from vimamba.engine.train import train
from vimamba.tasks import TASKS, ClassificationTask

CPU = torch.device('cpu')


def config(**sections):
    given = {'model': {'name': 'test_vit'}, 'data': {'name': 'digits'}, **sections}
    tables = {name: Table(entries, dict.fromkeys(entries, 'test')) for name, entries in given.items()}
    return check(Table(tables, dict.fromkeys(tables, 'test')))


def expected_rate(name, t, lr, warmup, total, warmup_lr, min_lr, places):
    if t < warmup:
        return warmup_lr + (lr - warmup_lr) * t / warmup
    p = (t - warmup) / (total - warmup)
    return {
        'cosine': min_lr + (lr - min_lr) * (1 + math.cos(math.pi * p)) / 2,
        'linear': lr + (min_lr - lr) * p,
        'constant': lr,
        'step': lr / 10 ** sum(t >= place for place in places),
    }[name]


@given(
    name=st.sampled_from(['cosine', 'linear', 'constant', 'step']),
    epochs=st.integers(2, 20),
    warmup=st.sampled_from([0, 0.5, 1]),
    steps=st.integers(1, 30),
    lr=st.floats(1e-4, 1.0),
)
def test_the_schedule_is_the_formula_at_every_step(name, epochs, warmup, steps, lr):
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{'params': [parameter], 'lr_scale': 0.5}], lr=lr)
    schedule = {'name': name, 'epochs': epochs, 'warmup_epochs': warmup, 'warmup_lr': 1e-6, 'min_lr': 1e-5}
    milestones = [1.5, epochs - 0.25] if name == 'step' else None
    schedule |= {'milestones': milestones}
    scheduler = create_schedule(optimizer, config(schedule=schedule), steps)
    for t in range(epochs * steps):
        scheduler.step_update(t)
        rate = expected_rate(name, t, lr, round(warmup * steps), epochs * steps, 1e-6, 1e-5,
                             [round(epoch * steps) for epoch in milestones or ()])  # fmt: skip
        assert optimizer.param_groups[0]['lr'] == pytest.approx(0.5 * rate, rel=1e-9)


def test_a_schedule_of_one_step_is_at_the_peak_without_a_word(caplog):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    create_schedule(optimizer, config(schedule={'epochs': 1, 'warmup_epochs': 0}), 1).step_update(0)
    assert optimizer.param_groups[0]['lr'] == 0.3
    assert caplog.text == ''


def test_layer_decay_and_no_decay_reach_the_optimizer():
    model = timm.create_model('vim_nano_patch4_32', num_classes=10)
    optimizer = create_optimizer(model, config(optim={'layer_decay': 0.5, 'weight_decay': 0.1}), 64)
    create_schedule(optimizer, config(optim={'lr': 1e-3}), 10).step_update(10**6)
    names = {id(p): name for name, p in model.named_parameters()}
    of = {names[id(p)]: group for group in optimizer.param_groups for p in group['params']}
    assert set(of) == set(names.values())
    depth = len(model.blocks)
    assert of['head.weight']['lr_scale'] == 1
    scales = [of[f'blocks.{i}.norm.weight']['lr_scale'] for i in range(depth)]
    assert scales == [scales[0] * 2.0**i for i in range(depth)]
    exempt = ('A_log', '.D', 'pos_embed', 'cls_token', 'bias', 'norm')
    for name, group in of.items():
        decays = not any(part in name for part in exempt)
        assert group['weight_decay'] == (0.1 if decays else 0), name


def test_the_learning_rate_scales_with_the_batch_only_where_asked():
    model = timm.create_model('test_vit')
    assert create_optimizer(model, config(optim={'lr': 1e-3}), 1024).param_groups[0]['lr'] == 1e-3
    scaled = create_optimizer(model, config(optim={'lr': 1e-3, 'lr_batch': 512}), 1024)
    assert scaled.param_groups[0]['lr'] == pytest.approx(2e-3)


def updater(amp=None, steps=10, **optim):
    weight = torch.nn.Parameter(torch.ones(2))
    settings = config(run={'amp': amp}, optim=optim)
    return weight, Update(torch.optim.SGD([weight], lr=1.0), settings, CPU, steps)


def test_clipping_bounds_the_norm_of_the_gradient():
    weight, update = updater(clip_grad=1.0)
    update.update_params((weight * torch.tensor([3.0, 4.0])).sum())
    assert update.grad_norm == pytest.approx(5)
    torch.testing.assert_close(weight.data, torch.tensor([1 - 0.6, 1 - 0.8]))


@given(steps=st.integers(1, 12), accumulate=st.integers(1, 5))
def test_each_window_is_averaged_and_ends_with_its_epoch(steps, accumulate):
    weight, update = updater(steps=steps, accumulate=accumulate)
    ends = [t for t in range(steps) if (t + 1) % accumulate == 0 or t == steps - 1]
    start = 0
    for epoch in range(2):
        for t in range(steps):
            before = weight.data.clone()
            update.update_params(weight.sum() * float(t + 1))
            if t in ends:
                mean = sum(range(start + 1, t + 2)) / (t + 1 - start)
                torch.testing.assert_close(weight.data, before - mean)
                start = (t + 1) % steps
            else:
                assert torch.equal(weight.data, before)
        assert weight.grad is None, f'epoch {epoch} ends with half a gradient'


def test_fp16_halves_its_scale_at_an_infinite_gradient_and_gives_up_at_last():
    weight, update = updater('fp16')
    scale = update.scaler.get_scale()
    before = weight.data.clone()
    update.update_params((weight * torch.tensor([1e38, 0.0])).sum())  # finite, but not times the scale
    assert update.scaler.get_scale() == scale / 2
    assert torch.equal(weight.data, before)
    update.update_params((weight * torch.tensor([0.5, 0.25])).sum())
    torch.testing.assert_close(weight.data, before - torch.tensor([0.5, 0.25]))
    before = weight.data.clone()
    weight.register_hook(lambda grad: grad * torch.inf)
    while update.scaler.get_scale() >= 1:
        update.update_params(weight.sum())
    with pytest.raises(NonFinite, match='gradient is inf'):
        update.update_params(weight.sum())
    assert torch.equal(weight.data, before)


@pytest.mark.parametrize(('amp', 'dtype'), [(None, torch.float32), ('bf16', torch.bfloat16), ('fp16', torch.float16)])
def test_autocast_is_on_where_asked(amp, dtype):
    with autocast(CPU, amp):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_mixed_precision_trains_close_to_float32_with_float32_weights(tmp_path, amp):
    losses = {}
    for precision in (None, amp):
        path = write_config(tmp_path / 'c.py', run={'amp': precision, 'log_interval': 0})
        folder = tmp_path / str(precision)
        assert complete(path, folder)[0] == 0, said(folder)
        assert all(value.dtype == torch.float32 for value in last(folder)['model'].values())
        losses[precision] = [record['loss'] for record in records(folder)]
    assert losses[amp] != losses[None]
    assert losses[amp] == pytest.approx(losses[None], rel=0.03)


def test_the_average_is_the_exponential_one_and_is_what_is_evaluated(tmp_path, monkeypatch):
    """ema(t) = d ema(t - 1) + (1 - d) w(t), started from the weights after the first update."""
    weights, evaluated = [], []

    class Watched(ClassificationTask):
        def forward(self, images, targets=None, mode='predict'):
            (weights if mode == 'loss' else evaluated).append(self.model.head.weight.detach().clone())
            return super().forward(images, targets, mode)

    path = write_config(tmp_path / 'c.py', schedule={'epochs': 1, 'warmup_epochs': 0}, run={'ema': 0.7})
    monkeypatch.setitem(TASKS, 'classification', Watched)
    assert train(path, work_dir=tmp_path / 'run') == 0
    end = last(tmp_path / 'run')
    expected = weights[1]  # before the second step
    for weight in [*weights[2:], end['model']['head.weight']]:
        expected = 0.7 * expected + 0.3 * weight
    torch.testing.assert_close(end['model_ema']['head.weight'], expected)
    assert torch.equal(evaluated[0], end['model_ema']['head.weight'])


def test_gradients_are_exchanged_once_per_window():
    weight, update = updater(steps=5, accumulate=2)
    alone = []
    for step in range(5):
        with update.optim_context(SimpleNamespace(no_sync=lambda step=step: nullcontext(alone.append(step)))):
            loss = weight.sum()
        update.update_params(loss)
    assert alone == [0, 2]
