"""Pixels: slides and tile files in, tiles of one size out."""

from .local_copy import local_copy
from .placement import Evidence, check_placement, placements, readable_overview
from .registration import NuclearOffset, Registration, lattice_angle, nuclear_offset, register
from .slide import Slide
from .slide_cache import sweep_order
from .slide_formats import open_slide
from .tile_cutting import cut_tile, level_of, overview
from .tile_quality import measure_quality
from .tile_reader import TileBatch, TileReader, read_batches
from .tile_specs import locate, require_sizes, resolve_tile_specs
from .tissue_grid import grid_section, grid_slides

__all__ = [
    "Evidence",
    "NuclearOffset",
    "Registration",
    "Slide",
    "TileBatch",
    "TileReader",
    "check_placement",
    "cut_tile",
    "grid_section",
    "grid_slides",
    "lattice_angle",
    "level_of",
    "local_copy",
    "locate",
    "measure_quality",
    "nuclear_offset",
    "open_slide",
    "overview",
    "placements",
    "read_batches",
    "readable_overview",
    "register",
    "require_sizes",
    "resolve_tile_specs",
    "sweep_order",
]
