"""Cards of encoders and of their adapters: what is needed to build them, feed them, and share their features."""

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal

from spam.errors import shortened

from .records import Record, number, record_of
from .tile_spec import check_tiles

Pooling = Literal["model", "cls", "mean", "cls+mean", "stages"]

WeightLayout = Literal[
    "timm",
    "in-order",
    "vit",
    "dinov2",
    "dinov2-original",
    "clip",
    "coca",
    "titan",
    "ctranspath",
    "beit3",
    "genbio",
]
"""How published weights are named: as in timm, in other names but timm's order, or as in another implementation."""

ADAPTER_FORMAT, ADAPTER_VERSION = "spam-adapter", 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCard(Record):
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
    dim: int = number("[1,1000000]")
    hub_id: str | None = None
    architecture: str = ""
    kwargs: tuple[tuple[str, Any], ...] = ()
    revision: str | None = None
    weights_file: str | None = None
    layout: WeightLayout = "timm"
    input_px: int = number("[1,10000]", 224)
    resize_px: int | None = number("[1,10000]", None)
    native_mpp: float | None = number("(0,10000]", None)
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


def check_card(values: Mapping[str, Any]) -> None:
    """Check the card of an encoder in the metadata of features or of an adapter; unknown entries are of other versions.

    Raises
    ------
    TypeError
        If an entry is missing or of another type.
    """
    card = {field.name: values.get(field.name, field.default) for field in dataclasses.fields(EncoderCard)}
    # imported features may lack them
    card |= {"source": values.get("source", ""), "dim": values.get("dim", 1)}
    if isinstance(card["kwargs"], Mapping):
        card["kwargs"] = tuple(card["kwargs"].items())
    record_of(
        EncoderCard,
        {key: value for key, value in card.items() if value is not dataclasses.MISSING},
        "encoder.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCard(Record):
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
    format, version
        Of the file.
    """

    encoder: dict[str, Any]
    weights_sha256: str
    adapter_sha256: str
    tiles: tuple[dict[str, Any], ...]
    train_sections: tuple[str, ...]
    val_sections: tuple[str, ...]
    genes: tuple[str, ...]
    epochs: int = number("[0,1000000]")
    best_epoch: int = number("[0,1000000]")
    history: list[dict[str, float]]
    config: dict[str, Any]
    software: dict[str, str]
    format: str = ADAPTER_FORMAT
    version: int = ADAPTER_VERSION

    @property
    def encoder_name(self) -> str:
        """Name of the adapted encoder, in feature keys and for ``--enc-name``."""
        return f"{self.encoder['name']}-lora-{self.adapter_sha256[:8]}"

    def check_parts(self) -> None:
        """Check the entries that are mappings, and the version."""
        if (self.format, self.version) != (ADAPTER_FORMAT, ADAPTER_VERSION):
            found = f"{self.format:.60} {shortened(self.version)}"
            message = f"it is of format {found}, expected {ADAPTER_FORMAT} {ADAPTER_VERSION}"
            raise TypeError(message)
        check_card(self.encoder)
        check_tiles(self.tiles)
