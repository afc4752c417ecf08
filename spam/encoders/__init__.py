"""Tile encoders: cards that describe them, their weights, and the networks built from both.

Names resolve on first use: the registry does not import torch and timm, which take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registry import encoder_card as encoder_card
from .registry import list_encoders as list_encoders

if TYPE_CHECKING:
    from .encoder import Encoder as Encoder
    from .encoder import build_encoder as build_encoder
    from .lora_adapter import adapted_card as adapted_card
    from .lora_adapter import read_adapter as read_adapter
    from .weight_access import check_encoders as check_encoders
    from .weight_access import require_reachable as require_reachable

_HOMES = {
    "Encoder": ".encoder",
    "build_encoder": ".encoder",
    "adapted_card": ".lora_adapter",
    "read_adapter": ".lora_adapter",
    "check_encoders": ".weight_access",
    "require_reachable": ".weight_access",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
