"""Features that were made elsewhere: read, checked, and matched to the spots of a section."""

from .foreign_features import read_foreign_features
from .matching import match_to_spots
from .records import FeatureSource, ForeignFeatures, ForeignKind

__all__ = [
    "FeatureSource",
    "ForeignFeatures",
    "ForeignKind",
    "match_to_spots",
    "read_foreign_features",
]
