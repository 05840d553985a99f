"""The configured timm model with the weights that the configuration asks for, and its mistakes in one line each."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

import vimamba  # noqa: F401  (registers its models with timm)
from vimamba.checkpoint import load_checkpoint, load_weights, model_weights, written_by
from vimamba.data import create_dataset
from vimamba.errors import UsageError, unknown_name

__all__ = ['OWN', 'Settings', 'build_model', 'checkpointed', 'configured_dataset', 'create', 'fitted_weights',
           'located_in_augment', 'located_in_data', 'mean_and_std', 'try_size']  # fmt: skip

logger = logging.getLogger('vimamba')

OWN = 'one of your own is known after --import FILE.py'

_NOT_OF_THE_MODEL = {  # timm's factory takes these, and some of them load files
    *('cache_dir', 'checkpoint_path', 'pretrained_cfg', 'pretrained_cfg_overlay', 'pretrained_strict'),
    *('exportable', 'features_only', 'no_jit', 'num_classes', 'out_indices', 'scriptable'),
}


class Settings(Protocol):
    """What is read of a configuration: its sections, and where each key was written."""

    task: Any
    model: Any
    data: Any
    augment: Any
    run: Any

    def at(self, path: str) -> str: ...


def build_model(config: Settings, num_classes: int, with_weights: bool = True, **arguments: Any) -> nn.Module:
    """The configured timm model, with the weights that the configuration asks for.

    ``model.checkpoint`` goes through the family's own ``checkpoint_filter_fn`` (official names, other image sizes);
    a head for another number of classes is left out, and anything else that does not fit is an error. Further
    ``arguments`` go to `create`.
    """
    settings = config.model
    file = settings.checkpoint if with_weights else None
    state = load_checkpoint(file) if file else {}
    model = create(
        config, pretrained=settings.pretrained and with_weights and not file, num_classes=num_classes, **arguments
    )
    if file:
        weights = fitted_weights(model, state, file)
        own = model.state_dict()
        heads = getattr(model, 'pretrained_cfg', {}).get('classifier') or ()
        for head in (heads,) if isinstance(heads, str) else heads:
            for key in (f'{head}.weight', f'{head}.bias'):
                if key not in own:  # a backbone
                    weights.pop(key, None)
                elif key in weights and own[key].shape != weights[key].shape:
                    if key.endswith('.weight'):
                        sizes = f'{len(weights[key])} classes in the file, {len(own[key])} here'
                        logger.warning(f'warning: {file}: {key} is left out and starts anew ({sizes})')
                    weights[key] = own[key]
        load_weights(model, weights, file, settings.name, written_by(state))
    return model


def fitted_weights(model: nn.Module, state: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint under the model's names, at its image size, by the family's own filter."""
    weights = model_weights(state, path)
    filter_fn = getattr(sys.modules[type(model).__module__], 'checkpoint_filter_fn', None)
    if filter_fn is None:
        return weights
    ours = type(model).__module__.startswith('vimamba.')  # these read the image size and the wrapper keys too
    return filter_fn(state if ours else weights, model)


def configured_dataset(config: Settings, split: str, transform: Any, **options: Any) -> Any:
    """`create_dataset` of the configured data set, with ``options`` in place of those of ``data``.

    Raises:
        UsageError: as it says; a mistake in an option with its place.
    """
    data = config.data
    try:
        return create_dataset(
            data.name,
            task=config.task.name,
            root=data.root,
            split=split,
            transform=transform,
            seed=config.run.seed,
            **options,
        )
    except UsageError as error:
        raise located_in_data(config, error) or error from error.__cause__


def located_in_data(config: Settings, error: Exception) -> UsageError | None:
    """The error with the place of the key of ``data`` that it begins with; None where it begins with another."""
    begin = re.match(r"(unknown )?(\w+)(?=:| ')", str(error))
    if not begin or not (hasattr(config.data, begin[2]) or begin[2] in config.data.options):
        return None
    return UsageError(f'{config.at(f"data.{begin[2]}")}{error if begin[1] else f"data.{error}"}')


