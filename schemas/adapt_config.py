"""Options of `spam adapt`."""

import dataclasses

from .config import advanced, data, flag, model, training
from .training_config import PretrainConfig

UNUSED_BY_ADAPT = ("n_components", "memory_budget")
"""Options of pretraining without effect here: the encoder's features enter whole, and stay in memory."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaptConfig(PretrainConfig):
    """Options of `spam adapt`: those of contrastive pretraining and those of LoRA; an `EmbedConfig` describes the tiles."""

    sections: tuple[str, ...] = data(
        (),
        "sections to train on (default: all of the given files); leave out those that you want to predict",
    )
    epochs: int = training(
        10,
        "passes over the tiles of the training spots; each takes a few times as long as `spam embed`",
        limits="[1,100000]",
    )
    batch_size: int | None = training(
        64,
        "spots per step; each is contrasted with all others of the batch",
        limits="[2,1000000]",
    )
    lora_r: int = model(16, "rank of the low-rank update of each layer", limits="[1,4096]")
    lora_alpha: float = model(
        32.0, "scale of the low-rank update: it is multiplied by alpha / rank", limits="(0,10000]"
    )
    lora_dropout: float = model(
        0.05, "dropout on the input of the low-rank update during training", limits="[0,1)"
    )
    grad_checkpointing: bool = advanced(
        False,
        "recompute activations instead of storing them: less memory, a third more time",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        fields = [field for field in dataclasses.fields(self) if field.name in UNUSED_BY_ADAPT]
        given = [flag(field.name) for field in fields if getattr(self, field.name) != field.default]
        remote = f"--store must be a folder, not {self.store!r}; download it with `spam store pull`"
        return [
            *PretrainConfig.faults(self),  # not super(): a dataclass with slots is created twice
            remote if isinstance(self.store, str) else None,
            f"{', '.join(given)} has no effect in `spam adapt`; omit it" if given else None,
        ]
