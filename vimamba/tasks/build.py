"""The configured timm model: its arguments, its weights and its preprocessing, with errors of one line."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from vimamba.checkpoint import load_checkpoint, load_weights, written_by
from vimamba.config import Config
from vimamba.data.factory import arguments_of
from vimamba.errors import UsageError, first_line, unknown_name, within
from vimamba.models import fit_weights

__all__ = ['OWN', 'Preprocessing', 'build_model', 'checkpointed', 'create', 'mean_and_std', 'preprocessing', 'refusal']


OWN = '--import FILE.py registers your own'

_NOT_OF_THE_MODEL = {  # timm's factory takes these, and some of them load files
    *('cache_dir', 'checkpoint_path', 'pretrained_cfg', 'pretrained_cfg_overlay', 'pretrained_strict'),
    *('exportable', 'features_only', 'no_jit', 'num_classes', 'out_indices', 'scriptable'),
}


class Preprocessing(NamedTuple):
    """The inputs of a model: the arguments of `vimamba.data.create_transform`."""

    input_size: tuple[int, ...]  # (C, H, W), or (C, T, H, W) of clips
    mean: tuple[float, ...]  # per channel, for pixels in 0..1
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


def preprocessing(model: nn.Module, config: Config) -> Preprocessing:
    """The preprocessing of a built model: as configured, else the model's own."""
    default, data = resolve_model_data_config(model), config.data
    frames = getattr(model, 'num_frames', None)  # Mamba-ND over images has None
    size = config.model.img_size or default['input_size'][1:]
    height, width = (size, size) if isinstance(size, int) else size
    return Preprocessing(
        (config.model.in_chans, *((frames,) if frames else ()), height, width),
        *mean_and_std(model, config),
        data.interpolation or default['interpolation'],
        data.crop_pct or default['crop_pct'],
    )


def mean_and_std(model: nn.Module, config: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, for pixels in 0..1: as configured, else the model's own."""
    default, channels = resolve_model_data_config(model), config.model.in_chans
    chosen = []
    for key in ('mean', 'std'):
        values = getattr(config.data, key) or default[key]
        if len(values) != channels and getattr(config.data, key) is None:  # a grey model from an RGB configuration
            values = (sum(values) / len(values),) * channels
        chosen.append(tuple(values))
    return chosen[0], chosen[1]


def build_model(config: Config, num_classes: int, with_weights: bool = True, **arguments: Any) -> nn.Module:
    """The configured timm model, with the weights that the configuration asks for.

    ``model.checkpoint`` is converted by `vimamba.models.fit_weights`. Further ``arguments`` go to `create`.
    """
    settings = config.model
    file = settings.checkpoint if with_weights else None
    state = load_checkpoint(file) if file else {}
    pretrained = settings.pretrained and with_weights and not file
    model = create(config, pretrained, num_classes=num_classes, **arguments)
    if file:
        load_weights(model, fit_weights(state, model, file), file, settings.name, written_by(state))
    return model


def refusal(model: nn.Module, shape: Sequence[int]) -> Exception | None:
    """The error of a model on the meta device for an input (1, *shape); None if it takes the input."""
    try:
        model.eval()(torch.zeros(1, *shape, device='meta'))
    except (AssertionError, RuntimeError, ValueError) as error:
        return None if 'meta' in str(error).lower() else error  # some models read values, which this device lacks
    return None


def create(config: Config, pretrained: bool = False, sized: bool = True, **arguments: Any) -> Any:
    """`timm.create_model` with the configured arguments, img_size if ``sized``, and others; with one-line errors."""
    settings = config.model
    name = settings.name
    if not timm.is_model(name.split('.')[0]):
        raise UsageError(f'{unknown_name("model", name, timm.list_models())}; {OWN}', key='model.name')
    for argument in _NOT_OF_THE_MODEL & settings.options.keys():
        hint = 'weights come from model.pretrained or model.checkpoint'
        raise UsageError(f'not an argument of a model; {hint}', key=f'model.{argument}')
    given = {'img_size': settings.img_size if sized else None, 'drop_path_rate': settings.drop_path_rate}
    given = {key: value for key, value in given.items() if value is not None} | dict(settings.options)
    given, fetched = {**arguments, **given}, pretrained and not settings.checkpoint
    try:
        with within('model'):
            return timm.create_model(name, pretrained=pretrained, in_chans=settings.in_chans, **given)
    except UsageError as error:
        if error.key in ('model.scan', 'model.mixer'):
            error.args = (f'{error.args[0]}; {OWN}',)
        raise
    except TypeError as error:
        with torch.device('meta'):
            known = {p.name for p in arguments_of(type(timm.create_model(name)))} - _NOT_OF_THE_MODEL
        wrong = [key for key in given if key not in {*known, *arguments}]
        if 'img_size' in wrong:  # a model for any size: the transforms alone need it
            return create(config, pretrained, sized=False, **arguments)
        if wrong:
            raise unknown_name(f'argument of model {name!r}', wrong[0], known, f'model.{wrong[0]}') from error
        raise UsageError(f'model {name!r} cannot be built: {first_line(error)}', key='model.name') from error
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError, OSError) as error:
        hint = '; check the network, or set model.pretrained=False and model.checkpoint=FILE' if fetched else ''
        key = 'model.pretrained' if fetched else 'model.name'
        raise UsageError(f'model {name!r} cannot be built: {first_line(error)}{hint}', key=key) from error


def checkpointed(model: nn.Module, config: Config) -> None:
    """Enables activation checkpointing if ``run.grad_checkpointing`` is set."""
    if config.run.grad_checkpointing:
        try:
            model.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError, NotImplementedError):
            fault = f'{config.model.name!r} cannot recompute its activations'
            raise UsageError(fault, key='run.grad_checkpointing') from None
