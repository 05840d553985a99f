"""A value that cannot be is refused when the configuration is checked, in one line with its file, line and name."""

import inspect
import re
from pathlib import Path

import pytest

pytest.importorskip('mmengine', reason='configurations of training need vimamba[train]')
pytest.importorskip('segmentation_models_pytorch', reason='segmentation needs vimamba[seg]')

from vimamba.errors import Rule, UsageError
from vimamba.tasks import TASKS, load_task

NOT_POSITIVE = (0, -1, 1.5, 'many', None, True)
NOT_A_SHARE = (-0.1, 1.01, 'half', None, True)
NOT_A_PAIR = (512, (512,), (512, 512, 512), (0, 512), (1.5, 512), 'large', True)
WRONG = {  # option: what it may not be
    'detection': {
        'head': ('mask_rcn', None, 3, ['fcos']),
        'min_size': (0, -800, 1.5, (), (480, 0), 'large', None, True),
        'max_size': NOT_POSITIVE,
        'norm': ('bach', None, 1),
        'out_indices': (3, (), (-1,), (0.5,), 'last'),
        'channels': NOT_POSITIVE,
        'anchor_scale': (0, -8, 'large', None),
        'anchor_ratios': (1.0, (), (0, 1), (-1.0,), None),
        'hidden': NOT_POSITIVE,
        'proposals': NOT_POSITIVE,
        'samples': (0, 3, -512, 8.5, None),
        'score_threshold': NOT_A_SHARE,
        'nms_threshold': NOT_A_SHARE,
        'detections': NOT_POSITIVE,
        'mask_channels': (0, -256, 25.6, 'many'),
        'rpn_convs': NOT_POSITIVE,
        'box_convs': (-1, 4.5, None, True),
        'box_norm': ('bach', 1, True),
        'mask_norm': ('bach', 1, True),
    },
    'segmentation': {
        'head': ('uppernet', None, 3),
        'norm': ('bach', None, 1),
        'out_indices': (3, (), (-1,), (0.5,), 'last'),
        'pyramid': (None, 1, 'no'),
        'channels': NOT_POSITIVE,
        'auxiliary': (-0.4, 'some', None, True),
        'auxiliary_level': (-1, 4, 2.5, None),
        'dropout': (-0.1, 1.5, 'some', None),
        'resize': (*NOT_A_PAIR, (2048, 512)),
        'window': NOT_A_PAIR,
        'stride': (*NOT_A_PAIR, (96, 32), (32, 96)),
        'scales': ((), 1.0, (0.0,), (-1.0, 1.0), None),
        'flip': (None, 1, 'yes'),
        'dice': (-1.0, 'some', None),
    },
}
MORE = {  # what else has to be said for an option to have a meaning
    'box_norm': {'box_convs': 4},
    'stride': {'window': (64, 64)},
}
RIGHT = {
    'detection': [
        {'min_size': (480, 800), 'max_size': 1333, 'score_threshold': 0, 'nms_threshold': 1, 'anchor_ratios': [1]},
        {'head': 'mask_rcnn', 'box_convs': 4, 'box_norm': 'batch', 'mask_norm': 'layer', 'rpn_convs': 2},
        {'head': 'retinanet', 'anchor_scale': 0.5},
    ],
    'segmentation': [
        {'window': (96, 64), 'stride': [64, 64], 'scales': [0.5, 1], 'flip': True, 'dice': 1, 'dropout': 0},
        {'resize': (64, 128), 'auxiliary': 0.4, 'auxiliary_level': 3, 'channels': 64},
    ],
}


def check(folder, task, options, **sections):
    """Checks a configuration file; option i of the task is in line i + 1."""
    lines = ['task = dict(', f'    name={task!r},', *(f'    {key}={value!r},' for key, value in options.items()), ')']
    plain = {
        'model': {'name': 'test_vmamba'},
        'data': {'name': 'digit_scenes', 'batch_size': 2},
        'schedule': {'warmup_epochs': 0},
    }
    lines += [f'{name} = { ({**plain.get(name, {}), **sections.get(name, {})})!r}' for name in {*plain, *sections}]
    (folder / 'a.py').write_text('\n'.join(lines))
    load_task(folder / 'a.py')


