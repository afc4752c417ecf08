"""How lists of ids and names are put into messages."""

from collections.abc import Iterable, Sequence
from itertools import islice

__all__ = ["N_EXAMPLES", "first_few", "quoted"]

N_EXAMPLES = 5  # enough to see a pattern, few enough to read


def first_few(names: Iterable[str]) -> tuple[str, ...]:
    """Take the first `N_EXAMPLES` names as plain strings."""
    return tuple(str(name) for name in islice(names, N_EXAMPLES))


def quoted(names: Sequence[str]) -> str:
    """Quote the first few names, and say that there are more: ``'a', 'b', …``."""
    shown = ", ".join(repr(name) for name in first_few(names))
    return f"{shown}, …" if len(names) > N_EXAMPLES else shown
