"""Embed tiles once, and adapt encoders to a cohort: the only writer of features.

Names resolve on first use, because a plan needs neither torch nor timm, whose import takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapting import AdaptReport, adapt
    from .embedding import embed
    from .planning import EmbedPlan, plan

__all__ = ["AdaptReport", "EmbedPlan", "adapt", "embed", "plan"]

_HOMES = {
    "AdaptReport": ".adapting",
    "adapt": ".adapting",
    "embed": ".embedding",
    "EmbedPlan": ".planning",
    "plan": ".planning",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
