"""`spam predict`: prediction, then scores where there is ground truth, then plots."""

from .predict_report import PredictReport
from .running import predict

__all__ = ["PredictReport", "predict"]
