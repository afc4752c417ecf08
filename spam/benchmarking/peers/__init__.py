"""Ideas that users would pick instead, re-implemented on the same features."""

from .bleep import BLEEP
from .catalogue import METHODS
from .fitting import Peer
from .neighbourhood_set import NEIGHBOURHOOD_SET
from .regression import ST_NET_MLP
from .triplex import TRIPLEX

__all__ = ["BLEEP", "METHODS", "NEIGHBOURHOOD_SET", "ST_NET_MLP", "TRIPLEX", "Peer"]
