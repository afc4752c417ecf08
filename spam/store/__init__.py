"""The feature store: a Zarr v3 folder with one AnnData group per section (``docs/format.md``)."""

from .duplicates import Profiles, duplicates_in, profiles_of, warn_of_duplicates, warn_of_gene_names
from .feature_store import Store, choose_sections, create_store, differences, filled_store, open_store
from .features import FeatureWriter
from .gene_names import advice_on_names, describe_losses
from .layout import chunk_slices, default_chunk_rows
from .remote import local_file, pinned
from .section_tables import Overview, spots_digest
from .stored_section import (
    CsrMatrix,
    Graph,
    StoredSection,
    choose_features,
    flagged_spots,
    readable_spots,
)
from .verifying import verify

__all__ = [
    "CsrMatrix",
    "FeatureWriter",
    "Graph",
    "Overview",
    "Profiles",
    "Store",
    "StoredSection",
    "advice_on_names",
    "choose_features",
    "choose_sections",
    "chunk_slices",
    "create_store",
    "default_chunk_rows",
    "describe_losses",
    "differences",
    "duplicates_in",
    "filled_store",
    "flagged_spots",
    "local_file",
    "open_store",
    "pinned",
    "profiles_of",
    "readable_spots",
    "spots_digest",
    "verify",
    "warn_of_duplicates",
    "warn_of_gene_names",
]
