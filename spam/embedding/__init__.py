"""Embed tiles once, and adapt encoders to a cohort: the only writer of features.

Names resolve on first use, because a plan needs neither torch nor timm, whose import takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapting import adapt as adapt
    from .embedding import embed as embed
    from .planning import dry_run as dry_run

_HOMES = {"adapt": ".adapting", "embed": ".embedding", "dry_run": ".planning"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
