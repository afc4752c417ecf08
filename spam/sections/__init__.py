"""Lab files in, sections out: an AnnData file, a CSV of tiles and a folder of images become one `Section`."""

from .join_report import JoinReport
from .manifest import read_manifest
from .measured import MeasuredPart, read_measured_part
from .reading import read_section
from .section import Section, SlideSource, TileFiles, TileSource

__all__ = [
    "JoinReport",
    "MeasuredPart",
    "Section",
    "SlideSource",
    "TileFiles",
    "TileSource",
    "read_manifest",
    "read_measured_part",
    "read_section",
]
