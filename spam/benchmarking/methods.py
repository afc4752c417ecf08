"""All methods of the benchmark in the order of the tables, and the choice among them."""

import difflib
from collections.abc import Sequence

from spam.errors import ConfigError

from . import baselines, peers
from .scoring import DEPTH_NULL
from .task import Method

__all__ = ["ALL_METHODS", "choose_methods"]

ALL_METHODS: tuple[Method, ...] = (*baselines.METHODS, *peers.METHODS)


def choose_methods(
    names: Sequence[str], known: Sequence[Method] = ALL_METHODS
) -> tuple[tuple[Method, ...], bool]:
    """Choose methods by name; ``all`` are all of them.

    Returns
    -------
    The methods, in the order of `known`, and whether the depth null, which is no method, is asked for too.

    Raises
    ------
    ConfigError
        If a name is unknown; names the nearest.
    """
    offered = [DEPTH_NULL, *(method.name for method in known)]
    if "all" in names:
        return tuple(known), True
    unknown = [name for name in names if name not in offered]
    if unknown:
        near = {name: difflib.get_close_matches(name, offered, n=1) for name in unknown}
        hints = [
            f"{name!r}" + (f" (did you mean {found[0]!r}?)" if found else "") for name, found in near.items()
        ]
        message = (
            f"--methods: there is no method {', '.join(hints)}; give all, or some of: {', '.join(offered)}"
        )
        raise ConfigError(message)
    return tuple(method for method in known if method.name in names), DEPTH_NULL in names
