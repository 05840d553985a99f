"""Files that players play are read frame by frame, however cut, written or recorded; what is cut off is said."""

import random
import re
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vimamba.data.video_decode import BrokenVideo, read_clip, sample_uniform, timed_frames
from vimamba.errors import UsageError

from .test_video_decode import levels, stream_frames, write

av = pytest.importorskip('av')


def encode(path, codec, frames=30, times=None, pixels='yuv420p', layout=None, **options):
    """Frames whose grey level is their number, times 10, a corner white, shown at ``times`` of a 25th of a second."""
    with av.open(str(path), 'w', options=layout or {}) as container:
        stream = container.add_stream(codec, rate=25, options={'threads': '1', **options})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.time_base = Fraction(1, 25)
        for i, time in enumerate(times or range(frames)):
            image = np.full((48, 64, 3), 10 * i % 250, np.uint8)
            image[:8, :8] = 255
            frame = av.VideoFrame.from_ndarray(image, format='rgb24')
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def copied(source, target, change):
    """The packets of a file as they are; ``change`` gives False for those to leave out."""
    with av.open(source) as container, av.open(str(target), 'w') as written:
        stream = written.add_stream_from_template(container.streams.video[0])
        for i, packet in enumerate(container.demux(video=0)):
            if packet.dts is not None and change(i, packet) is not False:
                packet.stream = stream
                written.mux(packet)
    return str(target)


def check_every_frame(file, count):
    """Each frame alone, and all of them backwards, are those of decoding from first to last."""
    frames = np.stack(list(stream_frames(file)))
    assert len(frames) == count
    for i in range(count):
        assert np.array_equal(read_clip(file, lambda told, i=i: [min(i, told - 1)])[0], frames[i])
    assert np.array_equal(read_clip(file, lambda told: range(told)[::-1]), frames[::-1])
    return levels(frames)


@pytest.mark.parametrize('reordered', ['0', '3'])
@pytest.mark.parametrize('cut', [1, 3, 9, 14])
def test_an_mp4_that_was_cut_without_encoding_begins_where_it_was_cut(tmp_path, cut, reordered):
    """As by ``ffmpeg -ss -c copy``: an edit list hides the frames between the key frame and the cut."""

    def earlier(i, packet):
        packet.pts -= cut * 512
        packet.dts -= cut * 512

    whole = encode(tmp_path / 'a.mp4', 'libx264', 24, g='6', bf=reordered)
    file = copied(whole, tmp_path / 'cut.mp4', earlier)
    with av.open(file) as container:
        assert any(packet.is_discard for packet in container.demux(video=0))
    assert check_every_frame(file, 24 - cut) == list(range(cut, 24))


@pytest.mark.parametrize(
    ('matrix', 'upright'),
    [
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame)),
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, -1), lambda frame: frame[::-1]),
        ((0, 1, 1, 0), lambda frame: frame.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).swapaxes(0, 1)),
    ],
    ids=('right', 'half', 'left', 'hflip', 'vflip', 'transpose', 'transverse'),
)
def test_a_video_that_lies_on_its_side_or_is_mirrored_is_read_upright(tmp_path, matrix, upright):
    """As telephones write it: the matrix of the track says how its frames are shown (ISO 14496-12, Sec. 8.3.2)."""
    file = Path(encode(tmp_path / 'a.mp4', 'libx264'))
    content, [frame] = file.read_bytes(), read_clip(file, lambda frames: [3])
    at, (a, b, c, d) = content.index(b'tkhd') + 44, (65536 * value for value in matrix)
    file.write_bytes(content[:at] + struct.pack('>9i', a, b, 0, c, d, 0, 0, 0, 1 << 30) + content[at + 36 :])
    assert np.array_equal(read_clip(file, lambda frames: [3])[0], upright(frame))


def test_the_picture_of_a_cover_is_not_the_video(tmp_path):
    """Where what is said of a file stands in front of its tracks, the cover comes as the first video stream."""
    with av.open(encode(tmp_path / 'a.mp4', 'libx264')) as source, av.open(str(tmp_path / 'b.mp4'), 'w') as container:
        stream, cover = container.add_stream_from_template(source.streams.video[0]), container.add_stream('png', rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, 'rgb24'
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame(32, 32, 'rgb24')))
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    content = (tmp_path / 'b.mp4').read_bytes()
    header, track, told = (content.index(name) - 4 for name in (b'mvhd', b'trak', b'udta'))
    assert header < track < told
    (tmp_path / 'b.mp4').write_bytes(content[:track] + content[told:] + content[track:told])  # the index is at the end
    with av.open(str(tmp_path / 'b.mp4')) as container:
        assert container.streams.video[0].codec_context.name == 'png'
    check_every_frame(tmp_path / 'b.mp4', 30)


