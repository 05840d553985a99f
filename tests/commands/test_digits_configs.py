"""Promises: each digits configuration is valid, and a variant differs from Vim-nano in the model alone."""

from pathlib import Path

import pytest
import torch

from vimamba.config.reading import read_config
from vimamba.config.schema import check
from vimamba.tasks import ClassificationTask

FOLDER = Path(__file__).parents[2] / 'configs' / 'classification'
CONFIGS = sorted(path.stem for path in FOLDER.glob('digits_*.py'))


@pytest.mark.parametrize('name', CONFIGS)
def test_the_configuration_builds_a_model_that_every_weight_of_which_learns(name):
    config = check(read_config(FOLDER / f'{name}.py'))
    task = ClassificationTask.build(config, [str(i) for i in range(10)])
    size = task.preprocessing.input_size
    assert sum(p.numel() for p in task.parameters()) < 200_000
    task(torch.randn(2, *size), torch.tensor([3, 7]), mode='loss')['loss'].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith('digits_vim_nano_')])
def test_a_variant_differs_in_the_model_alone(name):
    variant, base = (check(read_config(FOLDER / f'{n}.py')).as_dict() for n in (name, 'digits_vim_nano'))
    assert variant.pop('model') != base.pop('model')
    assert variant == base
