"""Tiles + frozen features in the store -> an adapter (LoRA) of the encoder; `spam embed --lora` embeds with it."""

from .adapting import adapt
from .report import AdaptReport

__all__ = ["AdaptReport", "adapt"]