@pytest.mark.parametrize('codec', ['mpeg1video', 'mpeg2video'])
@pytest.mark.parametrize('name', ['a.mpg', 'a.mpeg', 'a.ts'])
def test_streams_without_an_index_are_read(tmp_path, name, codec):
    file = encode(tmp_path / name, codec, 24, g='8', bf='2', qmax='2')
    assert check_every_frame(file, 24) == list(range(24))


def test_intra_refresh_in_which_no_frame_but_the_first_is_whole(tmp_path):
    parameters = 'intra-refresh=1:keyint=10:scenecut=0'
    file = encode(tmp_path / 'a.mp4', 'libx264', 60, **{'x264-params': parameters})
    check_every_frame(file, 60)


def test_a_file_that_begins_between_key_frames_has_the_frames_that_can_be_decoded(tmp_path):
    whole = encode(tmp_path / 'a.mp4', 'libx264', 24, g='6', bf='0')
    file = copied(whole, tmp_path / 'b.mp4', lambda i, packet: i > 2)
    assert check_every_frame(file, 18) == list(range(6, 24))


@pytest.mark.parametrize('name', ['b.mkv', 'b.mp4'])
def test_frames_in_front_of_the_first_key_frame_that_refer_to_what_was_cut_off_are_not_shown(tmp_path, name):
    """Of an open group of pictures, whose first frames in time come behind its key frame in the file."""
    parameters = 'open-gop=1:keyint=8:min-keyint=8:bframes=3:b-adapt=0:scenecut=0'
    whole = encode(tmp_path / 'a.mp4', 'libx264', 24, **{'x264-params': parameters})
    with av.open(whole) as container:
        _, at, _ = (i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe)
    file = copied(whole, tmp_path / name, lambda i, packet: i >= at)
    assert check_every_frame(file, 16) == list(range(8, 24))


@pytest.mark.parametrize('name', ['b.mkv', 'b.mp4'])
def test_key_frames_that_are_not_marked(tmp_path, name):
    def unmarked(i, packet):
        packet.is_keyframe = False

    whole = encode(tmp_path / 'a.mp4', 'libx264', 24, g='6', bf='0')
    assert check_every_frame(copied(whole, tmp_path / name, unmarked), 24) == list(range(24))


@pytest.mark.parametrize('name', ['a.avi', 'a.mp4', 'a.mkv'])
def test_frames_that_are_shown_longer_are_one_frame(tmp_path, name):
    """AVI writes packets without content for the time in between."""
    times = [0, 1, 3, 4, 9, 10, 11, 20, 21, 22, 30, 31]
    file = encode(tmp_path / name, 'mpeg4', times=times, g='6')
    with av.open(file) as container:
        assert (container.streams.video[0].frames > 12) == name.endswith('avi')
    assert check_every_frame(file, 12) == list(range(12))
    assert [time for time, _ in timed_frames(file)] == pytest.approx([time / 25 for time in times], abs=1e-3)


def test_two_frames_of_one_time_are_two_frames(tmp_path):
    def together(i, packet):
        packet.pts = packet.dts = packet.pts - 512 * (i % 2)

    whole = encode(tmp_path / 'a.mp4', 'libx264', 24, g='6', bf='0')
    assert check_every_frame(copied(whole, tmp_path / 'b.mkv', together), 24) == list(range(24))


@pytest.mark.parametrize('name', ['a.avi', 'a.mp4', 'a.mkv'])
def test_a_title_in_another_encoding_is_no_fault(tmp_path, name):
    with av.open(str(tmp_path / name), 'w', metadata_encoding='latin-1') as container:
        container.metadata['title'] = 'Caf\u00e9'
        stream = container.add_stream('mpeg4', rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format='rgb24')))
        container.mux(stream.encode())
    assert b'Caf\xe9' in (tmp_path / name).read_bytes()
    assert read_clip(tmp_path / name, range).shape == (4, 48, 64, 3)


