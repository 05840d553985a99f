"""Videos are read exactly, closed always, and a broken one is named within seconds."""

import contextlib
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vimamba.data.video import BrokenVideo, read_clip, sample_dense, sample_uniform, stream_frames

av = pytest.importorskip('av')


def write(path, frames=20, size=(64, 48), codec='libx264', layout=None):
    """Frames whose grey level is their number, times 10; key frames every 6."""
    with av.open(str(path), 'w', options=layout or {}) as container:
        stream = container.add_stream(codec, rate=25, options={'g': '6', 'threads': '1'})
        stream.width, stream.height = size
        stream.pix_fmt = 'yuv420p'
        for i in range(frames):
            image = np.full((size[1], size[0], 3), 10 * i % 250, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        container.mux(stream.encode())
    return str(path)


def levels(frames):
    return np.rint(frames[:, 8:-8, 8:-8].mean((1, 2, 3)) / 10).astype(int).tolist()


@pytest.mark.parametrize('name', ['a.mp4', 'a.avi', 'a.mkv', 'a.mov', 'a.webm', 'a.mpg', 'a.ts'])
@pytest.mark.parametrize('chosen', [[0, 19], [5, 6, 7], [17, 3, 3, 12], list(range(20))], ids=str)
def test_frames_are_those_that_were_asked_for(tmp_path, name, chosen):
    file = write(tmp_path / name, codec={'a.webm': 'libvpx-vp9', 'a.mpg': 'mpeg2video'}.get(name, 'libx264'))
    clip = read_clip(file, lambda frames: chosen)
    assert clip.shape == (len(chosen), 48, 64, 3)
    assert levels(clip) == chosen
    assert np.array_equal(clip, np.stack(list(stream_frames(file)))[chosen])


def test_a_video_that_stands_on_its_side_is_read_upright(tmp_path):
    file = tmp_path / 'turned.mp4'
    with av.open(write(tmp_path / 'a.mp4')) as source, av.open(str(file), 'w') as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        try:
            stream.set_display_rotation(90)
        except AttributeError:
            pytest.skip('this PyAV writes no rotation')
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    assert read_clip(file, lambda frames: [0]).shape == (1, 64, 48, 3)


def broken(folder, kind):
    file = folder / f'{kind}.mp4'
    if kind == 'empty':
        file.touch()
    elif kind == 'text':
        file.write_text('no video at all ' * 500)
    elif kind == 'truncated':
        file.write_bytes(Path(write(folder / 'whole.mp4', 60)).read_bytes()[:2000])
    elif kind == 'truncated_body':
        whole = Path(write(folder / 'whole.avi', 60, codec='mpeg4')).read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == 'truncated_front':  # with the index in front of the frames
        whole = Path(write(folder / 'front.mp4', 60, layout={'movflags': 'faststart'})).read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == 'truncated_webm':
        whole = Path(write(folder / 'whole.webm', 60, codec='libvpx-vp9')).read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == 'script':
        write(folder / 'whole.mp4')
        file.write_text('ffconcat version 1.0\nfile whole.mp4\n')
    elif kind == 'folder':
        file.mkdir()
    elif kind == 'sound':
        with av.open(str(file), 'w') as container:
            stream = container.add_stream('aac', rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
    elif kind == 'single':
        write(file, 1)
    elif kind == 'sizes':
        parts = [Path(write(folder / f'{side}.h264', 20, (side, side))).read_bytes() for side in (64, 32)]
        file.write_bytes(b''.join(parts))
    elif kind == 'image':
        from PIL import Image

        Image.new('RGB', (8, 8)).save(folder / 'a.png')
        (folder / 'a.png').rename(file)
    elif kind == 'pipe':
        os.mkfifo(file)
    return file


REASONS = {
    'empty': r'the file is empty \(0 bytes\)',
    'text': 'Invalid data found when processing input',
    'truncated': 'no video stream in it|moov atom not found|Invalid data',
    'truncated_body': r'truncated: \d+ of 60 frames',
    'truncated_front': r'truncated: \d+ of 60 frames',
    'truncated_webm': r'truncated: [01]\.\d of 2\.4 s',
    'script': 'concat is no format of videos',
    'sound': 'no video stream in it',
    'single': r'1 frame\(s\); a video has at least 2',
    'sizes': 'frames of several sizes, 64 x 64 and 32 x 32 pixels',
    'image': 'png_pipe is no format of videos',
    'pipe': 'no such file',
    'folder': 'no such file',
    'missing': 'no such file',
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize('kind', REASONS)
def test_a_broken_video_is_named_with_the_reason_and_soon(tmp_path, kind):
    file = broken(tmp_path, kind)
    with pytest.raises(BrokenVideo, match=rf'{kind}\.mp4: {REASONS[kind]}') as caught:
        read_clip(file, range)
    assert '\n' not in str(caught.value)


@pytest.mark.timeout(10)
@pytest.mark.parametrize('name', ['a.mp4', 'a.avi', 'a.webm'])
@pytest.mark.parametrize('place', [0.02, 0.3, 0.6, 0.98])
def test_flipped_bytes_are_shown_or_named_and_hang_nothing(tmp_path, name, place):
    codec = {'a.webm': 'libvpx-vp9', 'a.avi': 'mpeg4'}.get(name, 'libx264')
    content = bytearray(Path(write(tmp_path / name, codec=codec)).read_bytes())
    start = int(place * len(content))
    content[start : start + 64] = bytes(255 - byte for byte in content[start : start + 64])
    (tmp_path / name).write_bytes(content)
    with contextlib.suppress(BrokenVideo):
        assert len(read_clip(tmp_path / name, lambda frames: [0, frames - 1])) == 2


def test_what_a_file_is_called_does_not_matter(tmp_path):
    Path(write(tmp_path / 'a.mp4')).rename(tmp_path / 'a.txt')
    assert levels(read_clip(tmp_path / 'a.txt', lambda frames: [3, 9])) == [3, 9]


def test_a_thousand_clips_leave_no_thread_and_no_file_open(tmp_path):
    files = [
        write(tmp_path / 'a.mp4', 8),
        *(str(broken(tmp_path, kind)) for kind in ('text', 'sizes', 'truncated_webm')),
    ]

    def used():
        return len(os.listdir('/proc/self/fd')), threading.active_count(), len(os.listdir('/proc/self/task'))

    def read(times):
        for i in range(times):
            try:
                read_clip(files[i % 4], lambda frames: [0, frames - 1])
            except BrokenVideo:
                continue

    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('counted in /proc')
    read(10)
    before, memory = used(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read(1000)
    assert used() == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 20 * 1024  # KiB


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 5), st.booleans())
def test_uniform_sampling_takes_one_frame_of_each_part(frames, count, clips, training):
    views = sample_uniform(frames, count, clips, training)
    assert [len(view) for view in views] == [count] * clips
    for view in views:
        assert view == sorted(view)
        for i, index in enumerate(view):
            assert i * frames // count <= index <= (i + 1) * frames / count
            assert 0 <= index < frames
    if not training:
        assert views == sample_uniform(frames, count, clips)
        if frames >= count * clips:
            taken = [index for view in views for index in view]
            assert len(set(taken)) == len(taken)  # no frame is in two views


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 8), st.integers(1, 5), st.booleans())
def test_dense_sampling_keeps_its_interval_where_there_is_room(frames, count, interval, clips, training):
    views = sample_dense(frames, count, interval, clips, training)
    assert [len(view) for view in views] == [count] * clips
    for view in views:
        assert 0 <= view[0] <= view[-1] < frames
        if frames >= (count - 1) * interval + 1:
            assert np.diff(view).tolist() == [interval] * (count - 1)
    room = frames - (count - 1) * interval - 1
    if not training:
        assert views == sample_dense(frames, count, interval, clips)
        if clips == 1 and room >= 0:
            assert abs(views[0][0] - (frames - 1 - views[0][-1])) <= 1  # in the middle
        if clips > 1:
            assert views[0][0] == 0
            assert views[-1][-1] == frames - 1 or room < 0
            assert len(set(map(tuple, views))) == clips or room < clips - 1
