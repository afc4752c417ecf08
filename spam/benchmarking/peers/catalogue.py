"""All peers in the order of the tables."""

from spam.benchmarking.task import Method

from .bleep import BLEEP
from .neighbourhood_set import NEIGHBOURHOOD_SET
from .regression import ST_NET_MLP
from .triplex import TRIPLEX

__all__ = ["METHODS"]

METHODS: tuple[Method, ...] = (ST_NET_MLP, BLEEP, TRIPLEX, NEIGHBOURHOOD_SET)
