"""Every configuration in configs/ is read, checked, and builds its model (on the meta device), without any data; the
recipes of detection and segmentation say what the authors' own configurations say, and take a step at a tiny size.
"""

import re
from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip('mmengine', reason='configurations of training need vimamba[train]')

from tests.tasks.settings import data_of
from vimamba.config import schema
from vimamba.config.reading import apply_option, read_config
from vimamba.engine.optim import create_optimizer
from vimamba.errors import UsageError
from vimamba.tasks import TASKS
from vimamba.tasks.feature_pyramid import Features

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / 'configs').glob('[!_]*/*.py'))
RECIPES = [path for path in CONFIGS if path.name.startswith(('coco_', 'ade20k_'))]

# What the authors' files say, read there and not here: MzeroMiko/VMamba 2ed52ea, hunto/LocalMamba 75e5d1f,
# ChenhongyiYang/PlainMamba 0975a1d, TerryPei/EfficientVMamba 0bc5ee2, NVlabs/MambaVision 7860a50, hustvl/Vim dd0358a.
# Detection: drop path, learning rate, weight decay, images a step, epochs, those after which the rate falls, steps of
# warm-up, short sides, fp16 or not. Segmentation: the same with steps for epochs, and the side of a crop.
COCO_IMAGES, COCO_ALL, ADE20K_IMAGES = 117_266, 118_287, 20_210
MANY = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
ONCE, THRICE = (12, (8, 11), 1000, (800,)), (36, (27, 33), 1000, MANY)
DETECTION = {
    'mask_rcnn_vmamba_tiny_s1l8_1x': (0.2, 1e-4, 0.05, 16, *ONCE, False),
    'mask_rcnn_vmamba_tiny_s1l8_3x': (0.2, 1e-4, 0.05, 16, *THRICE, False),
    'mask_rcnn_vmamba_small_s2l15_1x': (0.3, 1e-4, 0.05, 16, *ONCE, False),
    'mask_rcnn_vmamba_small_s2l15_3x': (0.3, 1e-4, 0.05, 16, *THRICE, False),
    'mask_rcnn_vmamba_base_s2l15_1x': (0.6, 1e-4, 0.05, 16, *ONCE, False),
    'mask_rcnn_local_vmamba_tiny_1x': (0.2, 1e-4, 0.05, 16, *ONCE, True),
    'mask_rcnn_local_vmamba_tiny_3x': (0.2, 1e-4, 0.05, 16, *THRICE, True),
    'mask_rcnn_local_vmamba_small_1x': (0.2, 1e-4, 0.05, 16, *ONCE, True),
    'mask_rcnn_local_vmamba_small_3x': (0.2, 1e-4, 0.05, 16, *THRICE, True),
    'mask_rcnn_plain_mamba_l1_1x': (0.1, 1e-4, 0.05, 16, 12, (8, 11), 500, (800,), False),
    'mask_rcnn_plain_mamba_l2_1x': (0.2, 1e-4, 0.05, 16, 12, (8, 11), 500, (800,), False),
    'mask_rcnn_plain_mamba_l3_1x': (0.3, 1e-4, 0.05, 16, 12, (8, 11), 500, (800,), False),
    'retinanet_plain_mamba_l1_1x': (0.1, 1e-4, 0.05, 16, 12, (8, 11), 500, (800,), False),
    'retinanet_plain_mamba_l2_1x': (0.2, 1e-4, 0.05, 16, 12, (8, 11), 500, (800,), False),
    'retinanet_plain_mamba_l3_1x': (0.3, 1e-4, 0.05, 16, 12, (8, 11), 500, (800,), False),
    'mask_rcnn_efficient_vmamba_tiny_1x': (0.2, 1e-4, 0.05, 16, *ONCE, True),
    'mask_rcnn_efficient_vmamba_small_1x': (0.2, 1e-4, 0.05, 16, *ONCE, True),
    'mask_rcnn_efficient_vmamba_base_3x': (0.2, 1e-4, 0.05, 16, *THRICE, True),
    'mask_rcnn_mambavision_tiny_3x': (0.2, 1e-4, 0.05, 16, *THRICE, True),
    'mask_rcnn_mambavision_small_3x': (0.3, 1e-4, 0.05, 16, *THRICE, True),
    'mask_rcnn_mambavision_base_3x': (0.5, 2e-4, 0.05, 16, *THRICE, True),
    # 184,375 steps, the rate falls after 163,889 and 177,546 of them
    'mask_rcnn_vim_tiny_100ep': (0.1, 1e-4, 0.1, 64, 100, (88.9, 96.3), 250, (1024,), True),
}
SEGMENTATION = {
    'vmamba_tiny_s1l8_160k': (0.2, 6e-5, 0.01, 16, 160_000, 1500, 512, False),
    'vmamba_small_s2l15_160k': (0.3, 6e-5, 0.01, 16, 160_000, 1500, 512, False),
    'vmamba_base_s2l15_160k': (0.6, 6e-5, 0.01, 16, 160_000, 1500, 512, False),
    'local_vmamba_tiny_160k': (0.1, 6e-5, 0.01, 16, 160_000, 1500, 512, False),
    'local_vmamba_small_160k': (0.2, 6e-5, 0.01, 16, 160_000, 1500, 512, True),
    'local_vim_tiny_160k': (0.1, 6e-5, 0.01, 16, 160_000, 1500, 512, False),
    'plain_mamba_l1_160k': (0.1, 6e-5, 0.01, 16, 160_000, 1500, 512, False),
    'plain_mamba_l2_160k': (0.2, 6e-5, 0.01, 16, 160_000, 1500, 512, False),
    'plain_mamba_l3_160k': (0.3, 6e-5, 0.01, 16, 160_000, 1500, 512, False),
    'mambavision_tiny_160k': (0.3, 5e-5, 0.01, 16, 160_000, 1500, 512, True),
    'mambavision_small_160k': (0.7, 6e-5, 0.01, 16, 160_000, 1500, 512, True),
    'mambavision_base_160k': (0.4, 5e-5, 0.01, 16, 160_000, 1500, 512, True),
    'vim_tiny_60k': (0.1, 2e-4, 0.1, 32, 60_000, 1500, 512, False),
}
OWN = {'coco_fcos_vmamba_tiny_s1l8_1x', *(f'ade20k_upernet_efficient_vmamba_{size}_160k' for size in ('small', 'base'))}
FLAT = {  # blocks whose maps are taken, what is made of them, and which of them the second head is on
    'local_vim_tiny': ((4, 9, 14, 19), 'nothing', 3),
    'plain_mamba_l1': ((5, 11, 17, 23), 'nothing', 3),
    'plain_mamba_l2': ((5, 11, 17, 23), 'nothing', 3),
    'plain_mamba_l3': ((8, 17, 26, 35), 'nothing', 3),
    'vim_tiny_patch16_224': ((5, 11, 17, 23), 'a pyramid in the backbone', 2),
}
HEADS = {  # convolutions of the first stage and of the box head, norms behind those of boxes and masks, clipping
    'mambavision': (1, 4, 'batch', None, None),
    'plain_mamba': (1, 4, 'batch', None, None),
    'retinanet': (None, None, None, None, 35.0),
    'vim': (2, 4, 'layer', 'layer', None),
}
WINDOWS = {  # of MambaVision's third and fourth stage
    **{f'coco_mask_rcnn_mambavision_{size}_3x': (112, 56) for size in ('tiny', 'small', 'base')},
    **{f'ade20k_upernet_mambavision_{size}_160k': (64, 32) for size in ('tiny', 'base')},
    'ade20k_upernet_mambavision_small_160k': (160, 56),
}
FP16 = "# Trains in bf16; the authors' configuration uses fp16."
TINY = {  # in the place of a family's models: with as many blocks as the recipe counts
    'vmamba': {'name': 'test_vmamba'},
    'local_vmamba': {'name': 'test_local_vmamba'},
    'local_vim': {'name': 'test_local_vim', 'img_size': 64, 'patch_size': 16, 'depth': 0},
    'plain_mamba': {'name': 'test_plain_mamba', 'depth': 0, 'embed_dim': 16},
    'efficient_vmamba': {'name': 'test_efficient_vmamba'},
    'mambavision': {'name': 'test_mambavision', 'window_size': (8, 4)},
    'vim': {'name': 'vim_nano_patch4_32', 'img_size': 64, 'patch_size': 16, 'depth': 0, 'embed_dim': 16},
}


