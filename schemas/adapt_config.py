"""Options of `spam adapt`."""

import dataclasses
from typing import Literal

from .config import check, flag, option
from .training_config import PretrainConfig

__all__ = ["UNUSED_BY_ADAPT", "AdaptConfig"]

UNUSED_BY_ADAPT = ("n_components",)
"""Options of pretraining that adaptation has no use for: the encoder's features enter whole."""

_OF_THE_CONTRAST = ("mode", "temperature", "mixing", "targets", "mask_neighbours")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaptConfig(PretrainConfig):
    """Options of `spam adapt`: those of the contrastive stage, and LoRA's own.

    The tiles are described apart, by the `EmbedConfig` that embedded them.
    """

    sections: tuple[str, ...] = option(
        (),
        "sections to train on (default: all that the files describe); leave out any that will be predicted later",
    )
    objective: Literal["contrastive", "supervised"] = option(
        "contrastive",
        "what the encoder learns: to tell its own spot's expression and neighbourhood from those of others, or to "
        "predict expression",
    )
    epochs: int = option(
        10,
        "passes over the tiles of the training spots; one takes a few times as long as `spam embed`",
    )
    lora_r: int = option(16, "rank of the update of a layer")
    lora_alpha: float = option(32.0, "scale of the update: it is multiplied by alpha / rank")
    lora_dropout: float = option(
        0.05, "share of a layer's inputs dropped on the way to the update, in training"
    )
    grad_checkpointing: bool = option(
        False,  # noqa: FBT003
        "compute activations twice rather than keep them: less memory, a third more time",
    )
    memory_gb: float = option(
        4.0, "keep up to so many GB of tiles in memory; more go into a temporary file in --save-dir"
    )

    def __post_init__(self) -> None:
        # Not super(): a class with slots is made twice, and super() finds the first.
        PretrainConfig.__post_init__(self)
        default = {field.name: field.default for field in dataclasses.fields(self)}
        idle = [name for name in UNUSED_BY_ADAPT if getattr(self, name) != default[name]]
        if self.objective == "supervised":
            idle += [name for name in _OF_THE_CONTRAST if getattr(self, name) != default[name]]
        check(
            [
                f"--store must be a folder, not {self.store!r}: fetch it first with `spam store pull`"
                if isinstance(self.store, str)
                else None,
                f"{', '.join(map(flag, idle))} changes nothing with --objective {self.objective}; leave it out"
                if idle
                else None,
                f"--lora-r must be at least 1, not {self.lora_r}" if self.lora_r < 1 else None,
                f"--lora-alpha must be positive, not {self.lora_alpha}" if not self.lora_alpha > 0 else None,
                f"--lora-dropout must be in [0, 1), not {self.lora_dropout}"
                if not 0 <= self.lora_dropout < 1
                else None,
                f"--memory-gb must not be negative, not {self.memory_gb}"
                if not self.memory_gb >= 0
                else None,
            ]
        )
