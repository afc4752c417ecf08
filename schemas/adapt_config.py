"""Options of `spam adapt`."""

import dataclasses

from .config import flag, option
from .training_config import PretrainConfig

UNUSED_BY_ADAPT = ("n_components",)
"""Options of pretraining without effect here: the encoder's features enter whole."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaptConfig(PretrainConfig):
    """Options of `spam adapt`: those of contrastive pretraining and those of LoRA; an `EmbedConfig` describes the tiles."""

    sections: tuple[str, ...] = option(
        (),
        "sections to train on (default: all of the given files); leave out those that you want to predict",
        panel="Data",
    )
    epochs: int = option(
        10,
        "passes over the tiles of the training spots; each takes a few times as long as `spam embed`",
        limits=">=1",
        panel="Training",
    )
    lora_r: int = option(16, "rank of the low-rank update of each layer", limits=">=1", panel="Model")
    lora_alpha: float = option(
        32.0, "scale of the low-rank update: it is multiplied by alpha / rank", limits=">0", panel="Model"
    )
    lora_dropout: float = option(
        0.05, "dropout on the input of the low-rank update during training", limits="[0,1)", panel="Model"
    )
    grad_checkpointing: bool = option(
        False,  # noqa: FBT003
        "recompute activations instead of storing them: less memory, a third more time",
        panel="Advanced",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        default = {field.name: field.default for field in dataclasses.fields(self)}
        given = [flag(name) for name in UNUSED_BY_ADAPT if getattr(self, name) != default[name]]
        return [
            *PretrainConfig.faults(self),  # not super(): a dataclass with slots is created twice
            f"--store must be a folder, not {self.store!r}; download it with `spam store pull`"
            if isinstance(self.store, str)
            else None,
            f"{', '.join(given)} has no effect in `spam adapt`; omit it" if given else None,
        ]
