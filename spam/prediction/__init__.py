"""Store and checkpoint -> predicted expression of a section."""

from .context import Context, condition
from .predicted_section import ContextReport, PredictedSection, write_predictions, write_table
from .predictor import Predictor

__all__ = [
    "Context",
    "ContextReport",
    "PredictedSection",
    "Predictor",
    "condition",
    "write_predictions",
    "write_table",
]
