"""Metadata inside a checkpoint file: its training data, and the features that a store must have to be used with it."""

import dataclasses
from typing import Any, Literal

from spam.errors import ConfigError

from .adapt_config import AdaptConfig
from .records import Record, number, record_of
from .tile_spec import check_tiles
from .training_config import FinetuneConfig, PretrainConfig

CHECKPOINT_FORMAT = "spam-checkpoint"
CHECKPOINT_VERSION = 8
CHECKPOINT_NAME = "best.safetensors"
"""File of a finished training, in its folder and where it is shared."""
ADAPTER_NAME = "lora"
"""Folder beside it of the adapter of its encoder, if that is adapted."""

# options that readers need
_USED = ("k", "n_components", "n_top_genes", "use_hvg", "n_neighbours", "n_references")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentSettings(Record):
    """Arguments of `spam.models.AlignmentModel`."""

    image_dim: int = number("[0,1000000]")
    n_genes: int = number("[1,1000000]")
    proj_dim: int = number("[1,8192]")
    mode: Literal["joint", "img-gene", "img-coord"]
    dropout: float = number("[0,1)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FusionSettings(Record):
    """Arguments of `spam.models.FusionEnsemble`."""

    members: int = number("[1,100]")
    image_dim: int = number("[0,1000000]")
    n_genes: int = number("[1,1000000]")
    proj_dim: int = number("[1,8192]")
    fuse_dim: int = number("[1,8192]")
    heads: int = number("[1,1024]")
    merge: Literal["gated-sum", "concat-proj"]
    dropout: float = number("[0,1)")
    likelihood: Literal["zinb", "nb", "poisson"]
    branches: tuple[Literal["coord", "gene"], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMeta(Record):
    """Everything of a checkpoint that is not a tensor.

    Attributes
    ----------
    stage
        ``pretrain`` or ``finetune``; ``selection`` and ``adapt`` for states that only serve to resume a run.
    epoch
        Epochs behind these weights; 0 is the state before the first step.
    config
        The resolved configuration.
    config_digest, data_digest
        What must be equal for a run to be resumed.
    licences
        Licence of counts and images of each section, None if unstated.
    feature_keys, tiles, feature_dims, encoders
        Feature arrays used together, their tile specs, lengths and encoders, in order. Of an encoder: its name, source,
        revision and licence, as on its card, and the digest of its weights.
    is_averaged
        Whether the features are means over the symmetries of the tile.
    section_digests
        Up to 64 digests of spots, genes and images of each section that was read, see `Profiles` in ``spam/store``; they
        find the same tissue under another name.
    genes
        Modelled genes, in order.
    gene_sets
        Named subsets of `genes`, chosen on the sections of the run.
    train_sections, val_sections
        Sections that were trained on and held out; a single section is named in both, since blocks of it are held out.
    donors
        Number of the donor of each of these sections, then of those used only in pretraining or to adapt the encoder; None
        for an unknown donor. Names of donors are not stored.
    depth
        Median library size of the training spots.
    metrics
        Validation metrics of this epoch.
    history
        Figures of every epoch so far.
    best
        Best validation loss so far and its epoch.
    settings
        Sizes needed to build the networks again.
    software
        Package versions.
    format, version
        Of the file.
    """

    stage: Literal["pretrain", "selection", "finetune", "adapt"]
    epoch: int = number("[0,1000000]")
    config: dict[str, Any]
    config_digest: str
    data_digest: str
    feature_keys: tuple[str, ...]
    tiles: tuple[dict[str, Any], ...]
    feature_dims: tuple[int, ...] = number("[1,1000000]")
    encoders: tuple[dict[str, str | None], ...]
    genes: tuple[str, ...]
    gene_sets: dict[str, list[str]]
    train_sections: tuple[str, ...]
    val_sections: tuple[str, ...]
    donors: dict[str, int | None]
    depth: float = number("(0,1e12]")
    metrics: dict[str, float]
    history: list[dict[str, float]]
    best: dict[str, float]
    settings: dict[str, Any]
    software: dict[str, str]
    is_averaged: bool = False
    licences: dict[str, str | None] = dataclasses.field(default_factory=dict)
    section_digests: dict[str, dict[str, list[int]]] = dataclasses.field(default_factory=dict)
    format: str = CHECKPOINT_FORMAT
    version: int = CHECKPOINT_VERSION

    @property
    def encoder_names(self) -> tuple[str, ...]:
        """Names of the encoders, each once."""
        return tuple(dict.fromkeys(str(encoder["name"]) for encoder in self.encoders))

    def check_parts(self) -> None:
        """Check the mappings, and that the parts agree with each other."""
        check_tiles(self.tiles)
        is_adapted = self.stage == "adapt"
        options = (
            AdaptConfig if is_adapted else PretrainConfig if self.stage == "pretrain" else FinetuneConfig
        )
        absent = [name for name in _USED if name not in self.config and hasattr(options, name)]
        paths = {"store": "store", "save_dir": "folder"}  # are not stored
        try:
            options.from_mapping({**self.config, **paths})
        except ConfigError as error:
            absent.append(str(error))
        n_genes = len(self.genes)
        if self.stage == "pretrain":
            n_genes = record_of(AlignmentSettings, self.settings, "settings.").n_genes
        elif not is_adapted:
            n_genes = record_of(FusionSettings, self.settings, "settings.").n_genes
        of_features = (self.feature_keys, self.tiles, self.feature_dims, self.encoders)
        is_named = [encoder.get("name") and encoder.get("weights_sha256") for encoder in self.encoders]
        named = {*self.train_sections, *self.val_sections}
        wrong = {
            f"config: {', '.join(absent)}": bool(absent),
            "feature_keys, tiles, feature_dims and encoders differ in length": len(set(map(len, of_features)))
            > 1,
            "encoders lack a name or weights_sha256": not (is_named and all(is_named)),
            f"settings.n_genes is not the number of genes, {len(self.genes)}": n_genes != len(self.genes),
            "donors lack a section": not named <= self.donors.keys(),
            "gene_sets have genes that are not modelled": not {
                gene for genes in self.gene_sets.values() for gene in genes
            }
            <= set(self.genes),
        }
        if any(wrong.values()):
            raise TypeError("; ".join(fault for fault, is_found in wrong.items() if is_found))
