"""Cross-validation of baselines, peers' ideas and SPAM on the same features, folds and scores."""

from .task import CountPrediction, FoldTask, Method, MethodPrediction

__all__ = ["CountPrediction", "FoldTask", "Method", "MethodPrediction"]
