"""Sections of a store and predictions -> files of other tools (`spam export`)."""

from .exporting import ExportReport as ExportReport
from .exporting import export as export
