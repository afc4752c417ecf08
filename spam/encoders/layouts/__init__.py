"""Tables from the names of published weights to those of the networks that timm builds, one for each implementation."""

from .beit3 import BEIT3
from .conch import COCA, TITAN
from .ctranspath import CTRANSPATH
from .dinov2_original import DINOV2_ORIGINAL
from .layout import Layout, Source
from .positions import fit_positions
from .transformers_layouts import CLIP, DINOV2, VIT

__all__ = [
    "BEIT3",
    "CLIP",
    "COCA",
    "CTRANSPATH",
    "DINOV2",
    "DINOV2_ORIGINAL",
    "TITAN",
    "VIT",
    "Layout",
    "Source",
    "fit_positions",
]
