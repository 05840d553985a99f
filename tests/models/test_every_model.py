"""What every registered model promises, whatever its family; a model registered tomorrow is held to it without a line.

Structure, on the meta device, of every variant: timm's interface, configurations, licences, reductions. Behaviour, of
the small variant of every family: any image size, feature maps, half precision, compiled and portable kernels alike,
one graph for the compiler, programs, gradients with and without recomputation, the same bits every time; and
that it learns to read digits.
"""

import copy
import csv
import inspect
import json
import math
import re
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from timm.models import get_notrace_functions, get_notrace_modules, save_for_hf
from timm.optim import param_groups_weight_decay
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import vimamba  # noqa: F401  (registers the models)
from vimamba.config.reading import read_config
from vimamba.config.schema import check
from vimamba.errors import UsageError
from vimamba.kernels import backends
from vimamba.models import input_shape
from vimamba.models._backbone import MapBackbone, Stage
from vimamba.tasks import TASKS
from vimamba.testing import relative_l2

ROOT = Path(__file__).parents[2]
OURS = [
    name
    for name in timm.list_models()
    if timm.models.model_entrypoint(name).__module__.startswith('vimamba.')
]  # fmt: skip
SMALL = [name for name in OURS if name.startswith('test_') or 'nano' in name]
ACCURACY = 0.9  # on digits never seen, after a few seconds of training


def small(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **{'num_classes': 7, **kwargs})


def is_video(model):
    return len(input_shape(model)) == 4


def size(model):
    """Of images or clips that a model runs on and that no patch or window divides, where it takes any size."""
    shape = input_shape(model)[1:]
    if model.pretrained_cfg.get('fixed_input_size'):
        return shape
    return (*shape[:-2], 72, 101)


def images(model, batch=2):
    return torch.randn(batch, 3, *size(model), generator=torch.Generator().manual_seed(1))


def test_every_family_has_a_small_variant():
    families = {timm.models.model_entrypoint(name).__module__ for name in OURS}
    assert {timm.models.model_entrypoint(name).__module__ for name in SMALL} == families


@pytest.mark.parametrize('name', OURS)
def test_structure(name):
    model = timm.create_model(name, device='meta')
    cfg = model.pretrained_cfg
    assert cfg['classifier'] + '.weight' in model.state_dict()
    assert cfg['first_conv'] + '.weight' in model.state_dict()
    assert all(cfg[key] for key in ('license', 'origin_url'))
    assert cfg['paper_ids'].startswith('arXiv:')
    assert len(cfg['mean']) == len(cfg['std']) == 3
    reductions = [info['reduction'] for info in model.feature_info]
    assert reductions == sorted(reductions)
    if isinstance(model, MapBackbone) and isinstance(model.layers[0], Stage):
        assert reductions == [4, 8, 16, 32]
    assert model.get_classifier().out_features == cfg['num_classes'] == (400 if is_video(model) else 1000)
    doc = timm.models.model_entrypoint(name).__doc__
    assert doc
    assert doc.strip().endswith('.')


def test_published_weights_say_what_their_authors_publish():
    with open(ROOT / 'benchmarks' / 'published.csv', newline='') as lines:
        published = {row['model']: row for row in csv.DictReader(lines)}
    assert published.keys() <= set(OURS)
    for name in OURS:
        cfg = timm.get_pretrained_cfg(name)
        assert bool(cfg.url) == bool(name in published and published[name]['file']), name
        if cfg.url:
            assert f'top-1 {published[name]["top1"]}' in cfg.notes[0]


@pytest.mark.parametrize('name', OURS)
def test_an_unknown_argument_is_refused(name):
    with pytest.raises(TypeError, match='depht'):
        timm.create_model(name, device='meta', depht=3)


WRONG = {
    'drop_path_rate': (2, -1, 'x'),
    'drop_rate': (1.5,),
    'layer_scale': (-1, 'x'),
    'mlp_ratio': (-1,),
    **dict.fromkeys(('share_routes', 'dynamic_img_size', 'feature_norm', 'gate', 'final_norm', 'causal'), ('yes', 1)),
    'num_classes': (-3, 'x'),
    'out_indices': ((), []),
}


@pytest.mark.parametrize('name', SMALL)
def test_a_wrong_option_is_named(name):
    model = small(name, device='meta')
    taken = {p for base in type(model).__mro__ for p in inspect.signature(base).parameters} | {'out_indices'}
    for option in WRONG.keys() & taken:
        for value in WRONG[option]:
            with pytest.raises(UsageError, match=f'^{option}: expected .*, got {re.escape(repr(value))}(;|$)'):
                small(name, device='meta', features_only=option == 'out_indices', **{option: value})
    for classes in WRONG['num_classes']:
        with pytest.raises(UsageError, match=r'^num_classes: expected an integer'):
            model.reset_classifier(classes)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize(
    'kwargs', [{}, {'in_chans': 1}, {'img_size': (64, 96)}, {'global_pool': 'max'}, {'num_classes': 0}], ids=str
)
def test_options_of_every_model(name, kwargs):
    model = small(name, **{**kwargs, 'drop_rate': 0.1, 'drop_path_rate': 0.1})
    height, width = kwargs.get('img_size') or size(model)[-2:]
    out = model(torch.randn(2, kwargs.get('in_chans', 3), *size(model)[:-2], height, width))
    assert out.shape == (2, kwargs.get('num_classes', 7) or model.num_features)
    out.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize('name', SMALL)
