"""Read lab files (an h5ad, a table of tiles, a folder of images) into one checked `Section`."""

from .lab_section import JoinReport, Section, SlideSource, TileFiles, TileSource
from .measured_part import MeasuredPart, read_measured_part
from .section_reader import read_inputs, read_manifest, read_section, read_spots

__all__ = [
    "JoinReport",
    "MeasuredPart",
    "Section",
    "SlideSource",
    "TileFiles",
    "TileSource",
    "read_inputs",
    "read_manifest",
    "read_measured_part",
    "read_section",
    "read_spots",
]
