"""Promises: what is found stands out, the best on top; a picture says of which file it is and which half is true."""

import numpy as np
import pytest
import torch

from vimamba.insight.samples import draw_objects, picture

CLASSES = [f'class {i}' for i in range(20)]
GREY = torch.full((3, 256, 256), 0.35)


def objects(labels, scores, box=(40.0, 40.0, 200.0, 200.0)):
    return {'boxes': torch.tensor([box] * len(labels)), 'labels': torch.tensor(labels), 'scores': torch.tensor(scores)}


@pytest.mark.parametrize('label', range(20))
def test_no_class_of_objects_is_grey_or_dark(label):
    red, green, blue = draw_objects(GREY, objects([label], [0.9]), CLASSES)[:, 120, 40].tolist()
    assert max(red, green, blue) > 200
    assert max(red, green, blue) - min(red, green, blue) > 100


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_best_of_several_in_one_place_is_on_top(order):
    scores = [0.6, 0.95, 0.7]
    several = draw_objects(GREY, objects(list(order), [scores[label] for label in order]), CLASSES)
    best = draw_objects(GREY, objects([1], [0.95]), CLASSES)
    assert torch.equal(several[:, 100:180, 40], best[:, 100:180, 40])  # the left edge
    assert torch.equal(several[:, 41:52, 41:100], best[:, 41:52, 41:100])  # the name


def test_halves_say_which_is_true_and_tiles_say_of_which_file():
    row = ([GREY], [objects([0], [1.0])], [objects([0], [1.0])], CLASSES)
    plain = np.asarray(picture('detection', row[0], None, row[2], CLASSES))
    both = np.asarray(picture('detection', *row))
    named = np.asarray(picture('detection', *row, names=['street.jpg']))
    strip = both.shape[0] - plain.shape[0]
    assert strip > 0
    assert both.shape[1] == plain.shape[1] + 256
    truth, prediction = both[:strip, :256], both[:strip, 256:]
    assert (truth < 100).any()
    assert (prediction < 100).any()
    assert (truth != prediction).any()
    assert np.array_equal(both[strip:], named[strip:])
    assert (named[:strip, :256] != truth).any()


def test_a_picture_of_predictions_says_from_which_score_on_it_draws():
    low = objects([0], [0.3])

    def drawn(**options):
        return np.asarray(picture('detection', [GREY], [low], [low], CLASSES, **options))

    default, lower = drawn(), drawn(threshold=0.2)
    strip = default.shape[0] - 256
    assert (default[strip:, 256:] == default[strip, 256]).all()  # nothing
    assert not (lower[strip:, 256:] == lower[strip, 256]).all()
    assert not np.array_equal(default[:strip, 256:], lower[:strip, 256:])  # another figure in the caption
    plain = np.asarray(picture('segmentation', [GREY], *[[torch.full((256, 256), 255)]] * 2, CLASSES))
    assert not np.array_equal(default[:strip, 256:], plain[:strip, 256:])
