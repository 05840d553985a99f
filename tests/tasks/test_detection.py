"""Detectors on any backbone: the field's pyramids and anchors, any image, and losses that teach."""

import pytest
import timm
import timm.optim
import torch

from tests.tasks.settings import TINY, data_of, settings
from vimamba.errors import UsageError
from vimamba.tasks.detection import DETECTORS, DetectionTask

SMALL = {'min_size': 64, 'max_size': 64, 'channels': 64}
RCNN = {'hidden': 32, 'proposals': 50, 'samples': 16}


def task_of(model='vmamba', head='faster_rcnn', classes=10, **options):
    more = RCNN if 'rcnn' in head else {}
    torch.manual_seed(0)
    config = settings('detection', model, {'head': head, **SMALL, **more, **options})
    return config, DetectionTask.build(config, [str(i) for i in range(classes)])


def batch(config, task, count=2, training=True):
    data = data_of(task, config, training=training)
    samples = [data[i] for i in range(count)]
    return [image for image, _ in samples], [target for _, target in samples]


@pytest.mark.parametrize('model', TINY)
def test_every_family_learns_and_detects(model):
    """The same options serve a model of each family, and of timm, flat or a pyramid."""
    config, task = task_of(model)
    images, targets = batch(config, task)
    losses = task.train()(images, targets, mode='loss')
    assert all(name.startswith('loss_') and torch.isfinite(loss) for name, loss in losses.items())
    sum(losses.values()).backward()
    backbone = [p for name, p in task.named_parameters() if '.backbone.model.' in name]
    assert len(backbone) > 10
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in backbone)
    for found, image in zip(task.eval()(images), images):
        assert found['boxes'].shape == (len(found['labels']), 4)
        assert found['boxes'].numel() == 0 or found['boxes'].max() <= max(image.shape[1:])


