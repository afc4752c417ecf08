"""What an adapter folder says of itself, beside the files that peft writes: on what it was trained, and for which encoder."""

import dataclasses
from typing import Any, Literal

__all__ = ["ADAPTER_FORMAT", "ADAPTER_VERSION", "AdapterCard"]

ADAPTER_FORMAT = "spam-adapter"
ADAPTER_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """One LoRA adapter, as data.

    Attributes
    ----------
    encoder
        Card of the encoder that was adapted, as a mapping (`EncoderCard.to_mapping`).
    weights_sha256
        Digest of that encoder's own weights: the adapter means nothing to others.
    adapter_sha256
        Digest of the adapter: its weights, and what of peft's configuration decides how they are merged.
    tiles
        Tile specs that it was trained on, as mappings (`TileSpec.to_mapping`).
    targets
        Patterns of the layers that were adapted, each matching whole names of layers.
    objective
        ``contrastive`` or ``supervised``.
    train_sections, val_sections
        Sections that were trained on and held out; with one section both name it, and its blocks are told apart.
    genes
        Genes whose expression the encoder was adapted to.
    epochs, best_epoch
        Epochs that were run, and the one that this adapter is of; 0 leaves the encoder as it was.
    history
        Figures of every epoch.
    config
        Options of the run, without folders of the machine that it ran on.
    software
        Package versions.
    """

    encoder: dict[str, Any]
    weights_sha256: str
    adapter_sha256: str
    tiles: tuple[dict[str, Any], ...]
    targets: tuple[str, ...]
    objective: Literal["contrastive", "supervised"]
    train_sections: tuple[str, ...]
    val_sections: tuple[str, ...]
    genes: tuple[str, ...]
    epochs: int
    best_epoch: int
    history: list[dict[str, float]]
    config: dict[str, Any]
    software: dict[str, str]

    @property
    def encoder_name(self) -> str:
        """Name of the adapted encoder, in feature keys and on the command line of the trainers."""
        return f"{self.encoder['name']}-lora-{self.adapter_sha256[:8]}"

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types, with the format's name and version."""
        return {"format": ADAPTER_FORMAT, "version": ADAPTER_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "AdapterCard":
        """Rebuild from what `to_mapping` returned."""
        kept = {key: value for key, value in values.items() if key not in ("format", "version")}
        for key in ("tiles", "targets", "train_sections", "val_sections", "genes"):
            kept[key] = tuple(kept[key])
        return cls(**kept)
