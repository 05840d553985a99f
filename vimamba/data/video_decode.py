"""Decodes video files to 8-bit RGB frames; an error always names the file.

If a file has an index of its key frames (MP4, MOV, Matroska, WebM), frames are found by their times: the packets are
listed without decoding them, and each chosen frame is decoded from the key frame before it. In other files, or if that
fails, all frames are decoded and the chosen ones kept. Decoding starts no threads.
"""

from __future__ import annotations

import os
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vimamba.data.files import Root
from vimamba.data.image import BrokenImage
from vimamba.errors import UsageError, check_integers

__all__ = ['VIDEO_EXTENSIONS', 'BrokenVideo', 'read_clip', 'sample_dense', 'sample_uniform', 'timed_frames']

VIDEO_EXTENSIONS = ('.3gp', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv',
                    '.ts', '.webm', '.wmv')  # fmt: skip

# FFmpeg's names of the formats that are read; lists and scripts, which would open further files, are not among them
_FORMATS = {'asf', 'avi', 'flv', 'gif', 'h264', 'hevc', 'm4v', 'matroska', 'mov', 'mpeg', 'mpegts', 'mpegvideo', 'ogg'}

_BOXES = {b'ftyp', b'free', b'mdat', b'meta', b'mfra', b'moof', b'moov', b'sidx', b'skip', b'styp', b'uuid', b'wide'}

Choose = Callable[[int], Sequence[int]]


class BrokenVideo(BrokenImage):
    """A file that cannot be read as a video."""


