"""What every family shares on the way from a registered name to a model with weights."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from timm.models import adapt_input_conv, build_model_with_cfg
from timm.models._builder import resolve_pretrained_cfg
from timm.models._features import FeatureGetterNet
from timm.models._hub import download_cached_file
from torch import Tensor, nn

from vimamba.checkpoint import load_checkpoint, model_weights
from vimamba.errors import UsageError, bad_argument, check_flags, check_numbers


class FeatureGetter(FeatureGetterNet):
    """timm's getter of NCHW feature maps, with the activation checkpointing that timm's other wrappers have."""

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
    """timm's `build_model_with_cfg` with feature maps by `FeatureGetter` and official files read as published.

    A file or an address in the pretrained configuration is read by `load_checkpoint`, which executes nothing, and goes
    to ``filter_fn`` with its wrapper keys: which of several copies of the weights in a training checkpoint is the
    published one is the family's knowledge, not a general rule. Only a head for other classes may be left out, the
    norms of ``feature_norm``, the layers of ``feature_pyramid``, and with ``features_only`` the final norm. Weights
    that may not be used commercially say so, once. ``feature_indices`` are what timm's ``out_indices`` are by default.

    Raises:
        UsageError: the file is damaged, would execute something, or does not fit the model; or an option is none.
    """
    _check_options(cls, kwargs)
    given, overlay = kwargs.pop('pretrained_cfg', None), dict(kwargs.pop('pretrained_cfg_overlay', None) or {})
    source = variant
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, pretrained_cfg=given, pretrained_cfg_overlay=overlay)
        source = str(cfg.file or cfg.url or variant)
        _say_licence(variant, cfg.license or '')
        if cfg.source not in ('hf-hub', 'local-dir') and not cfg.state_dict:
            if cfg.file:
                overlay['state_dict'] = load_checkpoint(cfg.file)
            elif cfg.url and not cfg.hf_hub_id:
                cached = download_cached_file(
                    cfg.url, check_hash=False, progress=True, cache_dir=kwargs.get('cache_dir')
                )
                overlay['state_dict'] = load_checkpoint(cached)

    def fit(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        model_weights(state_dict, source)
        weights = filter_fn(state_dict, model)
        head = f'{model.pretrained_cfg["classifier"]}.'
        if f'{head}weight' in weights:
            classes = len(weights[f'{head}weight'])
            model.pretrained_cfg['num_classes'] = classes  # timm drops a head of another size
            if model.num_classes not in (0, classes):
                sizes = f'{classes} classes in the file, {model.num_classes} here'
                logging.getLogger('vimamba').warning('%s: the head is left out and starts anew (%s)', source, sizes)
        own = model.state_dict()
        anew = ('feature_', *(('norm.', head) if kwargs.get('features_only') else ()))
        weights |= {key: own[key] for key in own.keys() - weights.keys() if key.startswith(anew)}
        wrong = [key for key in own.keys() ^ weights.keys() if not key.startswith(head)]
        if wrong:
            what = 'lack' if wrong[0] in own else 'have no place for'
            raise _misfit(source, variant, f'{what} {min(wrong)!r}', len(wrong))
        return weights

    try:
        model = build_model_with_cfg(
            cls,
            variant,
            pretrained,
            pretrained_cfg=given,
            pretrained_cfg_overlay=overlay or None,
            pretrained_filter_fn=fit,
            feature_cfg={'out_indices': feature_indices, 'feature_cls': FeatureGetter},
            **kwargs,
        )
    except RuntimeError as error:
        first, *faults = str(error).splitlines()
        if not (faults and 'loading state_dict' in first):
            raise
        raise _misfit(source, variant, faults[0].strip(), len(faults)) from error
    model.pretrained_cfg.pop('state_dict', None)  # do not keep a second copy of the weights
    return model


def _check_options(cls: type[nn.Module], options: Mapping[str, Any]) -> None:
    """Flags, rates and ratios by the annotations of the model, and of the one that it extends."""
    parameters = {p.name: p for base in cls.__mro__ for p in inspect.signature(base).parameters.values()}
    for name, value in options.items():
        kind = parameters[name].annotation if name in parameters else None
        if kind is bool:
            check_flags(**{name: value})
        elif kind is float or (kind == float | None and value is not None):
            check_numbers(0, 1 if name.endswith('_rate') else math.inf, **{name: value})
    if options.get('out_indices') in ((), []):
        raise bad_argument('out_indices', 'one layer or more', repr(options['out_indices']))


def input_shape(model: nn.Module) -> tuple[int, ...]:
    """What a model takes, without the batch: (channels, height, width), or (channels, frames, height, width) of clips.

    timm's configuration knows images alone: the frames are the model's own ``num_frames``.

    >>> import timm
    >>> input_shape(timm.create_model('videomamba_tiny_patch16_224_f16', device='meta'))
    (3, 16, 224, 224)
    """
    channels, height, width = model.pretrained_cfg['input_size']
    frames = getattr(model, 'num_frames', None)
    return (channels, height, width) if frames is None else (channels, frames, height, width)


def imagenet_cfg(url: str = '', top1: float = 0, top5: float = 0, **kwargs: Any) -> dict[str, Any]:
    """timm's configuration of weights for ImageNet-1k at 224 pixels, of a pyramid of stride 32.

    ``top1`` and ``top5`` are the percentages that the authors publish; they become a note.
    """
    said = f'published ImageNet-1k top-1 {top1}' + f', top-5 {top5}' * bool(top5)
    return {
        'url': url,
        'notes': (said,) if top1 else (),
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


@cache
def _say_licence(variant: str, licence: str) -> None:
    if '-nc' in licence.lower():
        logging.getLogger('vimamba').warning(
            '%s: its published weights are %s, not for commercial use', variant, licence
        )


def rename(
    weights: Mapping[str, Tensor], patterns: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]
) -> dict[str, Tensor]:
    """Every key with every pattern (a regular expression, and what replaces it) applied, in their order.

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


def unwrap(weights: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """What stands under each prefix that there is, one after another: the backbone of a detector, say."""
    for prefix in prefixes:
        inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        weights = inside or weights
    return dict(weights)


def reshape_like(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights in the shapes of the model's own, where the number of elements agrees."""
    own = model.state_dict()
    return {
        key: value.reshape(own[key].shape) if key in own and value.numel() == own[key].numel() else value
        for key, value in weights.items()
    }


def fit_channels(kernel: Tensor, in_chans: int) -> Tensor:
    """A kernel over three colours for inputs of other channels, as timm adapts it, which knows none over frames.

    Shape: (dim, 3, [t,] h, w) -> (dim, in_chans, [t,] h, w); one of other channels is returned as it is.
    """
    if kernel.ndim not in (4, 5) or kernel.shape[1] != 3:
        return kernel
    frames = kernel.flatten(2, -2)  # as one frame, high
    return adapt_input_conv(in_chans, frames).unflatten(2, kernel.shape[2:-1])


def _misfit(source: str, variant: str, fault: str, count: int) -> UsageError:
    more = f' and {count - 1} more' if count > 1 else ''
    hint = 'choose the variant and the options that the file belongs to'
    return UsageError(f'{source}: these weights do not fit {variant!r}: {fault}{more}; {hint}')


def record_input_size(model: nn.Module, img_size: tuple[int, int], **arguments: Any) -> None:
    """Tells timm, which saves it, and arguments that changed with it, with the weights; earlier versions did not."""
    with suppress(ImportError):
        from timm.models._input import update_model_input_size

        update_model_input_size(model, img_size, **arguments)
