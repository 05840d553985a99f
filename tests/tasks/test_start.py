"""Detection and segmentation start from a trained backbone, or from the whole of a model for other classes."""

import pytest
import torch

from tests.tasks.settings import settings
from vimamba.checkpoint import FORMAT
from vimamba.errors import UsageError
from vimamba.tasks import TASKS

PREDICTORS = {  # what knows the classes
    ('detection', 'mask_rcnn'): ('box_predictor.', 'mask_predictor.mask_fcn_logits.'),
    ('detection', 'retinanet'): ('classification_head.cls_logits.',),
    ('segmentation', 'upernet'): ('head.1.',),
}


def write(path, task, model, head, classes):
    section = {'name': model.name, 'options': model.options}
    config = {'task': {'name': head[0], 'options': {'head': head[1]}}, 'model': section, 'data': {}}
    torch.save({'format': FORMAT, 'model': task.model.state_dict(), 'classes': classes, 'config': config}, path)
    return str(path)


@pytest.mark.parametrize('head', PREDICTORS, ids='-'.join)
def test_a_model_for_other_classes_starts_from_a_trained_one(tmp_path, head, caplog):
    config = settings(head[0], options={'head': head[1], 'norm': 'batch'})
    trained = TASKS[head[0]].build(config, ['a', 'b', 'c'])
    config.model.checkpoint = write(tmp_path / 'best.pth', trained, config.model, head, ['a', 'b', 'c'])
    same = TASKS[head[0]].build(config, ['a', 'b', 'c']).model.state_dict()
    assert all(torch.equal(value, same[key]) for key, value in trained.model.state_dict().items())

    other = TASKS[head[0]].build(config, ['a', 'b', 'c', 'd', 'e']).model.state_dict()
    for key, value in trained.model.state_dict().items():
        if value.shape == other[key].shape:
            assert torch.equal(value, other[key]), key
        else:
            assert any(part in key for part in PREDICTORS[head]), key
    assert 'best.pth' in caplog.text
    assert 'the file has 3 classes' in caplog.text


def test_a_trained_model_of_another_backbone_is_refused(tmp_path):
    head = ('detection', 'mask_rcnn')
    config = settings('detection', options={'head': 'mask_rcnn'})
    task = TASKS['detection'].build(config, ['a'])
    file = write(tmp_path / 'best.pth', task, config.model, head, ['a'])
    config = settings('detection', 'timm resnet', options={'head': 'mask_rcnn'})
    config.model.checkpoint = file
    with pytest.raises(UsageError, match=r'best.pth: these weights do not fit .* missing'):
        TASKS['detection'].build(config, ['a'])


def test_a_file_of_something_else_is_not_blamed_on_the_network(tmp_path):
    torch.save({'model': {'stem.weight': torch.ones(2)}}, tmp_path / 'other.pth')
    config = settings('detection')
    config.model.checkpoint = str(tmp_path / 'other.pth')
    with pytest.raises(UsageError, match=r'other.pth: these weights do not fit') as raised:
        TASKS['detection'].build(config, ['a'])
    assert 'network' not in str(raised.value)