def test_a_task_takes_it(name, tmp_path):
    shape = input_shape(timm.create_model(name))
    task, data = ('video', 'moving_digits') if len(shape) == 4 else ('classification', 'digits')
    file = tmp_path / 'config.json'
    file.write_text(json.dumps({'task': {'name': task}, 'model': {'name': name}, 'data': {'name': data}}))
    assert TASKS[task].trial(check(read_config(file))).preprocessing.input_size == shape


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('img_size', [(32, 128), (32, 96)], ids=str)
def test_a_model_whose_size_was_changed_is_saved_and_loaded(name, img_size, tmp_path):
    model = small(name, img_size=img_size).eval()
    model.set_input_size((64, 64))
    save_for_hf(model, tmp_path)
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.randn(1, 3, *input_shape(again)[1:])
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize('name', SMALL)
def test_everything_gets_a_value_after_the_meta_device(name):
    model = small(name, device='meta')
    model.to_empty(device='cpu')
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(math.nan)
    model.init_weights()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    want = small(name)
    want.load_state_dict(model.state_dict())
    x = images(model, 1)
    assert torch.equal(model.eval()(x), want.eval()(x))


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('last', [0, 1, 2])
def test_pruning_keeps_the_maps(name, last):
    model = small(name).eval()
    x = images(model, 1)
    with torch.no_grad():
        (want,) = model.forward_intermediates(x, [last], intermediates_only=True)
        assert model.prune_intermediate_layers([last]) == [last]
        (got,) = model.forward_intermediates(x, [last], intermediates_only=True)
        assert torch.equal(got, want)
        assert model(x).shape[-1] == model.num_features == want.shape[1]


@pytest.mark.parametrize('name', SMALL)
def test_positions_and_states_are_not_decayed(name):
    model = small(name)
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    names = {id(p): name for name, p in model.named_parameters()}
    found = [names[id(p)] for group in groups if group['weight_decay'] for p in group['params']]
    assert found
    assert not [n for n in found if any(part in n for part in ('pos_embed', 'table', 'time_embed', 'token', 'A_log'))]


@pytest.mark.parametrize('name', SMALL)
def test_a_new_pooling_fits_the_head(name):
    model = small(name)
    for pool in ('catavgmax', 'avg') if isinstance(model, MapBackbone) else ('max', 'avg'):
        model.reset_classifier(3, pool)
        assert model(images(model, 1)).shape == (1, 3)


@pytest.mark.parametrize('name', SMALL)
def test_features_of_chosen_layers_are_those_of_all(name):
    every = small(name, features_only=True, out_indices=range(len(small(name).feature_info))).eval()
    x = images(every.model, 1)
    maps = every(x)
    for index in (0, len(maps) - 1):
        chosen = small(name, features_only=True, out_indices=(index,)).eval()
        torch.testing.assert_close(chosen(x)[0], maps[index])
        assert chosen.feature_info.channels() == [maps[index].shape[1]]


@pytest.mark.parametrize('name', SMALL)
def test_feature_maps(name):
    model = small(name, features_only=True)
    x = images(model.model)
    maps = model(x)
    for out, width, reduction in zip(maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True):
        assert out.shape[:2] == (2, width)
        for side, pixels in zip(out.shape[-2:], x.shape[-2:]):
            assert abs(side - pixels / reduction) <= 1


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('features_only', [False, True])
def test_a_wrong_input_is_answered_with_what_is_expected(name, features_only):
    model = small(name, features_only=features_only)
    x = images(model.model if features_only else model)
    axes = 'frames, height, width' if x.ndim == 5 else 'height, width'
    for wrong in (x[0], x[None]):
        with pytest.raises(AssertionError, match=rf'expected \(b, channels, {axes}\), got shape \[.*\]$'):
            model(wrong)
    with pytest.raises(AssertionError, match=r'of 1 channels: this model takes 3$'):
        model(x[:, :1])


@pytest.mark.parametrize('name', [name for name in SMALL if isinstance(small(name, device='meta'), MapBackbone)])
def test_images_of_any_size_from_one_patch(name):
    model = small(name).eval()
    sizes = size(model)[:-2]
    least = model.smallest
    assert model(torch.randn(2, 3, *sizes, least, 300)).shape == (2, 7)
    with pytest.raises(AssertionError, match=f'of {least - 1}x300 pixels: this model takes {least}x{least} and more'):
        model(torch.randn(2, 3, *sizes, least - 1, 300))


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('features_only', [False, True])
def test_an_empty_batch(name, features_only):
    model = small(name, features_only=features_only)
    x = images(model.model if features_only else model, 0)
    out = model(x)
    last = out[-1] if features_only else out
    assert last.shape[:2] == (0, model.feature_info.channels()[-1] if features_only else 7)
    last.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize('name', [name for name in SMALL if is_video(timm.create_model(name, device='meta'))])
