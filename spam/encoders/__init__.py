"""Tile encoders: cards that describe them, and the one place that builds them.

Names resolve on first use: the registry is there without torch and timm, which take seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registry import encoder_card, list_encoders

if TYPE_CHECKING:
    from .adapter import adapted_card, read_adapter
    from .build import build_encoder
    from .checking import check_encoders, require_reachable
    from .encoder import Encoder

__all__ = [
    "Encoder",
    "adapted_card",
    "build_encoder",
    "check_encoders",
    "encoder_card",
    "list_encoders",
    "read_adapter",
    "require_reachable",
]


def __getattr__(name: str) -> Any:
    homes = {
        "Encoder": ".encoder",
        "adapted_card": ".adapter",
        "build_encoder": ".build",
        "check_encoders": ".checking",
        "read_adapter": ".adapter",
        "require_reachable": ".checking",
    }
    if name in homes:
        return getattr(import_module(homes[name], __name__), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
