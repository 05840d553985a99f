"""Time and memory of a clip against its number of frames, each measured in a fresh process.

The baseline of VideoMamba is a ViT that attends over all tokens of the clip at once: joint space-time attention
(arXiv:2102.05095, Sec. 3), whose time grows with the square of the frames.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, NamedTuple

import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

import vimamba.models  # noqa: F401  (registers with timm, in each process)
from vimamba.errors import UsageError
from vimamba.memory import peak_memory
from vimamba.profile.benchmark import interleaved, row, step, with_dense_layers

__all__ = ['CAUSAL', 'JOINT', 'MODELS', 'TRAINING', 'ClipCost', 'JointViT', 'plan', 'time_clips']

JOINT = 'joint space-time ViT-T'


class JointViT(VisionTransformer):
    """ViT-T over all tokens of a clip at once: timm's, which reads the frames as one tall image.

    Args:
        num_frames: frames of a clip.
        img_size: pixels of a side of a frame; those beyond a multiple of 16 are left out.
        num_classes, options: arguments of timm's VisionTransformer.

    Shape: (b, 3, T, H, W) -> (b, num_classes), over T * (H // 16) * (W // 16) tokens and a class token.
    """

    def __init__(self, num_frames: int, img_size: int = 224, num_classes: int = 400, **options: Any):
        side = img_size // 16 * 16
        sizes: dict[str, Any] = {'img_size': (num_frames * side, side), 'embed_dim': 192, 'num_heads': 3}
        super().__init__(num_classes=num_classes, **sizes, **options)
        self.side = side

    def forward(self, clip: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(clip[..., : self.side, : self.side].flatten(2, 3))


class ClipCost(NamedTuple):
    """One measurement."""

    model: str  # of timm, or `JOINT`
    frames: int
    size: int = 224  # pixels of a side
    training: bool = False  # forward and backward, instead of inference
    checkpointing: bool = False  # activation checkpointing per block
    chunk_frames: int = 0  # see `VideoMamba`

    @property
    def case(self) -> str:
        return f'{self.frames} frames of {self.size} px'

    @property
    def name(self) -> str:
        parts = f', {self.chunk_frames} frames at a time' * bool(self.chunk_frames)
        return self.model + parts + ', recomputed' * self.checkpointing

    def build(self) -> nn.Module:
        if self.model == JOINT:
            model: Any = with_dense_layers(JointViT(self.frames, self.size))
        else:
            options: dict[str, Any] = {'chunk_frames': self.chunk_frames} if self.chunk_frames else {}
            try:
                model = timm.create_model(self.model, num_frames=self.frames, img_size=self.size, **options)
            except TypeError:
                raise UsageError(f'{self.model} takes images; choose a model of clips') from None
        if self.checkpointing:
            model.set_grad_checkpointing()
        return model.train(self.training)


MODELS = ('videomamba_tiny_patch16_224_f8', JOINT)
CAUSAL = 'videomamba_tiny_causal_patch16_224'
TRAINING: tuple[dict[str, Any], ...] = (
    {}, {'checkpointing': True}, {'chunk_frames': 8}, {'chunk_frames': 8, 'checkpointing': True},
)  # fmt: skip


def plan(
    frames: Iterable[int], sizes: Iterable[int], models: Sequence[str] | None = None, training: bool = False
) -> list[ClipCost]:
    """The measurements of models, by default `MODELS`, or for training a causal one in each way that saves memory."""
    ways = TRAINING if training and models is None else ({},)
    chosen = models or ((CAUSAL,) if training else MODELS)
    return [
        ClipCost(model, n, size, training, **way) for size in sizes for n in frames for model in chosen for way in ways
    ]


def time_clips(
    costs: Iterable[ClipCost], device: torch.device, dtype: torch.dtype, repeats: int,
    prepare: Callable[[], object] | None = None,
) -> Iterator[dict]:  # fmt: skip
    """Yields rows of the results file: of one clip on the CPU, of the largest batch, a power of 2, that fits or takes
    half a second on a GPU.

    Memory is the peak of the process on the CPU, and of PyTorch's tensors on a GPU. ``prepare`` runs first in every
    process.

    Raises:
        UsageError: a process was killed, as the system does when it is out of memory.
    """
    for cost in costs:
        with ProcessPoolExecutor(1, get_context('spawn'), prepare) as process:
            try:
                yield process.submit(measure, cost, device, dtype, repeats, torch.get_num_threads()).result()
            except BrokenProcessPool:
                raise UsageError(f'{cost.name}, {cost.case}: memory does not suffice; take fewer') from None


def measure(cost: ClipCost, device: torch.device, dtype: torch.dtype, repeats: int, threads: int) -> dict:
    """Measures one row in this process, whose peak memory should be due to nothing else."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, batch = cost.build().to(device), 1

    def prepared(batch: int) -> Callable[[], object]:
        clips = torch.randn(batch, 3, cost.frames, cost.size, cost.size, device=device)
        return step(model, clips, dtype, cost.training)

    if device.type == 'cuda':
        batch = largest_batch(lambda batch: (prepared(batch)(), torch.cuda.synchronize(device)))  # type: ignore[func-returns-value]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    times = interleaved({cost.name: prepared(batch)}, device, repeats)[cost.name]
    known = {'what': 'clip', 'case': cost.case, 'implementation': cost.name, 'tokens': _tokens(model, cost)}
    known |= {'direction': 'forward + backward' if cost.training else 'forward'}
    return row(times, dtype, batch=batch, memory_mib=f'{peak_memory(device):.0f}', **known)


def _tokens(model: nn.Module, cost: ClipCost) -> int:
    """Patches of a clip."""
    patches = next(module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
    kernel, stride = ((1, *sides)[-3:] for sides in (patches.kernel_size, patches.stride))
    sides = zip((cost.frames, cost.size, cost.size), kernel, stride)
    return math.prod((side - patch) // step + 1 for side, patch, step in sides)


def largest_batch(run: Callable[[int], object], seconds: float = 0.5) -> int:
    """Returns the largest power of 2 for which ``run`` does not run out of a GPU's memory.

    The search stops at a run of more than ``seconds``: so busy a GPU gains nothing from a larger batch.

    Raises:
        UsageError: not even a batch of 1 fits.

    >>> def run(batch):
    ...     if batch > 12:
    ...         raise torch.OutOfMemoryError
    >>> largest_batch(run)
    8
    >>> largest_batch(run, seconds=0)
    2
    """

    def fits(batch: int) -> bool:
        try:
            run(batch)
        except torch.OutOfMemoryError:
            return False
        return True

    batch = 1
    if not fits(batch):
        raise UsageError('not even one clip fits in the memory of this GPU: choose fewer frames')
    while fits(2 * batch):
        batch *= 2
        start = time.perf_counter()
        run(batch)  # again: the first run may have compiled kernels
        if time.perf_counter() - start > seconds:
            break
    return batch
