"""Layout of CTransPath (Swin-T with a convolutional stem, doi:10.1016/j.media.2022.102559)."""

from .layout import Layout

__all__ = ["CTRANSPATH"]

CTRANSPATH = Layout(
    names={
        # In timm 0.5.4, which the original is built with, a stage ends with its downsampling; today it begins with it.
        "layers.1.downsample.{rest}": "layers.0.downsample.{rest}",
        "layers.2.downsample.{rest}": "layers.1.downsample.{rest}",
        "layers.3.downsample.{rest}": "layers.2.downsample.{rest}",
        "layers.{n}.blocks.{rest}": "layers.{n}.blocks.{rest}",
        "patch_embed.{rest}": "patch_embed.{rest}",
        "norm.{p}": "norm.{p}",
    },
    # What the network computes from its own shape.
    unused=("layers.*.blocks.*.attn_mask", "layers.*.blocks.*.attn.relative_position_index"),
    envelopes=("model",),
)
"""The names are those of ``swin_tiny_patch4_window7_224`` of timm 0.5.4 without its classifier, as upstream loads it.

Files with the buffers and without them are both about, and both are taken.
"""
