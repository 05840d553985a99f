"""Every configuration in configs/ is read, checked, and builds its model (on the meta device), without any data."""

from pathlib import Path

import pytest

pytest.importorskip('mmengine', reason='configurations of training need vimamba[train]')

from vimamba.engine import schema
from vimamba.engine.config import read_config
from vimamba.tasks import TASKS

CONFIGS = sorted((Path(__file__).parent.parent / 'configs').glob('[!_]*/*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_valid(path):
    config = schema.check(read_config(path))
    assert config.task.name == path.parent.name
    TASKS[config.task.name].check(config)
    header = path.read_text().split('\n_base_')[0].split('\nmodel')[0]
    assert f'tools/train.py configs/{path.parent.name}/{path.name}' in header


def test_every_published_variant_has_one():
    import timm

    names = {schema.check(read_config(path)).model.name for path in CONFIGS}
    assert set(timm.list_models('vim_*')) <= names
