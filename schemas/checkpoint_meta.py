"""Metadata inside a checkpoint file: its training data, and the features that a store must have to be used with it."""

import dataclasses
from typing import Any, Literal

from .config import Record

CHECKPOINT_FORMAT = "spam-checkpoint"
CHECKPOINT_VERSION = 5


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
    encoder_name, weights_sha256
        Encoder of the features, and the digest of its weights.
    feature_keys, tiles, feature_dims
        Feature arrays used together, their tile specs and their lengths, in order.
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
    epoch: int
    config: dict[str, Any]
    config_digest: str
    data_digest: str
    encoder_name: str
    weights_sha256: str
    feature_keys: tuple[str, ...]
    tiles: tuple[dict[str, Any], ...]
    feature_dims: tuple[int, ...]
    genes: tuple[str, ...]
    gene_sets: dict[str, list[str]]
    train_sections: tuple[str, ...]
    val_sections: tuple[str, ...]
    donors: dict[str, int | None]
    depth: float
    metrics: dict[str, float]
    history: list[dict[str, float]]
    best: dict[str, float]
    settings: dict[str, Any]
    software: dict[str, str]
    is_averaged: bool = False
    section_digests: dict[str, dict[str, list[int]]] = dataclasses.field(default_factory=dict)
    format: str = CHECKPOINT_FORMAT
    version: int = CHECKPOINT_VERSION
