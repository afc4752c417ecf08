"""Read lab files (an h5ad, a table of tiles, a folder of images) into one checked `Section`."""

from .h5ad import MeasuredPart, read_measured_part
from .instrument_folder import import_folder
from .lab_section import JoinReport, Section, SlideSource, TileFiles, TileSource
from .section_reader import read_manifest, read_section

__all__ = [
    "JoinReport",
    "MeasuredPart",
    "Section",
    "SlideSource",
    "TileFiles",
    "TileSource",
    "import_folder",
    "read_manifest",
    "read_measured_part",
    "read_section",
]
