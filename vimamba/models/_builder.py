"""From a registered name to a model with weights."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from timm.models import adapt_input_conv, build_model_with_cfg, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._features import FeatureGetterNet
from timm.models._hub import download_cached_file
from torch import Tensor, nn

from vimamba.checkpoint import load_checkpoint, model_weights, weights_error, written_by
from vimamba.errors import bad_argument, flag, number, or_none

__all__ = [
    'FeatureGetter',
    'build_model',
    'filter_weights',
    'fit_channels',
    'fit_weights',
    'imagenet_cfg',
    'input_shape',
    'record_input_size',
    'register_variant',
    'rename',
    'reshape_like',
    'sequence_cfg',
    'unwrap',
]

logger = logging.getLogger('vimamba')


class FeatureGetter(FeatureGetterNet):
    """timm's getter of NCHW feature maps, with the activation checkpointing of timm's other wrappers."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.model.set_grad_checkpointing(enable)


def build_model(
    cls: type[nn.Module],
    variant: str,
    pretrained: bool,
    filter_fn: Callable[..., dict[str, Tensor]],
    feature_indices: tuple[int, ...] = (-3, -2, -1),
    **kwargs: Any,
) -> Any:
    """timm's `build_model_with_cfg`, with feature maps by `FeatureGetter` and official files read as published.

    A file or URL in the pretrained configuration is read by `load_checkpoint`, which executes nothing, and fitted by
    `fit_weights`. Non-commercial weights log their licence once.

    Args:
        cls: class of the model.
        variant: registered name.
        pretrained: load the weights of the pretrained configuration.
        filter_fn: the family's filter; the model keeps it as ``checkpoint_filter_fn``.
        feature_indices: default of timm's ``out_indices``; the blocks of a ``feature_pyramid`` come before it.
        kwargs: arguments of timm and of the model.

    Raises:
        UsageError: the file is damaged, would execute something, or does not fit the model; or an option is wrong.
    """
    _check_options(cls, kwargs)
    indices = kwargs.get('feature_pyramid') or feature_indices
    given, overlay = kwargs.pop('pretrained_cfg', None), dict(kwargs.pop('pretrained_cfg_overlay', None) or {})
    source = variant
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, pretrained_cfg=given, pretrained_cfg_overlay=overlay)
        source = str(cfg.file or cfg.url or variant)
        _log_licence(variant, cfg.license or '')
        if cfg.source not in ('hf-hub', 'local-dir') and not cfg.state_dict:
            if cfg.file:
                overlay['state_dict'] = load_checkpoint(cfg.file)
            elif cfg.url and not cfg.hf_hub_id:
                cached = download_cached_file(
                    cfg.url, check_hash=False, progress=True, cache_dir=kwargs.get('cache_dir')
                )
                overlay['state_dict'] = load_checkpoint(cached)

    def construct(**options: Any) -> nn.Module:
        model: Any = cls(**options)
        model.checkpoint_filter_fn = filter_fn
        return model

    def fit(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        cfg, optional = model.pretrained_cfg, ()
        if kwargs.get('features_only'):
            optional = ('norm.', f'{cfg["classifier"]}.')
        elif model.num_classes != cfg['num_classes']:
            optional = (f'{cfg["classifier"]}.',)
        weights = fit_weights(state_dict, model, source, optional)
        cfg['num_classes'] = model.num_classes  # timm would drop a head of another size
        return weights

    model = build_model_with_cfg(
        construct,
        variant,
        pretrained,
        pretrained_cfg=given,
        pretrained_cfg_overlay=overlay or None,
        pretrained_filter_fn=fit,
        feature_cfg={'out_indices': indices, 'feature_cls': FeatureGetter},
        **kwargs,
    )
    model.pretrained_cfg.pop('state_dict', None)  # do not keep a second copy of the weights
    return model


def fit_weights(
    state_dict: Mapping[str, Any], model: nn.Module, source: str | Path, optional: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Converts a checkpoint to a complete state dict of ``model``, which is a timm model of this package or another.

    `filter_weights` renames and resizes. A head for another number of classes keeps its initial values, which is logged
    once. The norms and layers of feature maps (``feature_*``) may be missing.

    Args:
        state_dict: a checkpoint as from `load_checkpoint`, with or without wrapper keys.
        model: takes the weights.
        source: the file or URL, for messages.
        optional: prefixes of further keys that may be missing.

    Raises:
        UsageError: the checkpoint holds no weights, or other tensors are missing, unexpected or of another shape.
            The first convolution may have the published number of channels, which timm adapts.
    """
    weights = filter_weights(state_dict, model, source)
    expected, cfg = model.state_dict(), getattr(model, 'pretrained_cfg', {})
    heads = cfg.get('classifier') or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        for key in (f'{head}.weight', f'{head}.bias'):
            if key in weights and key not in expected:  # a backbone
                del weights[key]
            elif key in weights and weights[key].shape != expected[key].shape:
                if key.endswith('.weight'):
                    sizes = f'{len(weights[key])} classes in the file, {len(expected[key])} here'
                    logger.warning('%s: %s is not loaded and keeps its initial values (%s)', source, key, sizes)
                weights[key] = expected[key]
    optional = ('feature_', *optional)
    weights |= {key: expected[key] for key in expected.keys() - weights.keys() if key.startswith(optional)}
    shapes: dict[str, tuple[int, ...]] = {key: value.shape for key, value in expected.items()}
    first_conv = f'{cfg.get("first_conv")}.weight'
    if len(shape := shapes.get(first_conv, ())) == 4:
        published = (shape[0], cfg['input_size'][0], *shape[2:])
        if first_conv in weights and weights[first_conv].shape == published:
            shapes[first_conv] = published
    if error := weights_error(shapes, weights, source, cfg.get('architecture', ''), written_by(state_dict)):
        raise error
    return weights


def filter_weights(state_dict: Mapping[str, Any], model: nn.Module, source: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names and in the image size of ``model``.

    The filter is the model's attribute ``checkpoint_filter_fn``, else that of timm's module. Ours receive the whole
    checkpoint, since the family knows which copy of the weights is the published one.

    Raises:
        UsageError: the checkpoint holds no weights.
    """
    weights = model_weights(state_dict, source)
    if filter_fn := getattr(model, 'checkpoint_filter_fn', None):
        return filter_fn(state_dict, model)
    filter_fn = getattr(inspect.getmodule(type(model)), 'checkpoint_filter_fn', None)
    return filter_fn(weights, model) if filter_fn else weights


def _check_options(cls: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Checks flags, rates and ratios by the annotations of the model's arguments, those of its bases included."""
    signatures = [inspect.signature(base, eval_str=True) for base in reversed(cls.__mro__)]
    kinds = {p.name: p.annotation for signature in signatures for p in signature.parameters.values()}
    for name, value in options.items():
        positive = number(0, below=1 if name.endswith('_rate') else None)
        rules = {bool: flag(), float: positive, float | None: or_none(positive)}
        if rule := rules.get(kinds.get(name)):
            rule(value, name)
    if options.get('out_indices') in ((), []):
        raise bad_argument('out_indices', 'one layer or more', repr(options['out_indices']))


def register_variant(module: str, create: Callable[..., nn.Module], name: str, doc: str, /, **arguments: Any) -> None:
    """Registers ``name`` with timm: a function of ``module`` with the docstring ``doc``.

    It returns ``create(name, pretrained, **arguments)``; the caller's arguments come before these.
    """

    def variant(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create(name, pretrained, **{**arguments, **kwargs})

    variant.__name__ = variant.__qualname__ = name
    variant.__module__, variant.__doc__ = module, doc
    setattr(sys.modules[module], name, register_model(variant))


def input_shape(model: nn.Module) -> tuple[int, ...]:
    """Shape of an input without the batch: (channels, height, width), or (channels, frames, height, width) of clips.

    timm's configuration describes images only; the frames are the model's ``num_frames``.

    >>> import timm
    >>> input_shape(timm.create_model('videomamba_tiny_patch16_224_f16', device='meta'))
    (3, 16, 224, 224)
    """
    channels, height, width = model.pretrained_cfg['input_size']
    frames = getattr(model, 'num_frames', None)
    return (channels, height, width) if frames is None else (channels, frames, height, width)


def imagenet_cfg(url: str = '', top1: float = 0, top5: float = 0, **kwargs: Any) -> dict[str, Any]:
    """timm's configuration of ImageNet-1k weights at 224 pixels, for a pyramid of stride 32.

    ``top1`` and ``top5`` are the published percentages, which become a note.
    """
    note = f'published ImageNet-1k top-1 {top1}' + f', top-5 {top5}' * bool(top5)
    return {
        'url': url,
        'notes': (note,) if top1 else (),
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': 0.875,
        'interpolation': 'bicubic',
        'mean': (0.485, 0.456, 0.406),
        'std': (0.229, 0.224, 0.225),
        'first_conv': 'stem.1',
        'classifier': 'head.fc',
        **kwargs,
    }


sequence_cfg = partial(  # of a model over sequences
    imagenet_cfg, pool_size=None, fixed_input_size=True, first_conv='patch_embed.proj', classifier='head'
)


@cache
def _log_licence(variant: str, licence: str) -> None:
    if '-nc' in licence.lower():
        logger.warning('%s: its published weights are %s, not for commercial use', variant, licence)


def rename(
    weights: Mapping[str, Tensor], patterns: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]
) -> dict[str, Tensor]:
    """Applies patterns (regular expression, replacement) to every key, in their order.

    >>> import torch
    >>> list(rename({'layers.3.op.D': torch.ones(1)}, [(r'\\.op\\.', '.mixer.'), ('layers', 'blocks')]))
    ['blocks.3.mixer.D']
    """
    renamed = {}
    for key, value in weights.items():
        for pattern, new in patterns:
            key = re.sub(pattern, new, key)
        renamed[key] = value
    return renamed


def unwrap(checkpoint: Mapping[str, Any], *prefixes: str) -> dict[str, Tensor]:
    """The weights of a checkpoint, and of these those under each prefix that occurs: the backbone of a detector, say.

    Prefixes are removed one after another.
    """
    weights = model_weights(checkpoint, 'the checkpoint')
    for prefix in prefixes:
        inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        weights = inside or weights
    return dict(weights)


def reshape_like(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Reshapes weights to the model's shapes if the number of elements agrees."""
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    return {
        key: value.reshape(shapes[key]) if key in shapes and value.numel() == shapes[key].numel() else value
        for key, value in weights.items()
    }


def fit_channels(kernel: Tensor, in_chans: int) -> Tensor:
    """timm's `adapt_input_conv` for kernels over clips too.

    Shape: (dim, 3, [t,] h, w) -> (dim, in_chans, [t,] h, w); a kernel of other channels is returned unchanged.
    """
    if kernel.ndim not in (4, 5) or kernel.shape[1] != 3:
        return kernel
    image = kernel.flatten(2, -2)  # frames stacked in height
    return adapt_input_conv(in_chans, image).unflatten(2, kernel.shape[2:-1])


def record_input_size(model: nn.Module, img_size: tuple[int, int], **arguments: Any) -> None:
    """Records a changed input size, and other changed arguments, where timm saves them (in versions that do)."""
    with suppress(ImportError):
        from timm.models._input import update_model_input_size

        update_model_input_size(model, img_size, **arguments)