@pytest.mark.parametrize(
    ('name', 'codec'), [('a.mkv', 'libx264'), ('a.webm', 'libvpx-vp9'), ('a.avi', 'mpeg4'), ('a.mp4', 'libx264')]
)
@pytest.mark.parametrize('lost', ['half', 'byte'])
def test_what_is_cut_off_is_said(tmp_path, name, codec, lost):
    file = tmp_path / name
    whole = Path(encode(file, codec, layout={'movflags': 'faststart'} if name == 'a.mp4' else None)).read_bytes()
    read_clip(file, range)
    file.write_bytes(whole[: len(whole) // 2] if lost == 'half' else whole[:-1])
    with pytest.raises(BrokenVideo, match=rf'{name}: truncated: \d+ of (30 frames|{len(whole)} bytes)$'):
        read_clip(file, lambda frames: [0, 1])


def test_what_is_cut_off_is_said_by_the_index_where_the_frames_go_to_the_end_of_the_file(tmp_path):
    file = Path(encode(tmp_path / 'a.mp4', 'libx264', layout={'movflags': 'faststart'}))
    content = file.read_bytes()
    at = content.index(b'mdat') - 4
    content = content[:at] + bytes(4) + content[at + 4 :]  # their box does not say its size
    file.write_bytes(content)
    assert len(read_clip(file, range)) == 30
    file.write_bytes(content[:-1])
    with pytest.raises(BrokenVideo, match=r'a\.mp4: truncated: 29 of 30 frames$'):
        read_clip(file, lambda frames: [0, 1])


@pytest.mark.parametrize('kind', ['a box of 64 bits', 'a second part'])
def test_what_is_cut_off_of_a_large_file_is_said(tmp_path, kind):
    """MP4 and AVI write so what is larger than 4, or 1, gigabytes."""
    file = Path(encode(tmp_path / ('a.mp4' if '64' in kind else 'a.avi'), 'mpeg4'))
    whole = file.read_bytes()
    if '64' in kind:
        at = whole.index(b'free') - 4  # 8 bytes, kept for this
        size = 8 + int.from_bytes(whole[at + 8 : at + 12], 'big')
        whole = whole[:at] + b'\0\0\0\1mdat' + size.to_bytes(8, 'big') + whole[at + 16 :]
    else:
        whole += b'RIFF' + (2000).to_bytes(4, 'little') + b'AVIXJUNK' + (1988).to_bytes(4, 'little') + bytes(1988)
    file.write_bytes(whole)
    assert len(read_clip(file, range)) == 30
    file.write_bytes(whole[:-1000])
    with pytest.raises(BrokenVideo, match=rf'truncated: {len(whole) - 1000} of \d+ bytes$'):
        read_clip(file, range)


def test_a_recording_that_does_not_say_its_length_is_read(tmp_path):
    file = encode(tmp_path / 'a.mkv', 'libx264', layout={'live': '1'}, g='6')
    assert b'\x18\x53\x80\x67\x01' + b'\xff' * 7 in Path(file).read_bytes()  # the segment, of unknown size
    assert check_every_frame(file, 30)[:3] == [0, 1, 2]


@pytest.mark.parametrize('name', ['a.avi', 'a.mkv'])
def test_memory_is_that_of_the_chosen_frames(tmp_path, name):
    """Neither of all frames nor of the content of all packets, of which the file has some 50 MB."""

    def resident(what):
        return int(re.search(rf'{what}:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024

    file = tmp_path / name
    with av.open(str(file), 'w') as container:
        stream = container.add_stream('rawvideo', rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, 'yuv420p'
        frame = av.VideoFrame.from_ndarray(np.zeros((480, 640, 3), np.uint8), format='rgb24')
        for _ in range(120):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    read_clip(file, lambda frames: [0])
    try:
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    except OSError:
        pytest.skip('measured in /proc')
    before = resident('VmRSS')
    read_clip(file, lambda frames: [0, frames - 1])
    assert resident('VmHWM') - before < file.stat().st_size / 4


def test_a_codec_that_nobody_knows_is_named(tmp_path):
    file = Path(write(tmp_path / 'a.mp4'))
    file.write_bytes(file.read_bytes().replace(b'avc1', b'zzzz'))
    with pytest.raises(BrokenVideo, match=r'a\.mp4: its codec is unknown$'):
        read_clip(file, range)


def test_a_wrong_choice_is_no_fault_of_the_file(tmp_path):
    with pytest.raises(UsageError, match='num_frames: expected an integer >= 1, got 0') as caught:
        read_clip(write(tmp_path / 'a.mp4'), lambda frames: sample_uniform(frames, 0)[0])
    assert not isinstance(caught.value, BrokenVideo)


def test_uniform_sampling_stays_inside_whatever_is_drawn(monkeypatch):
    monkeypatch.setattr(random, 'random', lambda: 1 - 2**-53)
    assert sample_uniform(8, 8, training=True)[0][-1] == 7