FAMILIES = {  # by their names alone, at the sizes of the configuration
    **{family: arguments['name'] for family, arguments in TINY.items()},
    'videomamba': 'videomamba_tiny_patch16_224',
    'mamba_nd': 'test_mamba_nd_2d',
    'resnet of timm': 'resnet18',
    'vit of timm': 'vit_tiny_patch16_224',
}


def header_of(path):
    return re.match(r'(#.*\n)+', path.read_text())[0]


def processes(path):
    return int(re.search(r'--nproc-per-node (\d+)', header_of(path))[1])


def family_of(config):
    name = config.model.name
    return next(family for family in sorted(TINY, key=len, reverse=True) if name.startswith(family))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_valid(path):
    config = schema.check(read_config(path))
    assert config.task.name == path.parent.name
    TASKS[config.task.name].check(config)
    assert f'tools/train.py configs/{path.parent.name}/{path.name}' in header_of(path)


def test_every_published_variant_has_one():
    names = {schema.check(read_config(path)).model.name for path in CONFIGS}
    assert set(timm.list_models('vim_*')) <= names


def test_every_recipe_is_in_the_table():
    names = {f'coco_{name}' for name in DETECTION} | {f'ade20k_upernet_{name}' for name in SEGMENTATION} | OWN
    assert {path.stem for path in RECIPES} == names


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_its_authors_say(path):
    config, header = schema.check(read_config(path)), header_of(path)
    optim, plan, options = config.optim, config.schedule, config.task.options
    batch = config.data.batch_size * processes(path) * optim.accumulate
    peak = optim.lr * batch / (optim.lr_batch or batch)
    assert plan.min_lr < plan.warmup_lr < peak or plan.name == 'step'
    if path.stem in OWN:
        assert 'Our recipe' in header
        return
    said = [config.model.drop_path_rate, peak, optim.weight_decay, batch]
    if path.stem.startswith('coco_'):
        images = COCO_ALL if config.data.options['keep_empty'] else COCO_IMAGES
        warmup, sides = plan.warmup_epochs * images / batch, options['min_size']
        assert (plan.name, plan.warmup_lr) == ('step', pytest.approx(peak / 1000))
        said += [plan.epochs, plan.milestones, round(warmup / 10) * 10, (sides,) if isinstance(sides, int) else sides]
        expected = DETECTION[path.stem.removeprefix('coco_')]
    else:
        steps = plan.epochs * ADE20K_IMAGES / batch
        warmup = plan.warmup_epochs * ADE20K_IMAGES / batch
        assert (plan.name, plan.warmup_lr, plan.min_lr) == ('linear', pytest.approx(peak / 1e6), 0)
        assert config.augment.options['crop'][0] == config.augment.options['crop'][1]
        said += [round(steps, -3), round(warmup, -2), config.augment.options['crop'][0]]
        expected = SEGMENTATION[path.stem.removeprefix('ade20k_upernet_')]
    assert (*said, config.run.amp is not None) == expected
    assert (FP16 in header) == (config.run.amp == 'bf16')


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_the_maps_and_heads_of_its_authors(path):
    config, header = schema.check(read_config(path)), header_of(path)
    model, options, family = config.model, config.task.options, family_of(config)
    assert model.options.get('window_size') == WINDOWS.get(path.stem)
    pyramid = family not in ('vim', 'local_vim', 'plain_mamba')
    assert model.options.get('feature_norm', False) == (pyramid or (family != 'vim' and 'upernet' in path.stem))
    if path.stem.startswith('ade20k') and not pyramid:
        blocks, made, level = FLAT[model.name]
        if made == 'nothing':
            assert (options['out_indices'], options['pyramid']) == (blocks, False)
            assert 'all at stride 16 and without a neck' in header
        else:
            assert model.options['feature_pyramid'] == blocks
            assert 'in the backbone (feature_pyramid)' in header
        assert options.get('auxiliary_level', 2) == level
        assert (model.options.get('norm') == 'layer') == (family == 'local_vim')
    if path.stem.startswith('coco') and path.stem not in OWN:
        if not pyramid:
            assert 'simple feature pyramid' in header.replace('\n# ', ' ')
        keys = ('rpn_convs', 'box_convs', 'box_norm', 'mask_norm')
        kind = 'retinanet' if options['head'] == 'retinanet' else family
        defaults = dict(zip(keys, (None,) * 4 if kind == 'retinanet' else (1, 0, None, None)))
        said = tuple(options.get(key, defaults[key]) for key in keys)
        assert (*said, config.optim.clip_grad) == HEADS.get(kind, (1, 0, None, None, None))
        assert ('Cascade Mask R-CNN' in header) == (family in ('mambavision', 'vim'))
        assert (options.get('norm', 'batch') == 'sync') == (family in ('mambavision', 'plain_mamba'))
        assert config.optim.layer_decay == (0.837 if family == 'vim' else None)


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_a_header_says_where_the_weights_come_from(path):
    config, header = schema.check(read_config(path)), header_of(path)
    cfg = timm.get_pretrained_cfg(config.model.name)
    assert config.model.pretrained == bool(cfg.url or cfg.hf_hub_id) == ('Downloads the weights' in header)
    assert ('not for commercial use' in header) == ('-nc' in (cfg.license or '').lower())


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_a_recipe_takes_a_step(path, tmp_path):
    """With everything that it says but the sizes, from a classifier: the loss is finite, and every weight learns."""
    table = read_config(path)
    model = dict(TINY[family_of(schema.check(table))])
    if 'depth' in model:
        model['depth'] = 1 + max(table['task'].get('out_indices') or table['model'].get('feature_pyramid') or (1,))
    torch.manual_seed(0)
    classifier = timm.create_model(model['name'], **{k: v for k, v in model.items() if k != 'name'}).state_dict()
    torch.save({'model': classifier}, tmp_path / 'classifier.pth')
    small = {f'model.{key}': value for key, value in model.items()} | {
        'model.pretrained': False, 'model.checkpoint': tmp_path / 'classifier.pth', 'model.drop_path_rate': 0.0,
        'data.name': 'digit_scenes', 'data.root': None, 'data.size': 64, 'data.scale': '(16, 28)',
        'data.digits': '(1, 4)', 'data.scenes': 4, 'data.batch_size': 2, 'task.channels': 64,
    }  # fmt: skip
    if path.stem.startswith('coco'):
        del table['data']['keep_empty']
        small |= {'task.min_size': 64, 'task.max_size': 64}
        small |= {'task.hidden': 32, 'task.samples': 16} if 'mask_rcnn' in path.stem else {}
    for section, key in (('task', 'resize'), ('augment', 'resize'), ('augment', 'crop'), ('task', 'window')):
        if key in table[section]:
            small[f'{section}.{key}'] = '(64, 64)'
    if 'stride' in table['task']:
        small['task.stride'] = '(43, 43)'
    for option, value in small.items():
        apply_option(table, f'{option}={value}')
    config = schema.check(table)
    kind = TASKS[config.task.name]
    kind.check(config)
    task = kind.build(config, [str(i) for i in range(11)])
    data = data_of(task, config, training=True)
    images, targets = zip(*(data[i] for i in range(2)))
    backbone = next(m for m in task.modules() if isinstance(m, Features)).backbone.model.state_dict()
    shared = backbone.keys() & classifier.keys()
    assert len(shared) > 0.9 * len([key for key in backbone if not key.startswith('feature_')])
    assert all(torch.equal(backbone[key], classifier[key]) for key in shared)
    optimizer = create_optimizer(task.model, config, total_batch=16)
    before = [p.detach().clone() for p in task.parameters()]
    loss = sum(task.train()(images, targets, mode='loss').values())
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in task.parameters())
    moved = [not torch.equal(p, old) for p, old in zip(task.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)  # a bias before a norm does not


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize(
    'config', ['detection/digit_scenes_faster_rcnn_vmamba', 'segmentation/digit_scenes_upernet_vmamba']
)
def test_another_backbone_is_one_option(config, family):
    config = schema.check(read_config(ROOT / 'configs' / f'{config}.py', [f'model.name={FAMILIES[family]}']))
    kind = TASKS[config.task.name]
    kind.check(config)
    torch.manual_seed(0)
    task = kind.build(config, [str(i) for i in range(11)])
    data = data_of(task, config, training=True)
    images, targets = zip(*(data[i] for i in range(2)))
    loss = sum(task.train()(images, targets, mode='loss').values())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in task.parameters())
    assert len(task.eval()(images)) == 2


