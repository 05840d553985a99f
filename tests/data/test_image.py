"""Promises: a file is read whole, upright and in 8 bits, or refused in one line that names it."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.bad_images import BAD_IMAGES, write_bad_images
from vimamba.data import BrokenImage, find_images, read_image
from vimamba.data.image import to_channels, to_eight_bit
from vimamba.errors import UsageError

MODES = ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr', 'HSV', 'LAB', 'I', 'I;16', 'I;16B']


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('name', [*BAD_IMAGES, 'missing.jpg', 'folder.jpg'])
def test_an_unreadable_file_is_refused_by_name_in_one_line(name, tmp_path):
    write_bad_images(tmp_path)
    (tmp_path / 'folder.jpg').mkdir()
    with pytest.raises(BrokenImage) as error:
        read_image(tmp_path / name)
    assert error.value.path == str(tmp_path / name)
    assert str(error.value).startswith(f'{tmp_path / name}: ')
    assert error.value.reason
    assert '\n' not in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # it crosses from a worker


@pytest.mark.parametrize('cut', range(0, 95, 5))
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'GIF', 'BMP', 'TIFF', 'WEBP'])
def test_no_file_cut_short_passes_for_a_whole_one(kind, cut, tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (37, 23, 3), np.uint8)
    path = tmp_path / 'whole'
    Image.fromarray(pixels).save(path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * cut // 100])
    with pytest.raises(BrokenImage):
        read_image(path)


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('mode', MODES)
def test_every_mode_converts(mode, channels):
    image = to_channels(Image.new(mode, (5, 4)), channels)
    assert image.mode == {1: 'L', 3: 'RGB', 4: 'RGBA'}[channels]
    assert image.size == (5, 4)


@given(st.integers(0, 65535), st.sampled_from(['<u2', '>u2', '<i4']))
def test_sixteen_bits_keep_their_range(value, dtype):
    image = Image.fromarray(np.array([[value]], dtype))
    assert to_eight_bit(image).getpixel((0, 0)) == round(value / 257)


def test_colours_survive_palette_and_cmyk_and_alpha(tmp_path):
    colour = (255, 0, 51)
    rgb = Image.new('RGB', (8, 8), colour)
    palette = rgb.quantize(4)
    palette.save(tmp_path / 'palette.png', transparency=0)
    rgb.convert('CMYK').save(tmp_path / 'cmyk.tiff')
    Image.new('LA', (8, 8), (77, 10)).save(tmp_path / 'grey_alpha.png')
    assert to_channels(read_image(tmp_path / 'palette.png'), 3).getpixel((3, 3)) == colour
    assert to_channels(read_image(tmp_path / 'palette.png'), 4).getpixel((3, 3))[:3] == colour
    assert to_channels(read_image(tmp_path / 'cmyk.tiff'), 3).getpixel((3, 3)) == colour
    assert to_channels(read_image(tmp_path / 'grey_alpha.png'), 1).getpixel((0, 0)) == 77
    assert to_channels(read_image(tmp_path / 'grey_alpha.png'), 4).getpixel((0, 0)) == (77, 77, 77, 10)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    upright = Image.fromarray(np.kron(np.array([[0, 80, 160], [40, 120, 255]], np.uint8), np.ones((8, 8), np.uint8)))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / 'photo.png', exif=exif)
    assert read_image(tmp_path / 'photo.png').tobytes() == upright.tobytes()


def test_images_are_found_in_folders_once_and_in_order(tmp_path):
    for name in ('b.jpg', 'a/z.PNG', 'a/y.txt', 'a/deep/x.webp', 'a/._z.PNG', '.trash/w.jpg', 'a/.deep/er/v.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path, tmp_path / 'b.jpg'])
    assert found == [str(tmp_path / name) for name in ('a/deep/x.webp', 'a/z.PNG', 'b.jpg')]
    assert find_images([tmp_path / 'a/y.txt']) == [str(tmp_path / 'a/y.txt')]  # asked for by name: tried
    with pytest.raises(UsageError, match=r'no such file or folder'):
        find_images([tmp_path / 'c'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UsageError, match=r'no images found in .*empty'):
        find_images([tmp_path / 'empty'])


def test_a_folder_that_cannot_be_read_is_named_not_passed_over(unprivileged):
    (unprivileged / 'a').mkdir()
    (unprivileged / 'b.jpg').touch()
    (unprivileged / 'a').chmod(0)
    try:
        with pytest.raises(UsageError, match=r'a: this folder cannot be read'):
            find_images([unprivileged])
    finally:
        (unprivileged / 'a').chmod(0o700)
