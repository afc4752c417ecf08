"""Store + checkpoint -> expression of a section."""

from .context import Context, condition
from .context_facts import ContextFacts, LibrarySize
from .context_report import ContextReport
from .predictor import Predictor
from .result import PredictedSection, write_predictions, write_table

__all__ = [
    "Context",
    "ContextFacts",
    "ContextReport",
    "LibrarySize",
    "PredictedSection",
    "Predictor",
    "condition",
    "write_predictions",
    "write_table",
]
