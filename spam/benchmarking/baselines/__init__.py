"""Lines that a model has to beat: constants, neighbours, ridges, averages of them and small networks."""

from .averages import Average, average_of
from .catalogue import METHODS
from .kernels import ImageNeighbours, KernelRidge
from .means import CoordinateNeighbours, TrainingMean
from .networks import CountMlp, SquaredErrorMlp
from .ridges import TUNED_RIDGE, HestRidge, NegativeBinomialRidge, RidgeStep

__all__ = [
    "METHODS",
    "TUNED_RIDGE",
    "Average",
    "CoordinateNeighbours",
    "CountMlp",
    "HestRidge",
    "ImageNeighbours",
    "KernelRidge",
    "NegativeBinomialRidge",
    "RidgeStep",
    "SquaredErrorMlp",
    "TrainingMean",
    "average_of",
]
