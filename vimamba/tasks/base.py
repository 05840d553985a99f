"""The interface of a task: what training, evaluation and the tools ask of it, and the checks of its configuration."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vimamba.config import Config
from vimamba.config.schema import keys_of
from vimamba.data import DATASETS, create_dataset
from vimamba.data.factory import options_of
from vimamba.errors import bad_argument, unknown_name, within

__all__ = ['Task']

_FROM_THE_TASK = {'split', 'transform', 'training', 'seed', 'masks', 'num_frames'}  # arguments of data sets


class Task(nn.Module):
    """A model with its loss and its metric.

    Attributes:
        name: name of the task in configurations and in `DATASETS`.
        best: the metric that selects the best checkpoint; higher is better.
        what: the samples in words.
        lists: whether a batch is lists of tensors of any sizes, instead of tensors.
        styles: augmentation style -> its options and their defaults.
        transform_options: keys of ``data`` that the transform takes, and their defaults.
        unused: keys that have no meaning for the task.
    """

    name: ClassVar[str]
    best: ClassVar[str]
    what = 'images'
    lists = False
    styles: ClassVar[Mapping[str, Mapping[str, Any]]]
    transform_options: ClassVar[Mapping[str, Any]] = {}
    unused: ClassVar[Sequence[str]] = ()

    def __init__(self, model: nn.Module, classes: Sequence[str]) -> None:
        super().__init__()
        self.model, self.classes = model, list(classes)

    @classmethod
    def build(cls, config: Config, classes: Sequence[str], with_weights: bool = True) -> Any:
        """The configured task; ``with_weights``, those of ``model.pretrained`` or ``model.checkpoint`` are loaded."""
        raise NotImplementedError

    @classmethod
    def trial(cls, config: Config) -> Any:
        """The configured task with two classes on the meta device: without memory, weights or data."""
        with torch.device('meta'):
            return cls.build(config, ['this', 'that'], with_weights=False)

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks all of a configuration, except that the data are there.

        Raises:
            UsageError: an unknown name or a wrong value, with its key.
        """
        datasets, style = DATASETS[cls.name], config.augment.style
        if config.data.name not in datasets:
            raise unknown_name(f'data set of {cls.name}', config.data.name, datasets, 'data.name')
        if style and style not in cls.styles:
            raise unknown_name(f'augment style of {cls.name}', style, cls.styles, 'augment.style')
        _check_known('data', config.data.options, cls.data_options(config.data.name))
        _check_known('augment', config.augment.options, cls.styles[style] if style else ())
        for key in cls.unused:
            section, _, name = key.partition('.')
            if value := getattr(getattr(config, section), name):
                raise bad_argument(key, f'none for {cls.name}', value)
        task = cls.trial(config)
        task.check_together(config, task.transform(config, training=True))

    def check_together(self, config: Config, transform: Any) -> None:
        """Checks keys that depend on each other, on the model or on the ``transform`` of training.

        The task is on the meta device.
        """

    @classmethod
    def data_options(cls, name: str) -> dict[str, Any]:
        """The further keys that ``data`` takes for a data set, and their defaults."""
        hidden = {*keys_of('data'), *_FROM_THE_TASK}
        options = {**options_of(DATASETS[cls.name][name]), **cls.transform_options}
        return {key: value for key, value in options.items() if key not in hidden}

    @classmethod
    def describe(cls) -> list[str]:
        """The data sets of the task and its options, a line each."""
        options = {name: keywords(cls.data_options(name)) for name in DATASETS[cls.name]}
        lines = [f'    {cls.name} {name}: {listed}'.rstrip(': ') for name, listed in options.items()]
        return [f'data sets of task {cls.name}, and the keys of data for each:', *lines]

    @classmethod
    def dataset(cls, config: Config, split: str, training: bool) -> Any:
        """A split of the configured data set, to be given its transform by `prepare`."""
        data = config.data
        other = {*cls.transform_options, *(() if split == 'train' else ('fraction',))}  # that is of training images
        options = {**data.options, **cls.dataset_options(config, training)}
        options = {key: value for key, value in options.items() if key not in other}
        with within('data'):
            return create_dataset(
                data.name, task=cls.name, root=data.root, split=split, seed=config.run.seed, **options
            )

    @classmethod
    def dataset_options(cls, config: Config, training: bool) -> dict[str, Any]:
        """Arguments of the data set that follow from the task."""
        return {}

    def transform(self, config: Config, training: bool) -> Any:
        """The transform that brings a sample of the data set into the form that the model takes."""
        raise NotImplementedError

    def prepare(self, dataset: Any, config: Config, training: bool) -> Any:
        """The data set, with the transform of this task's model."""
        dataset.transform = self.transform(config, training)
        return dataset

    def pixels(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images as the loader gives them, with values in 0..1, for pictures."""
        return list(images)

    @staticmethod
    def shown(image: Tensor) -> Tensor:
        """The part of an image that pictures show."""
        return image

    @staticmethod
    def mistaken(output: Any, target: Any) -> bool:
        """Whether pictures show this sample before others."""
        return False


def keywords(options: Mapping[str, Any]) -> str:
    """Options and their defaults as the arguments of a call."""
    return ', '.join(f'{key}={default!r}' for key, default in options.items())


def _check_known(section: str, given: Iterable[str], known: Iterable[str]) -> None:
    for entry in given:
        if entry not in known:
            raise unknown_name(f'key in {section}', entry, {*keys_of(section), *known}, f'{section}.{entry}')
