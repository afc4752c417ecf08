"""All methods of the benchmark in the order of the tables, and the choice among them."""

import difflib
from collections.abc import Sequence

from spam.errors import ConfigError

from . import baselines, peers, spam_method
from .scoring import DEPTH_NULL
from .task import Method

__all__ = ["ABLATIONS", "ALL_METHODS", "choose_methods"]

ALL_METHODS: tuple[Method, ...] = (*baselines.METHODS, *peers.METHODS, spam_method.SPAM)
ABLATIONS: tuple[Method, ...] = spam_method.ABLATIONS
"""SPAM with or without one part; run by name, not with ``all``."""


def choose_methods(
    names: Sequence[str], known: Sequence[Method] = ALL_METHODS
) -> tuple[tuple[Method, ...], bool]:
    """Choose methods by name; ``all`` are all of `known`.

    Returns
    -------
    The methods, in the order of `known`, and whether the depth null, which is no method, is asked for too.

    Raises
    ------
    ConfigError
        If a name is unknown; names the nearest.
    """
    known_by_name = {method.name: method for method in (*known, *ABLATIONS)}
    offered = [DEPTH_NULL, *known_by_name]
    unknown = [name for name in names if name not in (*offered, "all")]
    if unknown:
        near = {name: difflib.get_close_matches(name, offered, n=1) for name in unknown}
        hints = [
            f"{name!r}" + (f" (did you mean {found[0]!r}?)" if found else "") for name, found in near.items()
        ]
        message = (
            f"--methods: there is no method {', '.join(hints)}; give all, or some of: {', '.join(offered)}"
        )
        raise ConfigError(message)
    whole = [method.name for method in known] if "all" in names else []
    chosen = tuple(method for name, method in known_by_name.items() if name in (*names, *whole))
    return chosen, DEPTH_NULL in names or "all" in names
