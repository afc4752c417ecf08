"""Pixels: slides and tile files in, tiles of one size out."""

from .cutting import Interpolation, cut_tile, level_of
from .grid import grid_section
from .grid_slides import grid_slides
from .locating import locate
from .opening import open_slide
from .prefetching import read_batches
from .quality import measure_quality
from .slide import Slide
from .specs import resolve_tile_specs
from .stain import StainNormaliser, mosaic
from .sweeping import sweep_order
from .thumbnail import Thumbnail, overview
from .tile_batch import TileBatch
from .tile_files import common_side_px
from .tile_reader import TileReader

__all__ = [
    "Interpolation",
    "Slide",
    "StainNormaliser",
    "Thumbnail",
    "TileBatch",
    "TileReader",
    "common_side_px",
    "cut_tile",
    "grid_section",
    "grid_slides",
    "level_of",
    "locate",
    "measure_quality",
    "mosaic",
    "open_slide",
    "overview",
    "read_batches",
    "resolve_tile_specs",
    "sweep_order",
]
