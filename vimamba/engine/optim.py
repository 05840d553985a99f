"""Optimizer, learning-rate schedule, and the update: mixed precision, accumulation, clipping, and no NaN."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm.optim
import timm.scheduler
import torch
from mmengine.optim import OptimWrapper
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vimamba.config import Config
from vimamba.errors import UsageError

__all__ = ['NonFinite', 'Update', 'autocast', 'create_optimizer', 'create_schedule']

_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class NonFinite(ArithmeticError):
    """A loss or gradient (``what``) that is NaN or infinite, found before the weights were touched."""

    def __init__(self, what: str, value: float) -> None:
        super().__init__(f'{what} is {value}')
        self.what = what


def create_optimizer(model: nn.Module, config: Config, total_batch: int) -> torch.optim.Optimizer:
    """timm's optimizer over timm's parameter groups.

    No weight decay on vectors and on what ``model.no_weight_decay()`` names; with ``layer_decay``, layer i of n
    learns at ``lr * layer_decay ** (n - i)``, which the group carries as ``lr_scale`` for the schedule. With
    ``lr_batch``, ``lr`` scales with ``total_batch``, the images per update over all processes.
    """
    optim = config.optim
    given = {key: value for key in ('betas', 'eps') if (value := getattr(optim, key)) is not None}
    has = timm.optim.get_optimizer_info(optim.name)
    for key in given:
        if not getattr(has, f'has_{key}'):  # timm ignores it silently
            raise UsageError(f'{optim.name!r} has none: leave it out', key=f'optim.{key}')
    try:
        return timm.optim.create_optimizer_v2(
            model,
            opt=optim.name,
            lr=optim.lr * total_batch / (optim.lr_batch or total_batch),
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
            layer_decay=optim.layer_decay,
            **given,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f'{optim.name!r} cannot be made: {error}', key='optim') from error


def create_schedule(optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int) -> Scheduler:
    """timm's schedule: a closed formula of the step, without state to save.

    With s steps, w of them warm-up: lr(t) = warmup_lr + (lr - warmup_lr) t / w for t < w, then for
    p = (t - w) / (s - w): cosine min_lr + (lr - min_lr) (1 + cos(pi p)) / 2, linear lr + (min_lr - lr) p, step
    lr / 10^m with m milestones passed, or lr.
    """
    schedule = config.schedule
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    rest = max(1, schedule.epochs * steps_per_epoch - warmup)
    common: dict[str, Any] = {'t_in_epochs': False, 'warmup_prefix': True}
    common |= {'warmup_t': warmup, 'warmup_lr_init': schedule.warmup_lr}
    if schedule.name == 'constant' or (schedule.name == 'cosine' and rest == 1):  # one step, at lr; timm would warn
        return timm.scheduler.StepLRScheduler(optimizer, decay_t=rest + warmup + 1, **common)
    if schedule.name == 'step':
        # timm counts from the end of the warm-up, and one early
        places = [round(epoch * steps_per_epoch) - warmup + 1 for epoch in schedule.milestones or ()]
        return timm.scheduler.MultiStepLRScheduler(optimizer, decay_t=places, decay_rate=0.1, **common)
    if schedule.name == 'linear':
        return timm.scheduler.PolyLRScheduler(optimizer, t_initial=rest, power=1.0, lr_min=schedule.min_lr, **common)
    return timm.scheduler.CosineLRScheduler(optimizer, t_initial=rest, lr_min=schedule.min_lr, **common)


def autocast(device: torch.device, amp: str | None) -> torch.autocast:
    """The mixed-precision context of a run; without ``amp`` it does nothing."""
    return torch.autocast(device.type, _DTYPES.get(amp or 'bf16'), enabled=amp is not None)


class Update(OptimWrapper):
    """From a loss to new weights.

    mmengine's `AmpOptimWrapper` wants a GPU; this one runs under autocast on any device, scales the loss for fp16,
    and averages each ``accumulate`` losses into one update. An epoch ends with an update: its last, shorter window
    is averaged over what it has, so that a checkpoint between epochs never holds half a gradient.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: Config, device: torch.device, steps_per_epoch: int):
        super().__init__(optimizer, config.optim.accumulate)
        self.device, self.amp = device, config.run.amp
        self.steps_per_epoch = steps_per_epoch
        self.max_norm = config.optim.clip_grad or math.inf
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == 'fp16')
        self.grad_norm = math.nan  # of the latest update

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        self._inner_count = init_counts

    def should_update(self) -> bool:
        """Whether an update follows the backward passes so far."""
        return self._inner_count % self.steps_per_epoch % self._accumulative_counts == 0

    def should_sync(self) -> bool:
        """Whether an update follows the coming backward pass, which therefore averages over processes."""
        return (self._inner_count + 1) % self.steps_per_epoch % self._accumulative_counts == 0

    def scale_loss(self, loss: Tensor) -> Tensor:
        position = self._inner_count % self.steps_per_epoch
        start = position - position % self._accumulative_counts
        return loss / min(self._accumulative_counts, self.steps_per_epoch - start)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(self.device, self.amp):
            yield

    def update_params(self, loss: Tensor, step_kwargs: Any = None, zero_kwargs: Any = None) -> None:
        """Backward, and, at the end of a window, the step.

        Raises:
            NonFinite: the loss or the gradient is NaN or infinite; the weights are those before the step. Under fp16
                an infinite gradient halves the loss scale and skips the step, and is fatal at a scale below 1.
        """
        if not torch.isfinite(loss):
            raise NonFinite('loss', float(loss.detach()))
        super().update_params(loss, step_kwargs, zero_kwargs)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        self.grad_norm = float(norm)
        if not math.isfinite(self.grad_norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() < 1):
            raise NonFinite('gradient', self.grad_norm)
        clip_grads_with_norm_(parameters, self.max_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
