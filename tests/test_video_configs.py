"""The recipes of videos say what their authors' scripts say, start as they name it, and train."""

from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip('mmengine', reason='configurations of training need vimamba[train]')
pytest.importorskip('av')

from tests.data.test_video_datasets import folder_of_videos, lists, something
from vimamba.config import schema
from vimamba.config.reading import read_config
from vimamba.engine.optim import create_optimizer
from vimamba.engine.train import open_loader
from vimamba.tasks import VideoTask

CONFIGS = Path(__file__).parent.parent / 'configs' / 'video'
LIGHT, HEAVY = 'rand-m5-n2-mstd0.25-inc1', 'rand-m7-n4-mstd0.5-inc1'
FACTS = {  # of the authors' scripts: GPUs, videos on each, epochs, lr at that batch, decay, drop path, RandAugment
    'kinetics400_videomamba_tiny_f8': (8, 64, 70, 8e-4, 0.1, 0.1, LIGHT),
    'kinetics400_videomamba_tiny_f16': (8, 64, 70, 8e-4, 0.1, 0.1, LIGHT),
    'kinetics400_videomamba_tiny_f32': (8, 32, 70, 4e-4, 0.1, 0.1, LIGHT),
    'kinetics400_videomamba_tiny_f64': (16, 16, 70, 4e-4, 0.1, 0.1, LIGHT),
    'kinetics400_videomamba_small_f8': (8, 64, 50, 8e-4, 0.05, 0.35, HEAVY),
    'kinetics400_videomamba_small_f16': (16, 32, 50, 8e-4, 0.05, 0.35, HEAVY),
    'kinetics400_videomamba_small_f32': (16, 16, 50, 4e-4, 0.05, 0.35, HEAVY),
    'kinetics400_videomamba_small_f64': (16, 8, 50, 2e-4, 0.05, 0.35, HEAVY),
    'kinetics400_videomamba_middle_f8': (16, 32, 50, 8e-4, 0.05, 0.8, HEAVY),
    'kinetics400_videomamba_middle_f16': (16, 16, 50, 2e-4, 0.05, 0.8, HEAVY),
    'kinetics400_videomamba_middle_f32': (16, 8, 50, 1e-4, 0.05, 0.8, HEAVY),
    'kinetics400_videomamba_middle_f64': (16, 4, 50, 5e-5, 0.05, 0.8, HEAVY),
    'kinetics400_mamba_nd_3d_small_f16': (8, 8, 50, 2e-4, 0.05, 0.35, HEAVY),
    'something_v2_videomamba_tiny_f8': (8, 64, 35, 1.6e-3, 0.1, 0.1, LIGHT),
    'something_v2_videomamba_tiny_f16': (8, 64, 35, 1.6e-3, 0.1, 0.1, LIGHT),
    'something_v2_videomamba_small_f8': (8, 64, 30, 1.6e-3, 0.05, 0.35, HEAVY),
    'something_v2_videomamba_small_f16': (16, 32, 30, 1.6e-3, 0.05, 0.35, HEAVY),
    'something_v2_videomamba_middle_f8': (16, 32, 30, 1.6e-3, 0.05, 0.8, HEAVY),
    'something_v2_videomamba_middle_f16': (16, 16, 30, 8e-4, 0.05, 0.8, HEAVY),
}
RECIPES = [*FACTS, 'folder_finetune']


def recipe(name, *options):
    return schema.check(read_config(CONFIGS / f'{name}.py', options))


def miniature(name, *options):
    """The recipe with a small model on small frames."""
    depth = 6 if 'mamba_nd' in name else 2
    return recipe(name, 'model.img_size=32', 'model.embed_dim=16', f'model.depth={depth}', *options)


def test_every_recipe_is_listed():
    files = {path.stem for path in CONFIGS.glob('*.py')}
    assert files == {*RECIPES, *(name for name in files if name.startswith('moving_digits'))}