def test_every_family_is_tried():
    """One model of every file of models, that is."""
    tried = {timm.model_entrypoint(name).__module__ for name in FAMILIES.values()}
    ours = {timm.model_entrypoint(name).__module__ for name in timm.list_models()}
    ours = {module for module in ours if module.startswith('vimamba.')}
    assert len(ours) == 8
    assert ours <= tried


@pytest.mark.parametrize('model', ['videomamba_tiny_patch16_224_f8', 'mamba_nd_3d_small'])
@pytest.mark.parametrize('recipe', ['coco_1x', 'ade20k_160k'])
def test_a_model_of_clips_is_refused(recipe, model):
    config = schema.check(read_config(ROOT / 'configs' / '_base_' / f'{recipe}.py', [f'model.name={model}']))
    with pytest.raises(UsageError, match=f'model.name: model {model!r} takes clips; choose one of images'):
        TASKS[config.task.name].check(config)


@pytest.mark.parametrize(
    'model', ['resnet18', 'vit_tiny_patch16_224', 'videomamba_tiny_patch16_224', 'mamba_nd_2d_small']
)
@pytest.mark.parametrize('recipe', ['coco_1x', 'coco_3x', 'ade20k_160k'])
def test_a_recipe_without_a_model_takes_any(recipe, model):
    config = schema.check(read_config(ROOT / 'configs' / '_base_' / f'{recipe}.py', [f'model.name={model}']))
    TASKS[config.task.name].check(config)
