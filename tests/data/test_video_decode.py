"""Videos are read exactly, closed always, and a broken one is named within seconds."""

import contextlib
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vimamba.data.video_decode import BrokenVideo, read_clip, sample_dense, sample_uniform, timed_frames

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


def stream_frames(file):
    return (frame for _, frame in timed_frames(file))


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


def broken(folder, kind):
    file = folder / f'{kind}.mp4'
    if kind == 'empty':
        file.touch()
    elif kind == 'text':
        file.write_text('no video at all ' * 500)
    elif kind == 'truncated':
        file.write_bytes(Path(write(folder / 'whole.mp4', 60)).read_bytes()[:2000])
    elif kind == 'truncated_end':
        file.write_bytes(Path(write(folder / 'whole.mp4', 60)).read_bytes()[:-200])
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
    'text': r'not a video that FFmpeg can read \(Invalid data found when processing input\)',
    'truncated': r'truncated: 2000 of \d+ bytes',
    'truncated_end': r'truncated: \d+ of \d+ bytes',
    'truncated_body': r'truncated: \d+ of \d+ bytes',
    'truncated_front': r'truncated: \d+ of \d+ bytes',
    'truncated_webm': r'truncated: \d+ of \d+ bytes',
    'script': 'concat is not a video format',
    'sound': 'no video stream in it',
    'single': r'1 frame\(s\); a video has at least 2',
    'sizes': 'frames of several sizes, 64 x 64 and 32 x 32 pixels',
    'image': 'an image, not a video',
    'pipe': 'not a regular file',
    'folder': 'a folder',
    'missing': 'no such file',
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize('kind', REASONS)
def test_a_broken_video_is_named_with_the_reason_and_soon(tmp_path, kind):
    file = broken(tmp_path, kind)
    with pytest.raises(BrokenVideo, match=rf'{kind}\.mp4: {REASONS[kind]}') as caught:
        read_clip(file, range)
    assert '\n' not in str(caught.value)


def test_a_stream_gives_the_frames_that_a_truncated_file_has_and_then_the_reason(tmp_path):
    file = Path(write(tmp_path / 'front.mp4', 60, layout={'movflags': 'faststart'}))
    file.write_bytes(file.read_bytes()[:-100])
    frames = []
    with pytest.raises(BrokenVideo, match=r'truncated: \d+ of \d+'):
        frames.extend(stream_frames(file))  # which keeps what came before the error
    assert levels(np.stack(frames)) == [i % 25 for i in range(len(frames))]
    assert 10 < len(frames) < 60
    for kind in ('truncated', 'truncated_end'):  # without the index there are none
        with pytest.raises(BrokenVideo, match=r'truncated: \d+ of \d+ bytes'):
            next(stream_frames(broken(tmp_path, kind)))


@pytest.mark.parametrize('behind', [b'\0' * 9, b'\0\1\0\0junk', b'x', b'\0\0\0\x10free' + b'x' * 8], ids=str)
def test_what_stands_behind_a_whole_video_does_not_matter(tmp_path, behind):
    file = Path(write(tmp_path / 'a.mp4'))
    file.write_bytes(file.read_bytes() + behind)
    assert levels(read_clip(file, range)) == list(range(20))


LAYOUTS = {
    'index_at_the_end.mp4': {},
    'index_in_front.mp4': {'layout': {'movflags': 'faststart'}},
    'in_fragments.mp4': {'layout': {'movflags': 'frag_keyframe+empty_moov'}},
    'a.avi': {'codec': 'mpeg4'},
    'a.webm': {'codec': 'libvpx-vp9'},
    'a.mkv': {},
    'a.mpg': {'codec': 'mpeg2video'},
    'a.ts': {},
}


@pytest.fixture(scope='module')
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp('layouts')
    return {name: Path(write(folder / name, **options)).read_bytes() for name, options in LAYOUTS.items()}


@pytest.mark.timeout(60)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(list(LAYOUTS)),
    damages=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 150), st.binary(max_size=150)), max_size=4),
    kept=st.sampled_from([1.0, 1.0, 0.9, 0.4]),
)
def test_damage_of_any_kind_is_shown_or_named_and_hangs_nothing(tmp_path, contents, name, damages, kept):
    content = contents[name]
    for place, length, other in damages:  # bytes changed, lost or put in between
        start = int(place * len(content))
        content = content[:start] + other + content[start + length :]
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with contextlib.suppress(BrokenVideo):
        assert len(read_clip(tmp_path / name, lambda frames: [0, frames // 2, frames - 1])) == 3


def cut(source, path, frames):
    """The packets of a file as they are, so many frames earlier: those before the begin are to be passed over."""
    with av.open(source) as read, av.open(str(path), 'w', options={'avoid_negative_ts': 'disabled'}) as container:
        stream = container.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                shift = int(frames / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                container.mux(packet)
    return str(path)


@pytest.mark.parametrize('frames', [3, 6, 8, 14])
@pytest.mark.parametrize('name', ['cut.mp4', 'cut.mov'])
def test_a_video_that_was_cut_without_encoding_begins_at_the_cut(tmp_path, name, frames):
    file = cut(write(tmp_path / 'a.mp4'), tmp_path / name, frames)
    assert levels(read_clip(file, range)) == list(range(frames, 20))
    assert levels(read_clip(file, lambda count: [count - 1, 1])) == [19, frames + 1]
    whole = Path(cut(write(tmp_path / 'b.mp4', 60), tmp_path / name, frames))
    whole.write_bytes(whole.read_bytes()[:-1000])  # the index is at the end
    with pytest.raises(BrokenVideo, match=name):
        read_clip(whole, range)


def test_what_a_file_is_called_does_not_matter(tmp_path):
    Path(write(tmp_path / 'a.mp4')).rename(tmp_path / 'a.txt')
    assert levels(read_clip(tmp_path / 'a.txt', lambda frames: [3, 9])) == [3, 9]


def test_decoding_takes_no_thread_of_its_own(tmp_path):
    if not os.path.isdir('/proc/self/task'):
        pytest.skip('counted in /proc')
    frames, before = stream_frames(write(tmp_path / 'a.mp4')), len(os.listdir('/proc/self/task'))
    next(frames)
    assert len(os.listdir('/proc/self/task')) == before


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
