"""Metrics, boards, and the benchmark: cross-validation of baselines, re-implemented peers and SPAM."""

from .boards import RIVAL, BoardReport, PredictedExpression, SectionTruth, score_section
from .cross_validation import BenchmarkReport, benchmark
from .folds import FoldTask
from .methods import CountPrediction, Method, MethodPrediction
from .metrics import pearson
from .spam_method import ALL_METHODS
from .stored_truth import MODEL, score_predicted

__all__ = [
    "ALL_METHODS",
    "MODEL",
    "RIVAL",
    "BenchmarkReport",
    "BoardReport",
    "CountPrediction",
    "FoldTask",
    "Method",
    "MethodPrediction",
    "PredictedExpression",
    "SectionTruth",
    "benchmark",
    "pearson",
    "score_predicted",
    "score_section",
]
