"""Building blocks that the families share."""

from .block import Block
from .norm import LayerNorm, RMSNorm, widen
from .patch_embed import PatchEmbed
from .pos_embed import resize_pos_embed

__all__ = ['Block', 'LayerNorm', 'PatchEmbed', 'RMSNorm', 'resize_pos_embed', 'widen']