def read_clip(path: Root, choose: Choose) -> np.ndarray:
    """Chosen frames of a video file.

    Args:
        path: the file.
        choose: function from the number of frames to the chosen ones, in any order, possibly repeated.

    Returns:
        (T, H, W, 3) uint8, RGB, upright.

    Raises:
        BrokenVideo: the file is missing, empty, not a video or truncated, or has one frame or several sizes.
        UsageError: PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        packets = _packets(container, stream)
        frames = _sought(container, stream, packets, choose) if _indexed(container, packets) else None
        if frames is None:
            frames = _scanned(path, sum(packet.shown for packet in packets), choose)
        for frame in frames:
            _check_size(frame, frames[0])
        return np.stack(frames)


def timed_frames(path: Root) -> Iterator[tuple[float, np.ndarray]]:
    """The time in seconds and the pixels (H, W, 3) uint8 of each frame in turn, in memory that does not grow.

    A time that the file does not give is computed from the number of the frame and the frame rate.

    Raises:
        BrokenVideo: as in `read_clip`, when the fault is reached; a truncated file first gives its intact frames.
    """
    with _opened(path, whole=False) as (container, stream):
        first, whole, count = None, 0, 0
        for packet in container.demux(stream):
            whole += bool(packet.size) and not packet.is_corrupt
            for frame in packet.decode():
                seconds = float(count / (stream.average_rate or 1)) if frame.time is None else frame.time
                pixels = _pixels(frame)
                first = pixels if first is None else first
                _check_size(pixels, first)
                yield seconds, pixels
                count += 1
        _check_count(container, stream, whole)
        if short := _shortfall(path):
            raise ValueError(short)
        _enough(count)


def _check_size(frame: np.ndarray, first: np.ndarray) -> None:
    if frame.shape != first.shape:
        sizes = ' and '.join(f'{shape[1]} x {shape[0]}' for shape in (first.shape, frame.shape))
        raise ValueError(f'frames of several sizes, {sizes} pixels')


def sample_uniform(frames: int, count: int, clips: int = 1, training: bool = False) -> list[list[int]]:
    """``count`` frames, one from each of ``count`` equal parts of a video (TSN, arXiv:1608.00859, Sec. 3.1).

    In training, frames are drawn at random within their parts, by Python's generator; otherwise they are evenly spaced,
    for each of ``clips`` views a little later. A shorter video repeats frames.

    >>> sample_uniform(16, 4), sample_uniform(16, 4, clips=2), sample_uniform(2, 4)
    ([[2, 6, 10, 14]], [[1, 5, 9, 13], [3, 7, 11, 15]], [[0, 0, 1, 1]])
    """
    check_integers(1, frames=frames, num_frames=count, num_clips=clips)
    views = []
    for view in range(clips):
        within = [random.random() if training else (view + 0.5) / clips for _ in range(count)]
        views.append([min(int((i + part) * frames / count), frames - 1) for i, part in enumerate(within)])  # rounding
    return views


def sample_dense(frames: int, count: int, interval: int = 4, clips: int = 1, training: bool = False) -> list[list[int]]:
    """``count`` frames, ``interval`` apart (SlowFast, arXiv:1812.03982, Sec. 4).

    In training, from a random start, otherwise from ``clips`` evenly spaced ones. The last frame is repeated after the
    end.

    >>> sample_dense(16, 3, 4, clips=2), sample_dense(4, 3, 2)
    ([[0, 4, 8], [7, 11, 15]], [[0, 2, 3]])
    """
    check_integers(1, frames=frames, num_frames=count, frame_interval=interval, num_clips=clips)
    room = max(0, frames - (count - 1) * interval - 1)
    if training:
        starts = [random.randint(0, room) for _ in range(clips)]
    else:
        starts = [room // 2] if clips == 1 else [view * room // (clips - 1) for view in range(clips)]
    return [[min(start + i * interval, frames - 1) for i in range(count)] for start in starts]


def video_library() -> Any:
    try:
        import av
    except ImportError:
        raise UsageError('videos need PyAV, which is not installed: pip install vimamba[video]') from None
    av.logging.set_level(av.logging.PANIC)  # silences FFmpeg: errors are raised instead
    return av


@contextmanager
def _opened(path: Root, whole: bool = True) -> Iterator[tuple[Any, Any]]:
    """The container and the video stream of a file. Errors while opening it, and inside, become a `BrokenVideo`.

    ``whole`` refuses a file that is shorter than its header says.
    """
    path = os.fspath(path)
    av = video_library()
    try:
        if not os.path.isfile(path):
            missing = 'not a regular file' if os.path.exists(path) else 'no such file'
            raise ValueError('a folder' if os.path.isdir(path) else missing)
        if not os.path.getsize(path):
            raise ValueError('the file is empty (0 bytes)')
        if whole and (short := _shortfall(path)):
            raise ValueError(short)
        with av.open(path, metadata_errors='replace') as container:
            name = container.format.name
            if name == 'image2' or name.endswith('_pipe'):
                raise ValueError('an image, not a video')
            if not _FORMATS & set(name.split(',')):
                raise ValueError(f'{name} is not a video format')
            stream = container.streams.best('video')  # not a cover picture that comes before it
            if stream is None:
                raise ValueError('no video stream in it')
            if stream.codec_context is None:
                raise ValueError('its codec is unknown')
            stream.thread_type, stream.codec_context.thread_count = 'NONE', 1
            yield container, stream
    except UsageError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        readable = os.path.isfile(path) and os.access(path, os.R_OK)
        reason = (readable and _shortfall(path)) or getattr(error, 'strerror', None) or str(error)
        if isinstance(error, av.error.InvalidDataError) and not reason.startswith('truncated'):
            reason = f'not a video that FFmpeg can read ({reason})'
        raise BrokenVideo(path, ' '.join(reason.split())) from error


def _shortfall(path: Root) -> str:
    """How many bytes a file has, if its header says more; otherwise ''."""
    size, said = os.path.getsize(path), _said_length(path)
    return f'truncated: {size} of {said} bytes' if said > size else ''


def _said_length(path: Root) -> int:
    """The least size in bytes by the header of an AVI, MP4, MOV, Matroska or WebM file; 0 if it gives none."""
    with open(path, 'rb') as file:
        head, total, end = file.read(4096) + bytes(16), os.fstat(file.fileno()).st_size, 0
        if head.startswith(b'\x1a\x45\xdf\xa3'):  # EBML
            segment = sum(_ebml_size(head, 4))
            return sum(_ebml_size(head, segment + 4)) if head[segment:].startswith(b'\x18\x53\x80\x67') else 0
        if head.startswith(b'RIFF') or head[4:8] == b'ftyp':
            while end < total and (size := _chunk_size(file, end)):
                end += size
        return end


def _chunk_size(file: BinaryIO, start: int) -> int:
    """The size of a RIFF chunk, or of an MP4 or MOV box of a known type (ISO 14496-12, Sec. 4.2); 0 for any other."""
    file.seek(start)
    head = file.read(16)
    if head.startswith(b'RIFF'):  # an AVI of more than a gigabyte has several
        return 8 + int.from_bytes(head[4:8], 'little')
    size = int.from_bytes(head[:4], 'big')
    if size == 1:  # the size follows the type
        size = int.from_bytes(head[8:16], 'big')
    return size if head[4:8] in _BOXES and size >= 8 else 0  # a box of size 0 ends with the file


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """The size of an element (RFC 8794, Sec. 6), 0 if unknown, as in a live recording, and the start of its content."""
    width = 9 - data[at].bit_length()
    unknown = (1 << 7 * width) - 1
    size = int.from_bytes(data[at : at + width], 'big') & unknown
    return size % unknown, at + width


class _Packet(NamedTuple):
    time: Any  # int, or None if the file does not give it
    key: bool
    shown: bool  # False outside the edit list of an MP4 file: only other frames need it


def _packets(container: Any, stream: Any) -> list[_Packet]:
    """The packets of a stream, without their data."""
    packets, whole = [], 0
    for packet in container.demux(stream):
        if packet.size:
            packets.append(_Packet(packet.pts, packet.is_keyframe, not packet.is_discard))
            whole += not packet.is_corrupt  # for example, cut by the end of the file
    _check_count(container, stream, whole)
    return packets


def _check_count(container: Any, stream: Any, whole: int) -> None:
    # from the index, since stream.frames also counts frames outside the edit list
    said = sum(entry.size > 0 for entry in stream.index_entries) if 'mp4' in container.format.name else 0
    if said > whole:
        raise ValueError(f'truncated: {whole} of {said} frames')


def _enough(frames: int) -> int:
    if frames < 2:
        raise ValueError(f'{frames} frame(s); a video has at least 2')
    return frames


def _indexed(container: Any, packets: list[_Packet]) -> bool:
    """Whether a file has an index of key frames and a time for each frame, and begins with a key frame.

    It is unknown how many of the frames before the first key frame can be decoded.
    """
    times = [packet.time for packet in packets]
    known = bool(times) and None not in times and len(set(times)) == len(times)
    formats = container.format.name.split(',')
    return known and ('mp4' in formats or 'matroska' in formats) and packets[0].key and times[0] == min(times)


def _sought(container: Any, stream: Any, packets: list[_Packet], choose: Choose) -> list[np.ndarray] | None:
    """The chosen frames, each run decoded from the key frame before it; None if the decoder does not give them all."""
    times = sorted(packet.time for packet in packets if packet.shown)
    keys = sorted(packet.time for packet in packets if packet.key)
    chosen = [times[index] for index in choose(_enough(len(times)))]
    found: dict[int, np.ndarray] = {}
    try:
        for key, group in groupby(sorted(set(chosen)), lambda time: keys[bisect_right(keys, time) - 1]):
            missing = set(group)
            begin, end = times[bisect_left(times, key)], max(missing)
            container.seek(key, stream=stream)
            for number, frame in enumerate(container.decode(stream)):
                if frame.pts is None or (number == 0 and frame.pts > begin):  # not really a key frame: intra refresh
                    break
                if frame.pts in missing:
                    found[frame.pts] = _pixels(frame)
                    missing.remove(frame.pts)
                if not missing or frame.pts >= end:
                    break
            if missing:
                return None
    except video_library().error.FFmpegError:
        return None
    return [found[time] for time in chosen]


def _scanned(path: Root, count: int, choose: Choose) -> list[np.ndarray]:
    """The chosen frames, of all that are decoded; a right guess of their ``count`` saves decoding them twice."""
    while True:
        chosen = [range(count)[index] for index in choose(_enough(count))]
        found: dict[int, np.ndarray] = {}
        guess, count = count, 0
        with _opened(path) as (container, stream):
            for frame in container.decode(stream):
                if count in chosen:
                    found[count] = _pixels(frame)
                count += 1
        if count == guess:
            return [found[index] for index in chosen]


def _pixels(frame: Any) -> np.ndarray:
    """(H, W, 3), turned to the nearest quarter, or mirrored, by the display matrix of the frame."""
    pixels = frame.to_ndarray(format='rgb24', threads=1)  # by default it starts one thread per core for each frame
    # frame.side_data would keep the frame alive by a reference cycle
    matrix = video_library().sidedata.sidedata.SideDataContainer(frame).get('DISPLAYMATRIX')
    if matrix is not None:
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]  # a place (x, y) is shown at (a x + c y, b x + d y)
        if abs(b) > abs(a):
            pixels, a, d = pixels.swapaxes(0, 1), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)
