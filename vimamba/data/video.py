"""Video files in, 8-bit RGB frames out, and a broken file always named.

In MP4, MOV, Matroska and WebM frames are found by their times: the packets of a file are listed without decoding them,
the chosen ones are decoded from the key frame before each, and nothing else. Other files are decoded from the begin,
once to count their frames and once for those that are chosen. Decoding takes no thread of its own.
"""

from __future__ import annotations

import os
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from vimamba.data.image import BrokenImage
from vimamba.errors import UsageError, check_integers

__all__ = ['VIDEO_EXTENSIONS', 'BrokenVideo', 'read_clip', 'sample_dense', 'sample_uniform', 'stream_frames']

VIDEO_EXTENSIONS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')

# FFmpeg's names of what is read: not the lists and scripts that have it open further files
_FORMATS = {'asf', 'avi', 'flv', 'gif', 'h264', 'hevc', 'm4v', 'matroska', 'mov', 'mpeg', 'mpegts', 'mpegvideo', 'ogg'}

Choose = Callable[[int], Sequence[int]]


class BrokenVideo(BrokenImage):
    """A file that cannot be read as a video."""


def read_clip(path: str | os.PathLike[str], choose: Choose) -> np.ndarray:
    """Chosen frames of a video file.

    Args:
        path: the file.
        choose: number of frames in the file -> which of them, ascending or not, repeated or not.

    Returns:
        (T, H, W, 3) uint8, RGB, upright.

    Raises:
        BrokenVideo: the file is missing, empty, no video, truncated, of one frame only, or of frames of several sizes.
        UsageError: PyAV is not installed.
    """
    path = os.fspath(path)
    av = video_library()
    try:
        if not os.path.isfile(path):
            raise ValueError('no such file')
        if not os.path.getsize(path):
            raise ValueError('the file is empty (0 bytes)')
        with av.open(path) as container:
            stream = _stream(container)
            packets = [packet for packet in container.demux(stream) if packet.size]
            _check_whole(container, stream, len(packets), max(map(_end, packets), default=0.0))
            keys = sorted(packet.pts for packet in packets if packet.is_keyframe and packet.pts is not None)
            packets = [packet for packet in packets if not packet.is_discard]  # cut off without encoding anew
            times = sorted(packet.pts for packet in packets if packet.pts is not None)
            timed = {'mov', 'matroska'} & set(container.format.name.split(','))  # others have no index of exact times
            if timed and len(times) == len(packets) == len(set(times)):
                chosen = [times[index] for index in choose(_enough(len(times)))]
                frames: Any = _decode(container, stream, sorted(set(chosen)), keys or times)
            else:
                with av.open(path) as again:
                    count = sum(1 for _ in again.decode(_stream(again)))
                chosen = list(choose(_enough(count)))
                wanted = set(chosen)
                frames = {i: frame for i, frame in enumerate(stream_frames(path)) if i in wanted}
            return np.stack([frames[time] for time in chosen])
    except BrokenVideo:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise BrokenVideo(path, ' '.join(reason.split())) from error


