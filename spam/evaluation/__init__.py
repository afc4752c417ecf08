"""Metrics, boards, and the benchmark: cross-validation of baselines, re-implemented peers and SPAM."""

from .boards import BoardReport, CountPrediction, MethodPrediction
from .cross_validation import BenchmarkReport, benchmark
from .folds import FoldTask
from .methods import Method
from .prediction_report import FinishedPrediction, PredictReport
from .spam_method import ALL_METHODS
from .stored_truth import MODEL, score_predicted

__all__ = [
    "ALL_METHODS",
    "MODEL",
    "BenchmarkReport",
    "BoardReport",
    "CountPrediction",
    "FinishedPrediction",
    "FoldTask",
    "Method",
    "MethodPrediction",
    "PredictReport",
    "benchmark",
    "score_predicted",
]
