"""The feature store: layout, writer and reader of a Zarr v3 folder with one AnnData group per section."""

from .choosing import choose_features, choose_sections
from .feature_format import Cut, cut, default_chunk_rows
from .feature_writer import FeatureWriter
from .flagged_spots import flagged_spots, readable_spots
from .records import CsrMatrix, Graph, Overview, SectionRecord, spots_digest
from .section import StoredSection
from .store import Store, create_store, open_store

__all__ = [
    "CsrMatrix",
    "Cut",
    "FeatureWriter",
    "Graph",
    "Overview",
    "SectionRecord",
    "Store",
    "StoredSection",
    "choose_features",
    "choose_sections",
    "create_store",
    "cut",
    "default_chunk_rows",
    "flagged_spots",
    "open_store",
    "readable_spots",
    "spots_digest",
]
