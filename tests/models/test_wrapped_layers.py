"""Layers that others wrap are called, in every family.

Promised: an adapter in the place of any dense layer or convolution counts, and merging it into the weights is the same
function; forward hooks of every leaf module with parameters fire; pruned, weight-normed and dynamically quantised
models run and train; no layer is of a class that the user did not ask for.
"""

import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import vimamba  # noqa: F401  (registers the models)
from vimamba.models import input_shape
from vimamba.testing import relative_l2

SMALL = [name for name in timm.list_models('*') if timm.models.model_entrypoint(name).__module__.startswith('vimamba.')]
SMALL = [name for name in SMALL if name.startswith('test_') or 'nano' in name]
WRAPPED = (nn.Linear, nn.Conv1d)


def small(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4).double()
    return model, torch.randn(2, *input_shape(model), dtype=torch.float64)


class Adapter(nn.Module):
    """A low-rank adapter as peft builds it: a module in the place of the layer, with the layer inside."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=torch.float64)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=torch.float64)

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)
    in_features = property(lambda self: self.base.in_features)
    out_features = property(lambda self: self.base.out_features)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))

    def merged(self):
        with torch.no_grad():
            self.base.weight += self.up.weight @ self.down.weight
        return self.base


@pytest.mark.parametrize('name', SMALL)
def test_adapters_count_and_merge(name):
    model, x = small(name)
    model.eval()
    layers = [(parent, key) for parent in model.modules() for key, child in parent.named_children()
              if type(child) is nn.Linear]  # fmt: skip
    for target in sorted({key for _, key in layers}):
        plain = model(x)
        places = [(parent, key) for parent, key in layers if key == target]
        for parent, key in places:
            setattr(parent, key, Adapter(getattr(parent, key)))
        adapted = model(x)
        assert relative_l2(adapted, plain) > 1e-9, target
        for parent, key in places:
            setattr(parent, key, getattr(parent, key).merged())
        assert relative_l2(model(x), adapted) < 1e-9, target


@pytest.mark.parametrize('name', SMALL)
def test_hooks_of_every_leaf_fire(name):
    model, x = small(name)
    leaves = {key: m for key, m in model.named_modules() if not list(m.children()) and list(m.parameters(False))}
    fired = set()
    for key, module in leaves.items():
        module.register_forward_hook(lambda *_, key=key: fired.add(key))
    hooked = model.eval()(x)
    assert sorted(leaves.keys() - fired) == []
    assert relative_l2(hooked, small(name)[0].eval()(x)) < 1e-12


@pytest.mark.parametrize('name', SMALL)
def test_pruned_and_normed_layers_train(name):
    model, x = small(name)
    for module in list(model.modules()):
        if isinstance(module, WRAPPED):
            prune.l1_unstructured(module, 'weight', 0.2)
    for _ in range(2):
        model(x).square().sum().backward()
    kept = {key: module.weight.clone() for key, module in model.named_modules() if isinstance(module, WRAPPED)}
    assert all((weight == 0).any() for weight in kept.values() if weight.numel() > 4)
    normed, x = small(name)
    want = normed.eval()(x)
    for module in list(normed.modules()):
        if isinstance(module, WRAPPED):
            weight_norm(module)
    assert relative_l2(normed(x), want) < 1e-9
    normed(x).square().sum().backward()
    assert all(p.grad is not None for key, p in normed.named_parameters() if 'original' in key)


@pytest.mark.parametrize('name', SMALL)
def test_quantised_models_run(name):
    model, x = small(name)
    model = model.float().eval()
    dense = sum(type(module) is nn.Linear for module in model.modules())
    assert dense == sum(isinstance(module, nn.Linear) for module in model.modules())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    done = sum('quantized.dynamic' in type(module).__module__ for module in quantised.modules())
    assert done == dense
    assert relative_l2(quantised(x.float()), model(x.float())) < 0.2