def located_in_augment(config: Settings, error: Exception) -> UsageError:
    """The error with the place of the key of ``augment`` that it names, or quotes the value of; else of all of it."""
    options, said = config.augment.options, str(error).partition(' (in {')[0]  # which are the options, once more
    named = [key for key in options if re.search(rf'\b{key}\b', said)]
    quoted = [key for key, value in options.items() if isinstance(value, str) and value and value in said]
    key = '.'.join(['augment', *(named or quoted)[:1]])
    what = said.removeprefix(f'{key}: ').removeprefix('augment: ')
    return UsageError(f'{config.at(key)}{what if what.startswith("unknown") else f"{key}: {what}"}')


def try_size(model: nn.Module, size: tuple[int, ...], config: Settings) -> None:
    """A forward pass of a model on the meta device, which computes shapes alone."""
    try:
        model.eval()(torch.zeros(1, *size, device='meta'))
    except (AssertionError, RuntimeError, ValueError) as error:
        if 'meta' not in str(error).lower():  # some models read values, which this device does not have
            line = (str(error).splitlines() or [type(error).__name__])[0]
            where = config.at('model.img_size')
            raise UsageError(f'{where}model {config.model.name!r} does not take {size} images: {line}') from error


def create(config: Settings, pretrained: bool = False, sized: bool = True, **arguments: Any) -> Any:
    """`timm.create_model`, with its errors in one line each; without ``sized``, img_size is not passed.

    Args:
        config: ``model`` is read.
        pretrained: whether to fetch the published weights.
        sized: see above.
        arguments: besides those of the configuration, such as num_classes.
    """
    settings, where = config.model, config.at('model.name')
    name = settings.name
    if not timm.is_model(name.split('.')[0]):
        raise UsageError(f'{unknown_name("model", name, timm.list_models(), where)}; {OWN}')
    for argument in _NOT_OF_THE_MODEL & settings.options.keys():
        hint = 'weights come from model.pretrained or model.checkpoint'
        raise UsageError(f'{config.at(f"model.{argument}")}model.{argument}: not an argument of a model; {hint}')
    given = {'img_size': settings.img_size if sized else None, 'drop_path_rate': settings.drop_path_rate}
    given = {key: value for key, value in given.items() if value is not None} | dict(settings.options)
    try:
        return timm.create_model(name, pretrained=pretrained, in_chans=settings.in_chans, **{**arguments, **given})
    except TypeError as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not unexpected or unexpected[1] not in given:
            raise UsageError(f'{where}model {name!r} cannot be built: {error}') from error
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError, OSError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        fetched = pretrained and not settings.checkpoint
        named = [word for word in re.findall(r'\w+', line) if word in given or (fetched and word == 'pretrained')]
        where = config.at(f'model.{named[0]}') if named else where
        hint = '; check the network, or set model.pretrained=False and model.checkpoint=FILE' if fetched else ''
        hint = f'; {OWN}' if line.startswith('unknown scan order') else hint
        raise UsageError(f'{where}model {name!r} cannot be built: {line}{hint}') from error
    wrong = unexpected[1]
    if wrong == 'img_size':  # a model for any size: the transforms alone need to know
        return create(config, pretrained, sized=False, **arguments)
    with torch.device('meta'):
        known = _arguments(type(timm.create_model(name))) - _NOT_OF_THE_MODEL
    raise unknown_name(f'argument of model {name!r}', wrong, known, config.at(f'model.{wrong}'))


def _arguments(kind: type) -> set[str]:
    """The names of the arguments of a class, those that it passes on to its bases among them."""
    names: set[str] = set()
    for base in (base for base in kind.__mro__ if '__init__' in vars(base)):
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return names


def checkpointed(model: nn.Module, config: Settings) -> None:
    """Turns on the recomputing of activations where ``run.grad_checkpointing`` asks for it."""
    if config.run.grad_checkpointing:
        try:
            model.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError, NotImplementedError):
            raise UsageError(
                f'{config.at("run.grad_checkpointing")}run.grad_checkpointing: {config.model.name!r} cannot '
                'recompute its activations'
            ) from None


def mean_and_std(model: nn.Module, config: Settings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, for pixels in 0..1: the configured ones, else the model's own."""
    own, channels = resolve_model_data_config(model), config.model.in_chans
    chosen = []
    for key in ('mean', 'std'):
        values = getattr(config.data, key) or own[key]
        if len(values) != channels and getattr(config.data, key) is None:  # a grey model from an RGB configuration
            values = (sum(values) / len(values),) * channels
        chosen.append(tuple(values))
    return chosen[0], chosen[1]
