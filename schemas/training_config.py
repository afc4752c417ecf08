"""Options of the two training stages."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import check, flag, option
from .embed_config import FeatureOptions

__all__ = ["FinetuneConfig", "PretrainConfig", "TrainingConfig"]

_POSITIVE = ("epochs", "batch_size", "k", "n_top_genes", "lr", "n_components")
_NOT_NEGATIVE = ("weight_decay", "num_workers", "seed")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(FeatureOptions):
    """Options that both stages share: which data, which features, how long."""

    sections: tuple[str, ...] = option((), "sections to train on, e.g. C2,C3,C4 (default: all in the store)")
    val_sections: tuple[str, ...] = option(
        (),
        "sections held out for validation, among --sections or beside them (default: all sections of the last donor if "
        "three or more donors are known and these are at most half of the sections, else the last section; of a single "
        "section, a block)",
    )
    save_dir: Path | None = option(None, "folder for best.safetensors, last.safetensors and the log")
    epochs: int = option(50, "passes over the training spots")
    batch_size: int = option(128, "spots per step")
    lr: float = option(3e-4, "learning rate of AdamW")
    weight_decay: float = option(0.05, "weight decay of AdamW")
    dropout: float = option(0.1, "dropout rate")
    n_components: int = option(256, "principal components of the image features (or as pretrained)")
    use_hvg: bool = option(
        True,  # noqa: FBT003
        "model only the most variable genes of the run's sections (or as pretrained)",
    )
    n_top_genes: int = option(
        541, "how many of them (or as pretrained), besides the 50 genes of the HEST board"
    )
    seed: int = option(0, "random seed")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    amp: bool = option(False, "train in mixed precision (losses stay in float32)")  # noqa: FBT003
    amp_dtype: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "number format of --amp; auto is bf16"
    )
    num_workers: int = option(
        0, "CPU threads of PyTorch (0: its default); data are in memory, so nothing is loaded"
    )
    overwrite: bool = option(False, "start again if the save dir holds another run")  # noqa: FBT003

    def shared_faults(self) -> list[str | None]:
        """List what is wrong with the options that both stages share."""
        return [
            "--store is missing: give a feature store written by `spam embed`"
            if self.store is None
            else None,
            "--save-dir is missing: give a folder for the checkpoints" if self.save_dir is None else None,
            *(
                f"{flag(name)} must be positive, not {getattr(self, name)}"
                for name in _POSITIVE
                if not getattr(self, name) > 0
            ),
            *(
                f"{flag(name)} must not be negative, not {getattr(self, name)}"
                for name in _NOT_NEGATIVE
                if getattr(self, name) < 0
            ),
            f"--dropout must be in [0, 1), not {self.dropout}" if not 0 <= self.dropout < 1 else None,
        ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Options of `spam pretrain` (stage 1, contrastive alignment)."""

    mode: Literal["joint", "img-gene", "img-coord"] = option(
        "joint", "align the image with gene expression, with the spatial neighbourhood, or with both (joint)"
    )
    batch_size: int = option(64, "spots per step; each is contrasted with all others of its batch")
    proj_dim: int = option(128, "width of the shared embedding")
    temperature: float = option(0.15, "temperature of InfoNCE")
    mixing: float = option(
        0.5, "weight of the image-to-other direction of InfoNCE; the other direction gets the rest"
    )
    targets: Literal["hard", "soft"] = option(
        "hard",
        "match an image with its spot's expression only, or also with similar expression of other spots",
    )
    mask_neighbours: bool = option(
        False,  # noqa: FBT003
        "do not contrast a spot with its spatial neighbours, which can be near copies of it",
    )
    balance_donors: bool = option(
        False,  # noqa: FBT003
        "draw equally many spots of each donor in every batch, limited by the donor with the fewest; a section without "
        "a donor counts as one",
    )

    def __post_init__(self) -> None:
        check(
            [
                *self.shared_faults(),
                "--batch-size must be at least 2, not 1: a contrast needs another spot"
                if self.batch_size == 1
                else None,
                f"--proj-dim must be positive, not {self.proj_dim}" if self.proj_dim < 1 else None,
                f"--temperature must be positive, not {self.temperature}"
                if not self.temperature > 0
                else None,
                f"--mixing must be in [0, 1], not {self.mixing}" if not 0 <= self.mixing <= 1 else None,
                "--targets soft has no effect with --mode img-coord, which does not read expression"
                if self.targets == "soft" and self.mode == "img-coord"
                else None,
            ]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Options of `spam finetune` (stage 2, expression and count likelihood)."""

    pretrained_ckpt: Path | None = option(
        None, "checkpoint of `spam pretrain` to start the encoders from (default: random weights)"
    )
    epochs: int = option(30, "most passes over the training spots; held-out spots decide how many are used")
    batch_size: int = option(64, "spots per step")
    lr: float = option(1e-3, "learning rate of AdamW")
    weight_decay: float = option(0.1, "weight decay of AdamW")
    dropout: float = option(0.4, "dropout rate, also of the image inputs")
    members: int = option(4, "networks with different random weights, whose predictions are averaged")
    path: Literal["mean", "ridge"] = option(
        "mean",
        "what the networks correct: the mean of the training sections, or a ridge regression on the image",
    )
    attend: Literal["none", "neighbours", "references", "both"] = option(
        "none",
        "what a spot attends to besides its image: its spatial neighbours, similar spots of other sections (needs "
        "--with-bank), or both",
    )
    with_bank: bool = option(
        False,  # noqa: FBT003
        "store the expression of all training spots in the checkpoint, for --attend references or both and for gene "
        "panels in `spam predict --context-h5ad`; share such a checkpoint only if you may share the counts",
    )
    fuse_dim: int = option(128, "width of the attention and of the merged embedding")
    heads: int = option(4, "attention heads; must divide --fuse-dim")
    merge: Literal["gated-sum", "concat-proj"] = option(
        "gated-sum", "how image, neighbours and references are merged"
    )
    likelihood: Literal["zinb", "nb", "poisson"] = option("zinb", "distribution of the raw counts")
    n_neighbours: int = option(8, "spatial neighbours that a spot attends to")
    n_references: int = option(16, "spots of other sections that a spot attends to")

    def __post_init__(self) -> None:
        check(
            [
                *self.shared_faults(),
                f"--members must be positive, not {self.members}" if self.members < 1 else None,
                f"--heads must divide --fuse-dim, not {self.heads} into {self.fuse_dim}"
                if self.heads < 1 or self.fuse_dim < 1 or self.fuse_dim % self.heads
                else None,
                f"--n-neighbours must be from 2 to --k {self.k}, not {self.n_neighbours}"
                if not 2 <= self.n_neighbours <= self.k
                else None,
                f"--n-references must be at least 2, not {self.n_references}"
                if self.n_references < 2
                else None,
                f"--attend {self.attend} needs --with-bank: the checkpoint must store the expression of the training spots"
                if self.attend in ("references", "both") and not self.with_bank
                else None,
            ]
        )
