"""Cards of encoders and of their adapters: what is needed to build them, feed them, and share their features."""

import dataclasses
from pathlib import PurePath
from typing import Any, Literal

Pooling = Literal["model", "cls", "mean", "cls+mean", "stages"]

WeightLayout = Literal[
    "timm", "in-order", "vit", "dinov2", "dinov2-original", "clip", "coca", "titan", "ctranspath", "beit3"
]
"""How published weights are named: as in timm, in other names but timm's order, or as in another implementation."""

ADAPTER_FORMAT, ADAPTER_VERSION = "spam-adapter", 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCard:
    """One tile encoder, as data.

    Attributes
    ----------
    name
        Name on the command line and in feature keys.
    source
        Origin of the weights: ``package:<distribution>``, ``hf-hub:<org>/<name>``, ``timm:<model>``,
        ``local:<folder or file>``.
    hub_id
        Hub repository of a ``timm:`` source, if timm names one; not stored.
    architecture
        timm architecture, or one of `spam.encoders.timm_models`.
    kwargs
        Keyword arguments for ``timm.create_model``, as (key, value) pairs.
    revision
        Pinned Hub revision, or None.
    weights_file
        File of the repository that holds the weights; None for timm's own names, safetensors first.
    layout
        Naming of the weights in it.
    input_px
        Side of the input image in pixels.
    resize_px
        Side to which upstream resizes a tile before it crops the centre of `input_px`; None if it does not crop. Here a
        tile is what the encoder sees, and is not cropped.
    native_mpp
        µm per pixel of the training tiles; None if there were several, or it is unknown.
    mean, std
        Channel statistics for normalising the input.
    interpolation
        Resampling filter of the tile.
    pooling
        ``model`` (output of the model itself), ``cls``, ``mean`` (patch tokens), ``cls+mean`` (concatenated; without
        register tokens) or ``stages`` (mean and standard deviation of every channel of the last map of each stage of a
        convolutional network).
    precision
        Mixed precision that upstream uses.
    dim
        Length of a feature vector.
    licence
        SPDX name or the name of the custom licence.
    is_gated
        Whether the Hub requires an accepted licence and a token.
    paper
        DOI or arXiv id.
    aliases
        Other names of the card.
    """

    name: str
    source: str
    dim: int
    hub_id: str | None = None
    architecture: str = ""
    kwargs: tuple[tuple[str, Any], ...] = ()
    revision: str | None = None
    weights_file: str | None = None
    layout: WeightLayout = "timm"
    input_px: int = 224
    resize_px: int | None = None
    native_mpp: float | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    pooling: Pooling = "model"
    precision: Literal["float16", "bfloat16"] = "bfloat16"
    licence: str = "unknown"
    is_gated: bool = False
    paper: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def repository(self) -> str | None:
        """Hub repository that holds the weights; None if they are elsewhere."""
        kind, _, place = self.source.partition(":")
        return place if kind == "hf-hub" else self.hub_id

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types; of a local source only the last part, because stores are shared."""
        plain = {**dataclasses.asdict(self), "kwargs": dict(self.kwargs)}
        del plain["hub_id"]
        if self.source.startswith("local:"):
            plain["source"] = f"local:{PurePath(self.source).name}"
        lists = {key: list(plain[key]) for key in ("mean", "std", "aliases")}
        return plain | lists


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard:
    """One LoRA adapter, as data: its encoder and its training data.

    Attributes
    ----------
    encoder
        Card of the adapted encoder, as a mapping (`EncoderCard.to_mapping`).
    weights_sha256
        Digest of that encoder's own weights; the adapter fits no others.
    adapter_sha256
        Digest of the adapter: its weights, and the entries of peft's configuration that shape the merge.
    tiles
        Tile specs of the training, as mappings (`TileSpec.to_mapping`).
    train_sections, val_sections
        Sections for training and validation; with one section both name it, and blocks of it are separated.
    genes
        Genes whose expression the encoder was adapted to.
    epochs, best_epoch
        Epochs of the run, and the epoch of this adapter; 0 leaves the encoder unchanged.
    history
        Metrics of every epoch.
    config
        Options of the run, without folders.
    software
        Package versions.
    """

    encoder: dict[str, Any]
    weights_sha256: str
    adapter_sha256: str
    tiles: tuple[dict[str, Any], ...]
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
        """Name of the adapted encoder, in feature keys and for ``--enc-name``."""
        return f"{self.encoder['name']}-lora-{self.adapter_sha256[:8]}"

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types, with the format's name and version."""
        return {"format": ADAPTER_FORMAT, "version": ADAPTER_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "AdapterCard":
        """Rebuild from `to_mapping`; ValueError if format or version differ."""
        kept = dict(values)
        if (found := (kept.pop("format"), kept.pop("version"))) != (ADAPTER_FORMAT, ADAPTER_VERSION):
            message = f"format {found[0]} {found[1]}, expected {ADAPTER_FORMAT} {ADAPTER_VERSION}"
            raise ValueError(message)
        tuples = {key: tuple(kept[key]) for key in ("tiles", "train_sections", "val_sections", "genes")}
        return cls(**{**kept, **tuples})
