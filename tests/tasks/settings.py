"""Configurations for tests, as a task reads them."""

from types import SimpleNamespace

from vimamba.config import Config

TINY = {  # a small model of each family, and of timm: name -> arguments
    'vim': ('vim_nano_patch4_32', {'patch_size': 8, 'img_size': 64, 'depth': 2, 'class_token': 'none'}),
    'vmamba': ('test_vmamba', {}),
    'mambavision': ('test_mambavision', {}),
    'local_vim': ('test_local_vim', {'img_size': 64}),
    'local_vmamba': ('test_local_vmamba', {}),
    'plain_mamba': ('test_plain_mamba', {}),
    'efficient_vmamba': ('test_efficient_vmamba', {}),
    'videomamba': ('videomamba_tiny_patch16_224', {'img_size': 64, 'embed_dim': 32, 'depth': 2}),
    'mamba_nd': ('test_mamba_nd_2d', {'img_size': 64}),
    'timm vit': ('test_vit', {}),
    'timm convnext': ('test_convnext', {}),
    'timm resnet': ('test_resnet', {}),
}


def settings(task, model='vmamba', options=None, augment=None, **sections):
    """A configuration of a task on digit scenes of 64 pixels, whose keys can be set."""
    name, arguments = TINY[model]
    arguments = dict(arguments)
    plain = {
        'name': name, 'pretrained': False, 'checkpoint': None, 'img_size': arguments.pop('img_size', None),
        'in_chans': 3, 'drop_path_rate': None, 'options': arguments,
    }  # fmt: skip
    scenes = {'size': 64, 'scale': (16, 28), 'digits': (1, 4), 'scenes': 4}
    default = {
        'task': {'name': task, 'options': options or {}},
        'model': plain,
        'data': {'name': 'digit_scenes', 'root': None, 'mean': None, 'std': None, 'options': scenes, 'batch_size': 1},
        'augment': {'style': 'dense' if augment is not None else None, 'options': augment or {}},
        'run': {'seed': 0, 'grad_checkpointing': False},
    }
    given = {name: {**default.get(name, {}), **sections.get(name, {})} for name in {*default, *sections}}
    config = Config.from_dict(given).as_dict()
    return SimpleNamespace(**{name: SimpleNamespace(**section) for name, section in config.items()})


def data_of(task, config, split='train', training=False):
    """A data set with the transform of its task."""
    return task.prepare(task.dataset(config, split, training), config, training)
