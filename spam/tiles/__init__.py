"""Pixels: slides and tile files in, tiles of one size out."""

from .placement import check_placement
from .slide import Slide
from .slide_cache import sweep_order
from .slide_formats import open_slide
from .tile_cutting import cut_tile, level_of, overview
from .tile_quality import measure_quality
from .tile_reader import TileBatch, TileReader, read_batches
from .tile_specs import locate, require_sizes, resolve_tile_specs
from .tissue_grid import grid_section, grid_slides

__all__ = [
    "Slide",
    "TileBatch",
    "TileReader",
    "check_placement",
    "cut_tile",
    "grid_section",
    "grid_slides",
    "level_of",
    "locate",
    "measure_quality",
    "open_slide",
    "overview",
    "read_batches",
    "require_sizes",
    "resolve_tile_specs",
    "sweep_order",
]