@pytest.mark.parametrize('task', WRONG)
def test_every_option_has_a_rule_and_is_tried(task):
    kind = TASKS[task]
    functions = (kind.network, kind.__init__, *kind.heads.values())
    parameters = [p for function in functions for p in inspect.signature(function).parameters.values()]
    options = {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert options.keys() == WRONG[task].keys()
    assert all(isinstance(options[name].__metadata__[0], Rule) for name in options.keys() - {'head'})


@pytest.mark.parametrize('task', WRONG)
def test_every_option_is_listed(task):
    """By `tools/train.py --help-config`, and on the page."""
    assert {name for name in WRONG[task] if not re.search(rf'\b{name} ?=', '\n'.join(TASKS[task].describe()))} == set()
    page = (Path(__file__).parents[2] / 'docs' / 'dense.md').read_text()
    assert {name for name in WRONG[task] if f'`{name}`' not in page and f'`task.{name}`' not in page} == set()


@pytest.mark.parametrize(
    ('task', 'option', 'value'),
    [
        (task, option, value)
        for task, options in WRONG.items()
        for option, values in options.items()
        for value in values
    ],
)
def test_a_wrong_value_is_refused_in_one_line(tmp_path, task, option, value):
    more = MORE.get(option, {})
    with pytest.raises(UsageError) as error:
        check(tmp_path, task, {**more, option: value})
    message = str(error.value)
    assert message.startswith(f'{tmp_path / "a.py"}:{3 + len(more)}: ')
    assert f'task.{option}' in message
    assert '\n' not in message
    assert 'cannot be built' not in message


@pytest.mark.parametrize(
    ('option', 'value'),
    [('hflip', 2), ('resize', 512), ('scale', (2, 1)), ('crop', (512,)), ('max_class_share', -1), ('crop_first', 1.5),
     ('color_jitter', 1), ('albumentations', 'MotionBlur'), ('albumentations', [{'type': 'MotionBlurr'}])],
)  # fmt: skip
@pytest.mark.parametrize('task', WRONG)
def test_a_wrong_augmentation_is_refused_where_it_stands(tmp_path, task, option, value):
    (tmp_path / 'a.py').write_text(
        f'task = dict(name={task!r})\nmodel = dict(name="test_vmamba")\ndata = dict(name="digit_scenes")\n'
        f'augment = dict(\n    style="dense",\n    {option}={value!r},\n)\n'
    )
    with pytest.raises(UsageError, match=rf'a\.py:6: .*{option}') as error:
        load_task(tmp_path / 'a.py')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('task', 'options'), [(task, options) for task, all_ in RIGHT.items() for options in all_])
def test_a_right_value_is_taken(tmp_path, task, options):
    check(tmp_path, task, options)


@pytest.mark.parametrize(
    ('task', 'options', 'sections', 'says'),
    [
        ('detection', {'max_size': 640}, {}, '3: task.max_size: expected at least task.min_size, 800, got 640'),
        ('detection', {'box_norm': 'batch'}, {}, '3: task.box_norm: expected None without task.box_convs'),
        ('detection', {'mask_norm': 'layer'}, {}, '3: task.mask_norm: expected None without task.mask_channels'),
        ('detection', {'head': 'fcos', 'channels': 48}, {}, '4: task.channels: expected a multiple of 32'),
        (
            'detection',
            {'minsize': 3},
            {},
            "3: task.minsize: unknown key in task with head 'faster_rcnn' 'minsize': did you mean 'min_",
        ),
        (
            'detection',
            {'min_size': 64, 'max_size': 128},
            {'model': {'name': 'test_local_vim', 'img_size': 64}},
            r"4: task.max_size: expected at most 64, and task.min_size 64, got 128 and 64; 'test_local_vim' takes",
        ),
        ('segmentation', {'stride': (8, 8)}, {}, '3: task.stride: expected None without task.window'),
        ('segmentation', {'auxiliary_level': 3}, {}, '3: task.auxiliary_level: expected 2 without task.auxiliary'),
        ('segmentation', {'pyramid': False}, {}, '3: task.pyramid: expected True for maps of these strides'),
        (
            'segmentation',
            {'head': 'fpn', 'pyramid': False},
            {'model': {'name': 'test_plain_mamba'}},
            "4: task.pyramid: expected True with head 'fpn'",
        ),
        ('segmentation', {'head': 'fpn', 'channels': 32}, {}, '4: task.channels: expected a multiple of 64'),
        ('segmentation', {}, {'data': {'batch_size': 1}}, 'data.batch_size: expected at least 2 for UPerNet'),
        (
            'segmentation',
            {},
            {'data': {'name': 'ade20k', 'root': '.'}},
            r'data.batch_size: expected 1 without augment.crop, .* got 2; set augment.crop=\(HEIGHT, WIDTH\)',
        ),
        (
            'segmentation',
            {},
            {'augment': {'style': 'dense', 'scale': (0.5, 2.0)}},
            'data.batch_size: expected 1 without augment.crop',
        ),
        (
            'segmentation',
            {'window': (128, 128)},
            {'model': {'name': 'test_local_vim', 'img_size': 64}},
            r'3: task.window: expected at most \(64, 64\), got \(128, 128\)',
        ),
        (
            'segmentation',
            {'resize': (64, 128)},
            {'model': {'name': 'test_local_vim', 'img_size': 64}},
            r'3: task.resize: expected at most \(64, 64\), got \(64, 128\); .* or task.window',
        ),
        (
            'segmentation',
            {'resize': (64, 64), 'scales': (1.0, 1.5)},
            {'model': {'name': 'test_local_vim', 'img_size': 64}},
            r'task.resize: expected at most \(64, 64\), got \(64, 64\) times 1.5, of task.scales; .* or task.window',
        ),
        (
            'segmentation',
            {},
            {'model': {'name': 'test_local_vim', 'img_size': 64}, 'augment': {'style': 'dense', 'crop': (96, 96)}},
            r'augment.crop: expected at most \(64, 64\), got \(96, 96\)',
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, task, options, sections, says):
    with pytest.raises(UsageError, match=rf'a\.py:(\d+: )?.*{says}') as error:
        check(tmp_path, task, options, **sections)
    assert '\n' not in str(error.value)


def test_images_of_different_sizes_are_taken_one_by_one_or_cropped(tmp_path):
    data = {'name': 'ade20k', 'root': '.'}
    check(tmp_path, 'segmentation', {'head': 'segformer'}, data={**data, 'batch_size': 1})
    check(tmp_path, 'segmentation', {}, data=data, augment={'style': 'dense', 'crop': (64, 64)})
