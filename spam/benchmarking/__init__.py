"""Cross-validation of baselines, peers' ideas and SPAM on the same features, folds and scores."""

from .benchmark import benchmark
from .report import BenchmarkReport
from .task import CountPrediction, FoldTask, Method, MethodPrediction

__all__ = ["BenchmarkReport", "CountPrediction", "FoldTask", "Method", "MethodPrediction", "benchmark"]
