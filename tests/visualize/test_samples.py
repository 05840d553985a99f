"""Promises: what is found stands out, the best on top; a class looks the same wherever it is; a picture says of which
file it is, which half is true and what its colours mean; what is wrong is red.
"""

import numpy as np
import pytest
import torch

from vimamba.visualize.samples import draw_map, draw_objects, picture

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


def test_where_masks_overlap_that_of_the_best_is_seen():
    masks = torch.zeros(2, *GREY.shape[1:], dtype=torch.bool)
    masks[0, 40:], masks[1, :, 60:] = True, True
    both = draw_objects(GREY, objects([0, 1], [0.9, 0.7]) | {'masks': masks}, CLASSES)
    best = draw_objects(GREY, objects([0], [0.9]) | {'masks': masks[:1]}, CLASSES)
    factor = both.shape[1] // GREY.shape[1]
    inside = (
        slice(None),
        slice(-10 * factor, None),
        slice(-10 * factor, None),
    )  # of both masks, far from boxes and names
    assert torch.equal(both[inside], best[inside])


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


def test_a_class_of_a_map_has_one_colour_whatever_is_below():
    image = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    image[:, :, :128] *= torch.tensor([0.2, 1.0, 0.2])[:, None, None]
    labels = torch.full((256, 256), 2)
    labels[:64], labels[64:128] = 1, 255
    drawn = draw_map(image, labels, ['background', 'road', 'background'])
    assert torch.equal(drawn[:, 64:], (image[:, 64:] * 255).round().to(torch.uint8))  # the background and no class
    road = drawn[:, :64].int()
    edge, inside = road[:, 63], road[:, 8:56].flatten(1)
    assert (edge == edge[:, :1]).all()
    chroma = inside - inside.float().mean(0)
    assert (chroma - chroma[:, :1]).abs().max() <= 2  # only its brightness is that of the image
    assert inside.float().mean(0).std() > 5


def test_a_legend_names_the_classes_of_a_map():
    classes = ['background', 'road', 'car', 'tree']
    labels = torch.zeros(256, 256, dtype=torch.long)
    labels[:64] = 1

    def legend(truth, prediction):
        whole = np.asarray(picture('segmentation', [GREY], [{'mask': truth}], [prediction], classes))
        return whole[whole.shape[0] - 24 :].reshape(-1, 3)

    def has(pixels, label):
        alone = draw_map(GREY, torch.where(labels == 1, label, 0), classes)[:, 63, 0].numpy()
        return (pixels == alone).all(1).any()

    one, both = legend(labels, labels), legend(labels, 2 * labels)
    assert [has(one, label) for label in (1, 2, 3)] == [True, False, False]
    assert [has(both, label) for label in (1, 2, 3)] == [True, True, False]


RED = (0xF9, 0xC9, 0xC4)


def pixels_of(drawn, colour):
    return int((np.asarray(drawn) == colour).all(-1).sum())


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 300, 200), (8, 3, 224, 224)], ids=['small', 'grey', 'clip'])
def test_each_image_or_clip_is_drawn_once_and_wrong_ones_in_red(shape):
    images, targets = (
        [torch.tensor([0.0, 1.0, 0.0])[: shape[-3], None, None].expand(shape)] * 3,
        torch.tensor([3, 3, 5]),
    )
    outputs = [torch.eye(20)[3] * 9] * 3
    task = 'video' if len(shape) == 4 else 'classification'
    both = picture(task, images, targets, outputs, CLASSES, ['a/0.mp4', 'b/0.mp4', 'c.mp4'])
    assert both.width <= 2000
    alone = picture(task, images[:1], targets[:1], outputs[:1], CLASSES, ['0.mp4'])
    wrong = picture(task, images[:1], targets[2:], outputs[:1], CLASSES, ['0.mp4'])
    assert pixels_of(alone, RED) == 0
    assert pixels_of(both, RED) == pixels_of(wrong, RED) > 1000
    if shape[-3] == 3:
        assert pixels_of(both, (0, 255, 0)) == 3 * pixels_of(alone, (0, 255, 0)) > 0
    truth = picture(task, images[:1], targets[:1], None, CLASSES, ['0.mp4'])
    found = picture(task, images[:1], None, outputs[:1], CLASSES, ['0.mp4'])
    assert truth.height == found.height == alone.height - 24  # a line less
    assert not np.array_equal(truth, found)  # a truth has no probability
