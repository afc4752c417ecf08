"""Store + checkpoint -> expression of a section."""

from .predictor import Predictor
from .result import PredictedSection, write_predictions, write_table

__all__ = ["PredictedSection", "Predictor", "write_predictions", "write_table"]
