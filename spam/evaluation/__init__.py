"""Metrics, and boards that set a model beside its baselines."""

from .board import HEADLINE_SET, HEST_SET, RIVAL, score_section
from .board_report import SCORE_HEADINGS, BoardReport, SetScore, Verdict
from .count_scores import score_counts
from .intervals import Interval, bootstrap_mean
from .metrics import auc, coverage, mae, moran_correlation, mse, pearson, r2, spearman, ssim
from .predicted import PredictedExpression, SectionTruth
from .stored_truth import MODEL, score_predicted

__all__ = [
    "HEADLINE_SET",
    "HEST_SET",
    "MODEL",
    "RIVAL",
    "SCORE_HEADINGS",
    "BoardReport",
    "Interval",
    "PredictedExpression",
    "SectionTruth",
    "SetScore",
    "Verdict",
    "auc",
    "bootstrap_mean",
    "coverage",
    "mae",
    "moran_correlation",
    "mse",
    "pearson",
    "r2",
    "score_counts",
    "score_predicted",
    "score_section",
    "spearman",
    "ssim",
]
