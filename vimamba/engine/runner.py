"""mmengine's Runner (0.10.7), with the parts replaced that fail or are unsafe.

| mmengine does | here |
|---|---|
| checkpoints by unpickling anything, written in place | `state.TrainingState`, through `vimamba.checkpoint` |
| initialises weights, loads, and wants a ``train_step`` in ``train`` | `loop.TrainLoop.run` is called instead |
| starts distributed runs with torch.cuda.set_device, wraps with device_ids=[LOCAL_RANK] | `distributed`, `train` |
| moves the model to whatever device it finds | the model stays where it was put |
| calls ``init_weights`` of every module before training, over pretrained weights | left out |
| dumps configuration, environment and hooks into the log; a folder per start | left out |
| its own default hooks | `hooks` |
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner as MMRunner
from torch import nn
from torch.utils.data import DataLoader

from .loop import EvalLoop, TrainLoop
from .state import TrainingState

__all__ = ['Runner']

_runs = count(1)  # mmengine keeps its loggers by the name of the run


class Runner(MMRunner):
    """Runs `loop.TrainLoop` with our hooks.

    Rank r seeds the global generators with ``run.seed`` + r; otherwise all ranks would drop the same paths. The
    loaders are those of training and validation; hooks are called in their order.
    """

    def __init__(
        self, model: nn.Module, state: TrainingState, loaders: Sequence[DataLoader], hooks: list[Hook], folder: Path
    ) -> None:
        train_loader, val_loader = loaders
        defaults = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
        run = state.config.run
        super().__init__(
            model,
            str(folder),
            train_dataloader=train_loader,
            train_cfg={},
            val_dataloader=val_loader,
            val_cfg={},
            val_evaluator=[],
            optim_wrapper=state.update,
            default_hooks=dict.fromkeys(defaults),
            custom_hooks=hooks,
            launcher='pytorch' if dist.get_world_size() > 1 else 'none',
            randomness={'seed': run.seed, 'diff_rank_seed': True, 'deterministic': run.deterministic},
            experiment_name=f'vimamba {next(_runs)}',
        )
        self._train_loop, self._val_loop = TrainLoop(self, train_loader, state), EvalLoop(self, val_loader, state)

    @property
    def timestamp(self) -> str:
        return ''  # names the folder that mmengine makes in work_dir for each start

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        return model

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        return MMLogger.get_instance(self.experiment_name, log_level='ERROR')

    def build_visualizer(self, visualizer: Any = None) -> Any:
        return SimpleNamespace()

    def dump_config(self) -> None:
        """Left out."""

    def _log_env(self, env_cfg: Any) -> None:
        """Left out; it also starts compilers to ask for their versions."""
