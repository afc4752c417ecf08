"""Pixels: slides and tile files in, tiles of one size out."""

from .local_copy import local_copy as local_copy
from .placement import Evidence as Evidence
from .placement import check_placement as check_placement
from .placement import placements as placements
from .placement import readable_overview as readable_overview
from .registration import NuclearOffset as NuclearOffset
from .registration import Registration as Registration
from .registration import lattice_angle as lattice_angle
from .registration import nuclear_offset as nuclear_offset
from .registration import register as register
from .slide import Slide as Slide
from .slide_cache import sweep_order as sweep_order
from .slide_formats import open_slide as open_slide
from .tile_cutting import cut_tile as cut_tile
from .tile_cutting import level_of as level_of
from .tile_cutting import overview as overview
from .tile_quality import measure_quality as measure_quality
from .tile_reader import TileBatch as TileBatch
from .tile_reader import TileReader as TileReader
from .tile_reader import read_batches as read_batches
from .tile_specs import locate as locate
from .tile_specs import require_sizes as require_sizes
from .tile_specs import resolve_tile_specs as resolve_tile_specs
from .tissue_grid import grid_section as grid_section
from .tissue_grid import grid_slides as grid_slides