@pytest.mark.parametrize('name', FACTS)
def test_a_recipe_is_that_of_its_authors(name):
    gpus, batch, epochs, lr, decay, drop_path, rand_augment = FACTS[name]
    config, mirrored = recipe(name), 0.0 if name.startswith('something') else 0.5
    wanted = VideoTask.trial(config).preprocessing
    total = gpus * batch
    assert wanted.input_size[1] == int(name.rsplit('_f')[-1])
    assert config.data.batch_size == batch
    assert config.data.options['repeats'] == 2
    assert config.data.options['sampling'] == 'uniform'
    assert config.schedule.epochs == epochs
    assert config.schedule.warmup_epochs == 5
    assert config.optim.lr * total / config.optim.lr_batch == pytest.approx(lr)
    assert config.schedule.min_lr == config.schedule.warmup_lr == pytest.approx(1e-6 * total / 128)
    assert (config.optim.weight_decay, config.optim.betas, config.optim.layer_decay) == (decay, (0.9, 0.999), None)
    assert config.model.drop_path_rate == drop_path
    assert config.augment.options['auto_augment'] == rand_augment
    assert config.augment.options['hflip'] == mirrored  # a mirror image turns left into right
    assert (config.augment.options['re_prob'], config.augment.smoothing) == (0.25, 0.1)
    assert (config.augment.mixup, config.augment.cutmix) == (0.8, 1.0)
    assert (wanted.interpolation, wanted.crop_pct, wanted.input_size[-2:]) == ('bilinear', 1.0, (224, 224))
    header = (CONFIGS / f'{name}.py').read_text().split('\n_base_')[0]
    assert f': {epochs} epochs, {total} videos per step' in header
    assert f'--nproc-per-node {min(gpus, 8)}' in header
    assert ('--nnodes 2' in header) == (gpus == 16)
    trained = config.model.name.split('.')[0] + '.opengvlab_ssv2' * name.startswith('something')
    top1 = timm.models.get_pretrained_cfg(trained).notes[0].split()[-1]
    assert f': {top1}, published by the authors' in header


@pytest.fixture(scope='module')
def layouts(tmp_path_factory):
    made = {
        kind: make(tmp_path_factory.mktemp(kind))
        for kind, make in (('video_list', lists), ('something_v2', something), ('video_folder', folder_of_videos))
    }
    return {kind: [f'data.root={o["root"]}', f'data.videos={o.get("videos", "")}'] for kind, o in made.items()}


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_trains(layouts, name):
    kind = recipe(name).data.name
    data = [option for option in layouts[kind] if kind != 'video_folder' or 'videos=' not in option]
    config = miniature(name, 'model.pretrained=False', 'data.batch_size=2', 'data.workers=0', *data)
    dataset = VideoTask.dataset(config, 'train', training=True)
    task = VideoTask.build(config, dataset.classes).train()
    loader = open_loader(task, dataset, config, training=True)
    images, targets = next(iter(loader))
    assert images.shape == (2, 2, 3, task.model.num_frames, 32, 32)
    optimizer = create_optimizer(task.model, config, 2)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    task(images, targets, mode='loss')['loss'].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in task.named_parameters() if p.grad.any())
    task.eval()
    assert task(images).shape == (2, len(loader.dataset.classes))


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_starts_from_the_weights_that_it_names(tmp_path, monkeypatch, name):
    size = next((s for s in ('tiny', 'small', 'middle') if s in name), 'tiny')
    small = {'img_size': 32, 'embed_dim': 16}
    if 'mamba_nd' in name:
        source = timm.create_model('mamba_nd_2d_small', patch_size=16, depth=4, merge_at=2, **small)
        file, patches = 'video/mamba_2d_s_16_pretrained.pth', 'stem.1.weight'
    elif name == 'folder_finetune':
        source = timm.create_model('videomamba_tiny_patch16_224_f8', depth=2, **small)
        file, patches = 'videomamba_t16_k400_f8_res224.pth', 'patch_embed.proj.weight'
    else:
        source = timm.create_model(f'videomamba_{size}_patch16_224', depth=2, **small)
        file, patches = f'videomamba_{size[0]}16_in1k_res224.pth', 'patch_embed.proj.weight'
    torch.save({'model': source.state_dict()}, tmp_path / 'weights.pth')
    fetched = []

    def download(url, **options):
        fetched.append(url)
        return str(tmp_path / 'weights.pth')

    monkeypatch.setattr('vimamba.models._builder.download_cached_file', download)
    for options in ([], ['model.pretrained=False', f'model.checkpoint={tmp_path / "weights.pth"}']):
        task = VideoTask.build(miniature(name, *options), [str(i) for i in range(7)])
        own, given = task.model.state_dict()[patches], source.state_dict()[patches]
        assert torch.equal(own.view_as(given), given)
        assert task.model.num_classes == 7
    assert [url.endswith(f'/resolve/main/{file}') for url in fetched] == [True]
