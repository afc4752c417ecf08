"""Store and checkpoint -> predicted expression of a section."""

from .context import Context, condition
from .predicted_section import ContextReport, PredictedSection, write_predictions, write_table
from .predictor import CALIBRATING_DONORS, Predictor

__all__ = [
    "CALIBRATING_DONORS",
    "Context",
    "ContextReport",
    "PredictedSection",
    "Predictor",
    "condition",
    "write_predictions",
    "write_table",
]
