"""Read lab files (an h5ad, a table of tiles, a folder of images) into one checked `Section`."""

from .lab_section import JoinReport as JoinReport
from .lab_section import Section as Section
from .lab_section import SlideSource as SlideSource
from .lab_section import TileFiles as TileFiles
from .lab_section import TileSource as TileSource
from .measured_part import MeasuredPart as MeasuredPart
from .measured_part import read_measured_part as read_measured_part
from .section_reader import read_inputs as read_inputs
from .section_reader import read_manifest as read_manifest
from .section_reader import read_section as read_section
from .section_reader import read_section_without_images as read_section_without_images