def test_feature_maps_of_clips_keep_time(name):
    """Maps (b, c, T, H, W) of a clip whose sides all differ: each cell is the token of its time and place."""
    options = {'img_size': (64, 96), 'num_frames': 10, 'tubelet_size': 2}
    x = torch.randn(2, 3, 10, 64, 96)
    model = small(name, features_only=True, out_indices=(0, 3), **options).eval()
    pixels = model.feature_info.reduction()
    maps = model(x)
    grid = (5, 64 // pixels[0], 96 // pixels[0])
    assert pixels[0] == pixels[1] == 8
    assert [out.shape for out in maps] == [(2, width, *grid) for width in model.feature_info.channels()]
    whole = small(name, **options).eval()
    tokens = whole.forward_features(x)
    (last,) = whole.forward_intermediates(x, 1, norm=True, intermediates_only=True)
    if tokens.ndim == 3:  # frame after frame, each row after row, behind the class token
        tokens = tokens[:, -math.prod(grid) :].unflatten(1, grid)
    assert relative_l2(last.movedim(1, -1), tokens) < 1e-6
    maps[1].square().mean().backward()
    first = [p.grad for key, p in model.named_parameters() if '.0.' in key]
    assert first
    assert all(grad.isfinite().all() for grad in first)


@pytest.mark.parametrize('name', SMALL)
def test_compiled_and_portable_kernels_agree(name, monkeypatch):
    if not backends.is_built():
        pytest.skip('no compiled kernels here')
    model = small(name).eval()
    x = images(model)
    with torch.no_grad():
        compiled = model(x)
        monkeypatch.setattr(backends, 'is_built', lambda: False)
        assert relative_l2(model(x), compiled) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALL)
def test_compiles_as_one_graph_and_exports(name):
    torch.compiler.reset()
    model = small(name).eval()
    x = images(model)
    with torch.no_grad():
        want = model(x)
        assert relative_l2(torch.compile(model, fullgraph=True, backend='aot_eager')(x), want) < 1e-5
        assert relative_l2(torch.export.export(model, (x,)).module()(x), want) < 1e-5


@pytest.mark.parametrize('name', SMALL)
def test_timm_and_torchvision_trace_it(name):
    """Symbolically, with the leaves that timm has registered."""
    model = small(name).eval()
    tracer = {
        'leaf_modules': list(get_notrace_modules()),
        'autowrap_functions': list(get_notrace_functions()),
        'param_shapes_constant': True,
    }
    _, nodes = get_graph_node_names(model, tracer_kwargs=tracer)
    traced = create_feature_extractor(model, [nodes[-1]], tracer_kwargs=tracer)
    x = images(model)
    with torch.no_grad():
        assert relative_l2(traced(x)[nodes[-1]], model(x)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize('name', ['test_vmamba', 'test_plain_mamba'])  # routes by steps and by a table
def test_a_compiled_model_takes_many_sizes(name):
    torch.compiler.reset()
    model = small(name).eval()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    with torch.no_grad():
        for height, width in ((64, 96), (96, 64), (72, 88)):
            x = torch.randn(1, 3, height, width)
            assert relative_l2(compiled(x), model(x)) < 1e-5


@pytest.mark.parametrize('name', SMALL)
def test_half_precision_stays_close_and_finite(name):
    model = small(name).eval()
    x = images(model)
    with torch.no_grad():
        want = model(x)
        with torch.autocast('cpu', torch.bfloat16):
            assert relative_l2(model(x), want) < 0.05
        half = copy.deepcopy(model).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert relative_l2(half, want) < 0.1


@pytest.mark.parametrize('name', SMALL)
def test_recomputation_changes_no_gradient_and_runs_repeat(name):
    model = small(name)
    x = images(model)

    def gradients():
        model.zero_grad()
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain, again = gradients(), gradients()
    model.set_grad_checkpointing()
    for a, b, c in zip(plain, again, gradients()):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALL)
def test_learns_to_read_digits(name):
    digits = load_digits()
    pixels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    shuffled = torch.randperm(len(labels))
    train, test = shuffled[:1400], shuffled[1400:]
    model = small(name, num_classes=10, in_chans=1, img_size=32)
    pixels = F.interpolate(pixels, 32, mode='bilinear') * 2 - 1
    if is_video(model):
        pixels = pixels.unsqueeze(2).expand(-1, -1, model.num_frames, -1, -1)
    epochs, batch = 6, 50
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * len(train) // batch)
    for _ in range(epochs):
        for part in train[torch.randperm(len(train))].split(batch):
            loss = F.cross_entropy(model(pixels[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = (model(pixels[test]).argmax(1) == labels[test]).float().mean()
    assert right > ACCURACY