def stream_frames(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """The frames of a video file one after another, each (H, W, 3) uint8: memory does not grow with their number.

    Raises:
        BrokenVideo: as of `read_clip`, once it is found.
    """
    path = os.fspath(path)
    av = video_library()
    try:
        with av.open(path) as container:
            stream, size = _stream(container), None
            for frame in container.decode(stream):
                yield _pixels(frame, size)
                size = (frame.width, frame.height)
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise BrokenVideo(path, ' '.join(reason.split())) from error


def sample_uniform(frames: int, count: int, clips: int = 1, training: bool = False) -> list[list[int]]:
    """``count`` frames, one of each of as many equal parts of a video (TSN, arXiv:1608.00859, Sec. 3.1).

    In training, at random within its part, by Python's generator; else evenly spaced, ``clips`` times, each a little
    later. A video of fewer frames repeats some.

    >>> sample_uniform(16, 4), sample_uniform(16, 4, clips=2), sample_uniform(2, 4)
    ([[2, 6, 10, 14]], [[1, 5, 9, 13], [3, 7, 11, 15]], [[0, 0, 1, 1]])
    """
    check_integers(1, frames=frames, num_frames=count, num_clips=clips)
    views = []
    for view in range(clips):
        within = [random.random() if training else (view + 0.5) / clips for _ in range(count)]
        views.append([int((i + part) * frames / count) for i, part in enumerate(within)])
    return views


def sample_dense(frames: int, count: int, interval: int = 4, clips: int = 1, training: bool = False) -> list[list[int]]:
    """``count`` frames with ``interval`` from one to the next (SlowFast, arXiv:1812.03982, Sec. 4).

    In training from a random start, else from ``clips`` evenly spaced ones. Behind the end the last frame is repeated.

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
        raise UsageError('videos are decoded by PyAV, which is not installed: pip install vimamba[video]') from None
    av.logging.set_level(av.logging.PANIC)  # FFmpeg's own lines; a mistake is told in ours
    return av


def _stream(container: Any) -> Any:
    if not _FORMATS & set(container.format.name.split(',')):
        raise ValueError(f'{container.format.name} is no format of videos')
    if not container.streams.video:
        raise ValueError('no video stream in it')
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ValueError('no codec is known for it')
    stream.thread_type, stream.codec_context.thread_count = 'NONE', 1
    return stream


def _check_whole(container: Any, stream: Any, packets: int, end: float) -> None:
    """Whether there are as many packets as a file says, and as long a time, of which ``end`` is the last, in seconds.

    MP4 also counts what was cut off without encoding anew: if its time is there, so are its frames. Matroska and WebM
    say the time alone; a last frame may be long there.
    """
    kinds = container.format.name.split(',')
    if stream.frames > packets:
        frame = 1 / float(stream.average_rate or 1)
        if 'mov' not in kinds or not stream.duration or end < stream.duration * stream.time_base - frame / 2:
            raise ValueError(f'truncated: {packets} of {stream.frames} frames')
    said = re.fullmatch(r'(\d+):(\d+):([\d.]+)', stream.metadata.get('DURATION', ''))
    if 'matroska' in kinds and said:
        length = 3600 * int(said[1]) + 60 * int(said[2]) + float(said[3])
        if end < min(0.9 * length, length - 0.5):
            raise ValueError(f'truncated: {end:.1f} of {length:.1f} s')


def _end(packet: Any) -> float:
    """Of the time that a packet is shown, in seconds; 0 where it does not say it."""
    return 0.0 if packet.pts is None else float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _enough(frames: int) -> int:
    if frames < 2:
        raise ValueError(f'{frames} frame(s); a video has at least 2')
    return frames


def _decode(container: Any, stream: Any, wanted: list[int], keys: list[int]) -> dict[int, np.ndarray]:
    """The frames of ascending times; each run of them from the key frame before it."""
    found: dict[int, np.ndarray] = {}
    size = None
    for key, group in groupby(wanted, lambda time: bisect_right(keys, time)):
        missing = set(group)
        container.seek(keys[max(key - 1, 0)], stream=stream)
        for frame in container.decode(stream):
            if frame.pts in missing:
                found[frame.pts] = _pixels(frame, size)
                size = (frame.width, frame.height)
                missing.remove(frame.pts)
                if not missing:
                    break
        if missing:
            raise ValueError(f'the frame at {float(min(missing) * stream.time_base):.2f} s cannot be decoded')
    return found


def _pixels(frame: Any, size: tuple[int, int] | None) -> np.ndarray:
    if size not in (None, (frame.width, frame.height)):
        raise ValueError(f'frames of several sizes, {size[0]} x {size[1]} and {frame.width} x {frame.height} pixels')
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format='rgb24'), round(frame.rotation / 90)))
