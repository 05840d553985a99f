"""The training loop, which can start in the middle of an epoch, and the evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine import dist
from mmengine.runner import BaseLoop
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vimamba.data import BrokenImage
from vimamba.errors import UsageError
from vimamba.memory import peak_memory
from vimamba.visualize.samples import picture

from .optim import NonFinite, autocast
from .state import TrainingState

__all__ = ['EvalLoop', 'Sample', 'TrainLoop', 'evaluate']

_SHOWN = 8  # validation images that TensorBoard shows


class TrainLoop(BaseLoop):
    """Epochs of `TrainingState.steps_per_epoch` batches, from the position of the state::

        for batch in loop.run():
            with loop.step(batch) as losses:
                losses.update(model(*batch, mode='loss'))

    Hooks are called as mmengine calls them, and ``after_epoch`` when an epoch has been trained and evaluated.
    """

    def __init__(self, runner: Any, dataloader: DataLoader, state: TrainingState) -> None:
        super().__init__(runner, dataloader)
        self.state = state

    @property
    def epoch(self) -> int:
        return self.state.epoch

    @property
    def iter(self) -> int:
        return self.state.step

    @property
    def max_epochs(self) -> int:
        return self.state.config.schedule.epochs

    @property
    def max_iters(self) -> int:
        return self.max_epochs * self.state.steps_per_epoch

    def run(self) -> Iterator[list[Any]]:
        """The batches of the run, each to be trained on in `step`."""
        state = self.state
        state.update.initialize_count_status(self.runner.model, self.iter, self.max_iters)
        self.runner.call_hook('before_train')
        while state.epoch < self.max_epochs or state.unevaluated:
            if not state.unevaluated:
                yield from self._epoch()
            metrics = {}
            if state.unevaluated:
                metrics = self.runner.val_loop.run()
                state.unevaluated = False
            self.runner.call_hook('after_epoch', metrics=metrics)
        self.runner.call_hook('after_train')

    def _epoch(self) -> Iterator[list[Any]]:
        """The batches of the current epoch that are left."""
        state = self.state
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self.dataloader.sampler.set_epoch(state.epoch, start=state.position * state.config.data.batch_size)  # type: ignore[union-attr]
        batches = iter(self.dataloader)
        state.restore_rng()
        yield from batches
        assert state.position == state.steps_per_epoch, 'the loader gave another number of batches than its length'
        state.epoch, state.position = state.epoch + 1, 0
        state.unevaluated = state.epoch % state.config.run.val_interval == 0 or state.epoch == self.max_epochs
        self.runner.call_hook('after_train_epoch')

    @contextmanager
    def step(self, batch: list[Any]) -> Iterator[dict[str, Tensor]]:
        """Yields a dictionary for the losses of a forward pass; then backward, and at the end of a window the update.

        Raises:
            UsageError: a loss or gradient is not finite, or memory does not suffice.
        """
        state, index, losses = self.state, self.state.position, dict[str, Tensor]()
        state.schedule.step_update(state.step)
        self.runner.call_hook('before_train_iter', batch_idx=index, data_batch=batch)
        try:
            with state.update.optim_context(self.runner.model):
                yield losses
            total: Any = sum(losses.values())
            state.update.update_params(total)
        except NonFinite as error:
            where = self._first_bad_module(error, batch)
            raise UsageError(
                f'{error} at step {state.step + 1} (epoch {state.epoch + 1}, batch {index + 1}) on rank '
                f'{dist.get_rank()}, first in {where}; stopped before the update, so the weights are those of step '
                f'{state.step}: try a lower optim.lr, optim.clip_grad, or run.amp bf16 or None'
            ) from error
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f'out of memory at step {state.step + 1}: batch of {len(batch[0])} x {tuple(batch[0][0].shape)}, '
                f'peak {peak_memory(state.device) / 2**10:.1f} GiB: halve data.batch_size and double optim.accumulate, '
                'or run.grad_checkpointing=True'
            ) from error
        state.position += 1
        if state.ema and state.update.should_update():
            state.ema.update(state.task, step=state.step // state.config.optim.accumulate)
        outputs = {'loss': total, **losses}
        self.runner.call_hook('after_train_iter', batch_idx=index, data_batch=batch, outputs=outputs)

    def _first_bad_module(self, error: NonFinite, batch: list[Any]) -> str:
        """Where it began: for a gradient the last parameter that has a bad one, for a loss the first bad output."""
        state = self.state
        if not all(torch.isfinite(part).all() for part in tensors_in(batch)):
            return 'the images of the batch'
        bad = [name for name, p in state.task.model.named_parameters() if not torch.isfinite(p).all()]
        if bad:
            return f'the weights {bad[0]}'
        if error.what == 'gradient':
            grads = ((name, p.grad) for name, p in state.task.model.named_parameters() if p.grad is not None)
            return [name for name, grad in grads if not torch.isfinite(grad).all()][-1]
        found: list[str] = []

        def inspect(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            if not all(torch.isfinite(part).all() for part in tensors_in(output)):
                found.append(name)

        modules = state.task.model.named_modules()
        handles = [module.register_forward_hook(partial(inspect, name)) for name, module in modules if name]
        with torch.no_grad(), autocast(state.device, state.config.run.amp):
            state.task(*each_tensor(batch, lambda part: part.to(state.device)), mode='loss')
        for handle in handles:
            handle.remove()
        return f'the output of {found[0]}' if found else 'the loss itself'


class EvalLoop(BaseLoop):
    """Evaluates `TrainingState.evaluated` on the validation images."""

    def __init__(self, runner: Any, dataloader: DataLoader, state: TrainingState) -> None:
        super().__init__(runner, dataloader)
        self.state = state

    def run(self) -> dict[str, float]:
        state = self.state
        self.runner.call_hook('before_val')
        for buffer in (*state.task.buffers(), *state.evaluated.buffers()):  # running statistics
            dist.broadcast(buffer)
        state.sample = Sample(_SHOWN)
        try:
            metric = evaluate(state.evaluated, self.dataloader, state.device, state.config.run.amp, state.sample)
        except BrokenImage as error:
            raise UsageError(
                f'{error}; an evaluation leaves none out: mend or remove it, then --resume goes on from here'
            ) from error
        self.runner.call_hook('after_val')
        return metric.compute()


@torch.inference_mode()
def evaluate(
    task: Any,
    loader: DataLoader,
    device: torch.device,
    amp: str | None = None,
    sample: 'Sample | None' = None,
) -> Any:
    """The metric of a task over a loader, exact over all processes: each image counts once.

    The task is on ``device``. ``sample`` collects some images with their targets and outputs, to be looked at.
    """
    task.eval()
    metric = task.metric()
    samples: Any = loader.sampler
    keys = iter(samples)
    for images, targets in loader:
        paths = [loader.dataset.sample_path(next(keys).item) for _ in targets]  # type: ignore[attr-defined]
        with autocast(device, amp):
            outputs = task(each_tensor(images, lambda part: part.to(device, non_blocking=True)), mode='predict')
        outputs = each_tensor(outputs, lambda part: (part.float() if part.is_floating_point() else part).cpu())
        if isinstance(targets, Tensor):
            real = targets >= 0
            rows = real.nonzero()[:, 0].tolist()
            images, targets, outputs = images[real], targets[real], outputs[real]
        else:
            rows = [i for i, target in enumerate(targets) if target is not None]
            images, targets, outputs = ([part[i] for i in rows] for part in (images, targets, outputs))
        metric.update(outputs, targets)
        if sample:
            sample.add(task, images, targets, outputs, [paths[row] for row in rows])
    for value in metric.state.values():
        dist.all_reduce(value)
    metric.records = [record for part in dist.all_gather_object(metric.records) for record in part]
    return metric


class Sample:
    """A few images with their targets, outputs and paths; mistakes first.

    Copies of what pictures show are kept, not whole batches.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: dict[bool, list[tuple[Any, Any, Any, str]]] = {True: [], False: []}

    def add(self, task: Any, images: Any, targets: Any, outputs: Any, paths: Sequence[str]) -> None:
        for image, target, output, path in zip(images, targets, outputs, paths):
            kept = self.kept[task.mistaken(output, target)]
            if len(kept) < self.size:
                copies = each_tensor([task.shown(image), target, output], Tensor.clone)
                kept.append((*copies, path))

    def picture(self, task: Any) -> Any:
        """All of them as one picture."""
        chosen = (self.kept[True] + self.kept[False])[: self.size]
        images, targets, outputs, paths = ([row[i] for row in chosen] for i in range(4))
        return picture(task.name, task.pixels(images), targets, outputs, task.classes, paths)


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Lists and dictionaries with every tensor in them changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: each_tensor(item, change) for key, item in value.items()}
    return [each_tensor(item, change) for item in value] if isinstance(value, list | tuple) else value


def tensors_in(value: Any) -> list[Tensor]:
    """All of them, in their order."""
    found: list[Tensor] = []
    each_tensor(value, lambda part: found.append(part) or part)  # type: ignore[func-returns-value]
    return found
