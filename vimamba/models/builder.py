"""What every family shares on the way from a registered name to a model with weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg
from timm.models._features import FeatureGetterNet
from torch import nn

from vimamba.checkpoint import load_checkpoint
from vimamba.errors import UsageError


class FeatureGetter(FeatureGetterNet):
    """timm's getter of NCHW feature maps, with the activation checkpointing that timm's other wrappers have."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.model.set_grad_checkpointing(enable)


def build_model(
    cls: type[nn.Module], variant: str, pretrained: bool, filter_fn: Callable[..., dict], **kwargs: Any
) -> nn.Module:
    """timm's `build_model_with_cfg` with feature maps by `FeatureGetter` and official files read as published.

    A file named in the pretrained configuration is read by `load_checkpoint`, which executes nothing, and goes to
    ``filter_fn`` with its wrapper keys: which of several copies of the weights in a training checkpoint is the
    published one is the family's knowledge, not a general rule.
    """
    overlay = dict(kwargs.pop('pretrained_cfg_overlay', None) or {})
    file = overlay.get('file')
    if pretrained and file:
        overlay['state_dict'] = load_checkpoint(file)
    try:
        model = build_model_with_cfg(
            cls,
            variant,
            pretrained,
            pretrained_cfg_overlay=overlay or None,
            pretrained_filter_fn=filter_fn,
            feature_cfg={'out_indices': kwargs.pop('out_indices', (-3, -2, -1)), 'feature_cls': FeatureGetter},
            **kwargs,
        )
    except RuntimeError as error:
        first, *faults = str(error).splitlines()
        if not (faults and 'loading state_dict' in first):
            raise
        more = f' and {len(faults) - 1} more' if faults[1:] else ''
        raise UsageError(
            f'{file or variant}: these weights do not fit {variant!r}: {faults[0].strip()}{more}; '
            'choose the variant that the file belongs to'
        ) from error
    model.pretrained_cfg.pop('state_dict', None)  # do not keep a second copy of the weights
    return model
