"""Measures peak memory and speed of a causal model on a stream of 256 frames, with decoding; writes stream.csv."""

import argparse
import csv
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import timm
import torch
from digits import commit, cpu_name

from vimamba.data.video_decode import read_clip, video_library
from vimamba.memory import peak_memory
from vimamba.tasks.predict.classify import load_classifier
from vimamba.tasks.predict.stream import stream

ROOT = Path(__file__).parents[1]
MODEL, FRAMES, SIZE = 'videomamba_tiny_causal_patch16_224', 256, (320, 240)


def write_video(path: str) -> None:
    """Encodes a disc that drifts over noise."""
    av, rand = video_library(), np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    with av.open(path, 'w') as container:
        video = container.add_stream('libx264', rate=25, options={'threads': '1'})
        video.width, video.height, video.pix_fmt = *SIZE, 'yuv420p'
        for i in range(FRAMES):
            image = rand.integers(0, 60, (SIZE[1], SIZE[0], 3), np.uint8)
            image[(x - 30 - i) ** 2 + (y - 120) ** 2 < 900] = (240, i % 256, 80)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        container.mux(video.encode())


def watch(checkpoint: str, path: str) -> list[tuple[int, float, float]]:
    """Frames so far, peak memory of this process in MiB and frames per second, every 16 frames."""
    torch.set_num_threads(1)
    rows = stream(load_classifier(MODEL, checkpoint), path)
    return [(row.frames, peak_memory(), row.rate) for row in rows]  # type: ignore[union-attr]


def difference(checkpoint: str, path: str) -> float:
    """Relative L2 between the scores of the stream and those of all frames as one clip."""
    classifier = load_classifier(MODEL, checkpoint)
    clip, state = classifier.transform(read_clip(path, range))[None], None
    with torch.inference_mode():
        together = classifier.model(clip)
        for frame in clip.split(1, 2):
            scores, state = classifier.model.step(frame, state)  # type: ignore[operator]
    return float((scores - together).norm() / together.norm())


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, path = f'{folder}/model.pth', f'{folder}/video.mp4'
        model = timm.create_model(MODEL)
        torch.nn.init.normal_(model.get_classifier().weight, std=0.1)
        torch.save(model.state_dict(), checkpoint)
        write_video(path)
        with ProcessPoolExecutor(1, get_context('spawn')) as process:  # peak memory excludes that of this process
            measured = process.submit(watch, checkpoint, path).result()
        error = difference(checkpoint, path)
    where = {'date': date.today().isoformat(), 'cpu': cpu_name(), 'torch': torch.__version__, 'commit': commit()}
    rows = [
        {'model': MODEL, 'video': 'x'.join(map(str, SIZE)), 'frames': frames, 'memory_mib': f'{memory:.1f}',
         'frames_per_second': f'{rate:.1f}', 'difference': f'{error:.1e}' if frames == FRAMES else '', **where}
        for frames, memory, rate in measured if frames & (frames - 1) == 0
    ]  # fmt: skip
    with open(ROOT / 'benchmarks/stream.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row, file=sys.stderr)


if __name__ == '__main__':
    main()
