"""Options of the two training stages."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import check, option
from .feature_options import FeatureOptions

__all__ = ["FinetuneConfig", "PretrainConfig", "TrainingConfig"]

_POSITIVE = ("epochs", "batch_size", "k", "n_top_genes", "lr", "n_components")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(FeatureOptions):
    """What both stages share: which data, which features, how long."""

    sections: tuple[str, ...] = option((), "sections to train on, e.g. C2,C3,C4 (default: all of the store)")
    val_sections: tuple[str, ...] = option(
        (),
        "sections held out for validation, among --sections or beside them "
        "(default: the last section; with three or more donors, all of them known, every section of its donor, unless that "
        "is more than half; with one section, a block of it)",
    )
    save_dir: Path | None = option(None, "folder for best.safetensors, last.safetensors and the run's log")
    epochs: int = option(50, "passes over the training spots")
    batch_size: int = option(128, "spots per step")
    lr: float = option(3e-4, "learning rate of AdamW")
    weight_decay: float = option(0.05, "weight decay of AdamW")
    dropout: float = option(0.1, "share of activations dropped in training")
    n_components: int = option(256, "principal components kept of the image features (or as pretrained)")
    use_hvg: bool = option(
        True,  # noqa: FBT003
        "model the most variable genes alone, chosen on the run's sections (or as pretrained)",
    )
    n_top_genes: int = option(
        541, "how many of them (or as pretrained); the 50 genes of the HEST board come on top"
    )
    seed: int = option(0, "seed of every random number")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    amp: bool = option(False, "train in mixed precision (losses stay in float32)")  # noqa: FBT003
    amp_dtype: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "number format of --amp; auto is bf16"
    )
    num_workers: int = option(
        0, "CPU threads of the trainer (0: as PyTorch chooses); batches are resident, nothing is loaded"
    )
    overwrite: bool = option(False, "start again where the save dir holds another run")  # noqa: FBT003

    def shared_faults(self) -> list[str | None]:
        """List what is wrong with the options that both stages share."""
        return [
            "--store is missing: give the feature store that `spam embed` wrote"
            if self.store is None
            else None,
            "--save-dir is missing: say where the checkpoints go" if self.save_dir is None else None,
            *(
                f"--{name.replace('_', '-')} must be positive, not {getattr(self, name)}"
                for name in _POSITIVE
                if not getattr(self, name) > 0
            ),
            f"--dropout must be in [0, 1), not {self.dropout}" if not 0 <= self.dropout < 1 else None,
            f"--weight-decay must not be negative, not {self.weight_decay}"
            if self.weight_decay < 0
            else None,
            f"--num-workers must not be negative, not {self.num_workers}" if self.num_workers < 0 else None,
            f"--seed must not be negative, not {self.seed}" if self.seed < 0 else None,
        ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Options of `spam pretrain` (stage 1, contrastive alignment)."""

    mode: Literal["joint", "img-gene", "img-coord"] = option(
        "joint", "what to align the image with: both, gene expression, or the spatial neighbourhood"
    )
    batch_size: int = option(64, "spots per step: each is contrasted with all others of its batch")
    proj_dim: int = option(128, "length of the shared embedding")
    temperature: float = option(0.15, "temperature of InfoNCE")
    mixing: float = option(
        0.5, "weight of the image-to-other direction of InfoNCE; the other direction gets the rest"
    )
    targets: Literal["hard", "soft"] = option(
        "hard", "expression that an image should match: its own spot's alone, or also that of spots like it"
    )
    mask_neighbours: bool = option(
        False,  # noqa: FBT003
        "do not contrast a spot with its spatial neighbours, which may be near copies of it",
    )
    balance_donors: bool = option(
        False,  # noqa: FBT003
        "have equally many spots of each donor in every batch: an epoch draws as many of each as the one with fewest has; "
        "a section without a donor counts as one",
    )

    def __post_init__(self) -> None:
        check(
            [
                *self.shared_faults(),
                f"--batch-size must be at least 2, not {self.batch_size}: a contrast needs another spot"
                if self.batch_size == 1
                else None,
                f"--proj-dim must be positive, not {self.proj_dim}" if self.proj_dim < 1 else None,
                f"--temperature must be positive, not {self.temperature}"
                if not self.temperature > 0
                else None,
                f"--mixing must be in [0, 1], not {self.mixing}" if not 0 <= self.mixing <= 1 else None,
                "--targets soft changes nothing with --mode img-coord, which reads no expression; leave one of them out"
                if self.targets == "soft" and self.mode == "img-coord"
                else None,
            ]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Options of `spam finetune` (stage 2, expression and count likelihood)."""

    pretrained_ckpt: Path | None = option(
        None, "checkpoint of `spam pretrain`; without it the encoders start fresh"
    )
    epochs: int = option(30, "passes over the training spots; how many are kept is decided on held-out spots")
    batch_size: int = option(64, "spots per step")
    lr: float = option(1e-3, "learning rate of AdamW")
    weight_decay: float = option(0.1, "weight decay of AdamW")
    dropout: float = option(0.4, "share of image inputs and of activations dropped in training")
    members: int = option(4, "networks of different random weights that are averaged")
    path: Literal["mean", "ridge"] = option(
        "mean", "what the networks are added to: the mean of the training sections, or a ridge on the image"
    )
    attend: Literal["none", "neighbours", "references", "both"] = option(
        "none",
        "what a spot attends to beside its own inputs: its spatial neighbours, spots retrieved from other sections, or both",
    )
    fuse_dim: int = option(128, "width of the attention and of the merged embedding")
    heads: int = option(4, "attention heads; must divide --fuse-dim")
    merge: Literal["gated-sum", "concat-proj"] = option(
        "gated-sum", "how the attended image, coordinate and gene parts are merged"
    )
    likelihood: Literal["zinb", "nb", "poisson"] = option("zinb", "distribution of the raw counts")
    n_neighbours: int = option(8, "spatial neighbours that a spot attends to")
    with_bank: bool = option(
        False,  # noqa: FBT003
        "store the expression of all training spots in the checkpoint, for --attend references or both and for panels of "
        "genes in `spam predict --context-h5ad`; share such a checkpoint only if you may share the counts",
    )
    n_references: int = option(16, "spots of other sections that a spot attends to")

    def __post_init__(self) -> None:
        check(
            [
                *self.shared_faults(),
                f"--members must be positive, not {self.members}" if self.members < 1 else None,
                f"--heads must divide --fuse-dim, not {self.heads} into {self.fuse_dim}"
                if self.heads < 1 or self.fuse_dim < 1 or self.fuse_dim % self.heads
                else None,
                f"--n-neighbours must be at most --k {self.k}, not {self.n_neighbours}: the graph has no more; "
                "raise --k or lower --n-neighbours"
                if self.n_neighbours > self.k
                else None,
                f"--n-neighbours must be at least 2, not {self.n_neighbours}: one token is no attention"
                if self.n_neighbours < 2
                else None,
                f"--n-references must be at least 2, not {self.n_references}: one token is no attention"
                if self.n_references < 2
                else None,
                f"--attend {self.attend} needs --with-bank: predictions then read the expression of training spots, which "
                "the checkpoint must hold"
                if self.attend in ("references", "both") and not self.with_bank
                else None,
            ]
        )