@pytest.mark.parametrize(
    ('head', 'model', 'levels'),
    [('faster_rcnn', 'vmamba', (4, 8, 16, 32, 64)), ('retinanet', 'vmamba', (8, 16, 32, 64, 128)),
     ('fcos', 'vmamba', (8, 16, 32, 64, 128)), ('faster_rcnn', 'vim', (4, 8, 16, 32, 64)),
     ('retinanet', 'vim', (8, 16, 32, 64, 128))],
)  # fmt: skip
def test_anchors_belong_to_the_strides_of_their_levels(head, model, levels):
    _, task = task_of(model, head)
    network = task.eval().model.network
    size = (64, 64) if model == 'vim' else (128, 96)
    with torch.inference_mode():
        maps = list(network.backbone(torch.zeros(1, 3, *size)).values())
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, *(max(1, -(-side // stride)) for side in size)) for stride in levels
    ]
    generator = network.rpn.anchor_generator if 'rcnn' in head else network.anchor_generator
    scale = {'faster_rcnn': 8, 'retinanet': 4, 'fcos': 1}[head]
    assert [sizes[0] for sizes in generator.sizes] == [scale * stride for stride in levels]


@pytest.mark.parametrize('head', DETECTORS)
def test_images_without_objects_and_boxes_of_one_pixel_are_learned_from(head):
    config, task = task_of(head=head)
    (image, _), (empty, single) = batch(config, task)[0], batch(config, task)[1]
    for key in ('boxes', 'labels', 'area', 'iscrowd', 'masks'):
        if key in empty:
            empty[key] = empty[key][:0]
    keep = {key: value[:1] if torch.is_tensor(value) else value for key, value in single.items()}
    keep['boxes'] = torch.tensor([[10.0, 10.0, 11.0, 11.0]])
    losses = task.train()([image, image], [empty, keep], mode='loss')
    assert all(torch.isfinite(loss) for loss in losses.values())
    losses = task([image], [empty], mode='loss')
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize('head', DETECTORS)
def test_strips_of_one_pixel_and_grey_images_are_learned_from(head):
    config = settings('detection', 'vmamba', {'head': head, **SMALL, **(RCNN if 'rcnn' in head else {})})
    config.model.in_chans = 1
    task = DetectionTask.build(config, ['a', 'b'])
    images = [torch.rand(1, 1, 2000), torch.rand(1, 2000, 1), torch.rand(1, 30, 40)]
    boxes = torch.tensor([[5.0, 0, 6, 1], [0, 5, 1, 6], [0, 0, 40, 30]])
    targets = [
        {
            'boxes': box[None], 'labels': torch.tensor([1]), 'iscrowd': torch.tensor([0]),
            'masks': torch.ones(1, *image.shape[1:], dtype=torch.uint8),
        }
        for image, box in zip(images, boxes)
    ]  # fmt: skip
    losses = task.train()(images, targets, mode='loss')
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    with torch.inference_mode():
        assert len(task.eval()(images)) == 3


def test_a_crowd_is_not_learned_from():
    config, task = task_of()
    images, targets = (list(each[2:3]) for each in batch(config, task, 3))
    assert len(targets[0]['labels']) > 2
    seen = []
    task.model.network.forward = lambda images, targets: seen.append(targets) or {'a': images[0].sum()}
    targets[0]['iscrowd'][0] = 1
    task.train()(images, targets, mode='loss')
    assert len(seen[0][0]['boxes']) == len(targets[0]['boxes']) - 1
    assert torch.equal(seen[0][0]['labels'], targets[0]['labels'][1:] + 1)  # 0 is the background there


@pytest.mark.parametrize('amp', [torch.bfloat16, None], ids=str)
def test_losses_are_finite_under_autocast(amp):
    config, task = task_of(head='mask_rcnn')
    images, targets = batch(config, task)
    with torch.autocast('cpu', amp, enabled=amp is not None):
        losses = task.train()(images, targets, mode='loss')
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize('head', ['faster_rcnn', 'retinanet', 'fcos'])
def test_boxes_keep_all_their_digits_under_autocast(head):
    config, task = task_of(head=head)
    images, _ = batch(config, task)
    seen = {}

    def record(name):
        return lambda module, args, out: seen.setdefault(name, out)

    task.eval()
    task.model.network.backbone.register_forward_hook(record('maps'))
    task.model.network.backbone.features.register_forward_hook(record('features'))
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found = task(images)
    assert {level.dtype for level in seen['maps'].values()} == {torch.float32}
    assert torch.is_autocast_enabled('cpu') is False
    for detections in found:
        boxes = detections['boxes']
        assert boxes.dtype == detections['scores'].dtype == torch.float32
        assert len(boxes) == 0 or not torch.equal(boxes, boxes.bfloat16().float())


def test_the_optimizer_knows_the_layers_of_the_backbone():
    _, task = task_of('vmamba')
    optimizer = timm.optim.create_optimizer_v2(task.model, 'adamw', lr=1.0, weight_decay=0.1, layer_decay=0.5)
    names = {id(p): name for name, p in task.model.named_parameters()}
    groups = {names[id(p)]: group for group in optimizer.param_groups for p in group['params']}
    assert len(groups) == len(names)
    scale = {name: group['lr_scale'] for name, group in groups.items()}
    heads = {scale[name] for name in scale if '.backbone.model.' not in name}
    assert heads == {1.0}
    stem = max(scale[name] for name in scale if '.stem.' in name)
    last = max(scale[name] for name in scale if '.layers.3.blocks' in name)
    assert stem < last < 1.0
    assert all(groups[name]['weight_decay'] == 0 for name in names.values() if name.endswith(('A_log', '.D')))


def test_frozen_norms_stay():
    config, task = task_of('timm resnet', norm='frozen')
    images, targets = batch(config, task)
    before = {k: v.clone() for k, v in task.state_dict().items() if 'running' in k and '.backbone.model.' in k}
    task.train()(images, targets, mode='loss')
    assert before
    assert all(torch.equal(task.state_dict()[key], value) for key, value in before.items())
    kinds = {type(m).__name__ for m in task.model.network.backbone.features.backbone.modules()}
    assert 'FrozenBatchNorm2d' in kinds
    assert not kinds & {'BatchNorm2d', 'BatchNormAct2d'}


def test_weights_of_a_classifier_start_the_backbone(tmp_path):
    model = timm.create_model('test_vmamba', num_classes=7)
    torch.save({'model': model.state_dict(), 'epoch': 3}, tmp_path / 'classifier.pth')
    config = settings('detection', 'vmamba', {**SMALL, **RCNN})
    config.model.checkpoint = str(tmp_path / 'classifier.pth')
    task = DetectionTask.build(config, ['a'])
    own = task.model.network.backbone.features.backbone.model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in model.state_dict().items() if key in own)
    assert sum(key.startswith('layers.') for key in own) == sum(k.startswith('layers.') for k in model.state_dict())


@pytest.mark.parametrize(
    ('model', 'options', 'says'),
    [
        ('vmamba', {'head': 'faster_rcn'}, "task.head: unknown head 'faster_rcn': did you mean 'faster_rcnn'"),
        ('vmamba', {'chanels': 8}, "'chanels': did you mean 'channels'"),
        ('vmamba', {'head': 'fcos', 'anchor_scale': 8}, "unknown key in task with head 'fcos' 'anchor_scale'"),
        ('vmamba', {'norm': 'bacth'}, "task.norm: unknown norm 'bacth': did you mean 'batch'"),
        ('vmamba', {'out_indices': [1]}, 'task.out_indices: expected None for a pyramid'),
        ('vim', {'out_indices': [7]}, 'of the blocks 0 to 1, got'),
        ('vmamba', {'head': 'fcos', 'channels': 48}, 'task.channels: expected a multiple of 32'),
    ],
)
def test_mistakes_are_named(model, options, says):
    with pytest.raises(UsageError, match=says):
        DetectionTask.check(settings('detection', model, options))


@pytest.mark.parametrize(
    ('sections', 'says'),
    [
        ({'augment': {'mixup': 0.2}}, 'augment.mixup: expected none for detection, got 0.2'),
        ({'augment': {'smoothing': 0.1}}, 'augment.smoothing: expected none for detection'),
        ({'data': {'crop_pct': 0.9}}, 'data.crop_pct: expected none for detection'),
        ({'augment': {'style': 'imagenet'}}, "unknown augment style of detection 'imagenet'"),
        ({'data': {'name': 'ade20k'}}, "unknown data set of detection 'ade20k'"),
        (
            {'data': {'name': 'voc', 'root': '.'}, 'task': {'head': 'mask_rcnn'}},
            "'mask_rcnn' learns from masks, 'voc' has none",
        ),
        ({'schedule': {'milestones': (3,)}}, "schedule.milestones: expected none where schedule.name is not 'step'"),
        (
            {'schedule': {'name': 'step', 'epochs': 4, 'milestones': (3, 5)}},
            'milestones: expected rising epochs below 4',
        ),
    ],
)
def test_what_a_detector_has_no_use_for_is_refused(sections, says):
    pytest.importorskip('mmengine')
    from vimamba.config.reading import Table
    from vimamba.config.schema import check

    plain = {'task': {'name': 'detection'}, 'model': {'name': 'test_vmamba'}, 'data': {'name': 'digit_scenes'},
             'schedule': {'warmup_epochs': 0}}  # fmt: skip
    given = {name: {**plain.get(name, {}), **sections.get(name, {})} for name in {*plain, *sections}}
    tables = {name: Table(entries, dict.fromkeys(entries, 'a.py:1')) for name, entries in given.items()}
    with pytest.raises(UsageError, match=says):
        DetectionTask.check(check(Table(tables, dict.fromkeys(tables, 'a.py:1'))))


def test_images_too_large_for_a_backbone_of_one_size_are_refused():
    _, task = task_of('local_vim', max_size=128, min_size=128)
    with pytest.raises(UsageError, match=r'images: expected at most \(64, 64\) for this backbone, got \(128, 128\)'):
        task.eval()([torch.rand(3, 64, 64)])
