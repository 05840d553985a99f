"""Tasks: a backbone with its head, loss and metric."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vimamba import config as configuration
from vimamba.config import Config, load_config
from vimamba.errors import unknown_name

from .base import Task, keywords
from .classification import ClassificationMetric, ClassificationTask
from .dense import DenseTask
from .detection import DetectionTask
from .segmentation import SegmentationTask
from .video import VideoTask

__all__ = ['TASKS', 'ClassificationMetric', 'ClassificationTask', 'DenseTask', 'DetectionTask', 'SegmentationTask',
           'Task', 'VideoTask', 'describe', 'load_task']  # fmt: skip

TASKS: dict[str, Any] = {task.name: task for task in (ClassificationTask, DetectionTask, SegmentationTask, VideoTask)}


def load_task(path: str | Path, options: Iterable[str] = ()) -> tuple[Config, Any]:
    """Reads a configuration with ``key.subkey=value`` options over it, and checks all of it but the data.

    Returns:
        The configuration, and the class of its task.

    Raises:
        UsageError: a mistake in it, with ``file:line``.
    """
    config = load_config(path, options)
    with config.located():
        if config.task.name not in TASKS:
            raise unknown_name('task', config.task.name, TASKS, 'task.name')
        TASKS[config.task.name].check(config)
    return config, TASKS[config.task.name]


def describe() -> str:
    """Every key of a configuration with its default and meaning, for a terminal."""
    lines = [configuration.describe()]
    for task in TASKS.values():
        lines += task.describe()
    lines.append('augment styles:')
    for task in TASKS.values():
        for style, options in task.styles.items():
            line = f'    {style}: {keywords(options)}'
            lines += [line] if line not in lines else []
    return '\n'.join(lines)
