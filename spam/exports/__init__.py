"""Sections of a store and predictions -> files of other tools (`spam export`)."""

from .exporting import ExportReport, export

__all__ = ["ExportReport", "export"]
