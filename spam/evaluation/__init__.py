"""Metrics, boards, and the benchmark: cross-validation of baselines, re-implemented peers and SPAM."""

from .boards import (
    HEADLINE_SET,
    HEST_SET,
    RIVAL,
    BoardReport,
    PredictedExpression,
    SectionTruth,
    score_section,
)
from .cross_validation import BenchmarkReport, benchmark
from .folds import FoldTask
from .methods import CountPrediction, Method, MethodPrediction
from .metrics import auc, coverage, mae, mse, pearson, r2, spearman, ssim
from .spam_method import ALL_METHODS
from .stored_truth import MODEL, score_predicted

__all__ = [
    "ALL_METHODS",
    "HEADLINE_SET",
    "HEST_SET",
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
    "auc",
    "benchmark",
    "coverage",
    "mae",
    "mse",
    "pearson",
    "r2",
    "score_predicted",
    "score_section",
    "spearman",
    "ssim",
]
