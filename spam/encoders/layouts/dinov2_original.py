"""Layout of the original DINOv2 (github.com/facebookresearch/dinov2, arXiv:2304.07193, arXiv:2309.16588)."""

from .layout import Layout
from .positions import Resampling

__all__ = ["DINOV2_ORIGINAL"]

DINOV2_ORIGINAL = Layout(
    names={"reg_token": "register_tokens", "{rest}": "{rest}"},
    rewritten=(
        (r"^(teacher\.)?backbone\.", ""),
        (
            r"^blocks\.\d+\.(\d+)\.",
            r"blocks.\1.",
        ),  # blocks in chunks: their number goes on from chunk to chunk
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
    unused=("mask_token", "dino_head.*", "ibot_head.*"),
    envelopes=("teacher",),
    # Without registers: the defaults of the network; with them: those of its published models (hub/backbones.py).
    resampling=Resampling(mode="bicubic", offset=0.1),
    resampling_with_registers=Resampling(mode="bicubic", is_antialiased=True),
)
"""GPFM (ViT-L/14, doi:10.1038/s41551-025-01488-4) and OpenMidnight (ViT-g/14 with registers).

Weights of a training run are those of the teacher, together with its heads; GPFM is published so on GitHub, and without
the extras on the Hub.

Not verified on the published files: what else they hold besides what public loaders take from them, all of them strictly.
"""
