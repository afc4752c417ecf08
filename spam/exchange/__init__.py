"""Features that were made elsewhere: read, checked, and matched to the spots of a section."""

from .exporting import ExportReport, export, to_anndata
from .foreign_features import read_foreign_features
from .importing import ImportReport, import_features
from .matching import match_to_spots
from .records import FeatureSource, ForeignFeatures, ForeignKind

__all__ = [
    "ExportReport",
    "FeatureSource",
    "ForeignFeatures",
    "ForeignKind",
    "ImportReport",
    "export",
    "import_features",
    "match_to_spots",
    "read_foreign_features",
    "to_anndata",
]
