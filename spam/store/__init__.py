"""The feature store: layout, writer and reader of a Zarr v3 folder with one AnnData group per section."""

from .records import CsrMatrix, Graph, Overview, SectionRecord

__all__ = ["CsrMatrix", "Graph", "Overview", "SectionRecord"]
