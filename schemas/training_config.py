"""Options of the two training stages."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import option
from .embed_config import FeatureOptions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(FeatureOptions):
    """Options that both stages share: data, features, length of the training."""

    sections: tuple[str, ...] = option(
        (), "sections to train on, e.g. C2,C3,C4 (default: all in the store)", panel="Data"
    )
    val_sections: tuple[str, ...] = option(
        (),
        "sections held out for validation (default: all sections of the last donor if three or more donors are known, unless "
        "that is more than half; else the last section; of a single section, a block)",
        panel="Data",
    )
    save_dir: Path | None = option(
        None,
        "folder for best.safetensors, last.safetensors and the log of the run",
        required="give a folder for the checkpoints",
        panel="Output",
    )
    epochs: int = option(50, "passes over the training spots", limits=">=1", panel="Training")
    batch_size: int = option(128, "spots per step", limits=">=1", panel="Training")
    lr: float = option(3e-4, "learning rate of AdamW", limits=">0", panel="Training")
    weight_decay: float = option(0.05, "weight decay of AdamW", limits=">=0", panel="Training")
    dropout: float = option(0.1, "dropout of activations", limits="[0,1)", panel="Training")
    n_components: int = option(
        256, "principal components of the image features (or as pretrained)", limits=">=1", panel="Model"
    )
    use_hvg: bool = option(
        True,  # noqa: FBT003
        "model only the most variable genes of the training sections (or as pretrained)",
        panel="Data",
    )
    n_top_genes: int = option(
        541,
        "number of most variable genes (or as pretrained); the 50 genes of the HEST board are added",
        limits=">=1",
        panel="Data",
    )
    seed: int = option(0, "random seed", limits=">=0", panel="Training")
    device: str = option("auto", "auto, cpu, cuda or cuda:N", panel="Advanced")
    amp: bool = option(False, "train in mixed precision (losses stay in float32)", panel="Advanced")  # noqa: FBT003
    amp_dtype: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "number format of --amp; auto is bf16", panel="Advanced"
    )
    num_workers: int = option(
        0, "CPU threads of the trainer (0: PyTorch's default)", limits=">=0", panel="Advanced"
    )
    overwrite: bool = option(False, "replace another run in --save-dir", panel="Output")  # noqa: FBT003


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Options of `spam pretrain` (stage 1, contrastive alignment)."""

    mode: Literal["joint", "img-gene", "img-coord"] = option(
        "joint",
        "align the image with gene expression and the spatial neighbourhood, or with one of them",
        panel="Training",
    )
    batch_size: int = option(
        64, "spots per step: each is contrasted with all others of its batch", limits=">=2", panel="Training"
    )
    proj_dim: int = option(128, "length of the shared embedding", limits=">=1", panel="Model")
    temperature: float = option(0.15, "temperature of InfoNCE", limits=">0", panel="Training")
    mixing: float = option(
        0.5,
        "weight of the image-to-other direction of InfoNCE; the other direction has the rest",
        limits="[0,1]",
        panel="Training",
    )
    targets: Literal["hard", "soft"] = option(
        "hard",
        "positive pairs of an image: the expression of its own spot, or also that of similar spots",
        panel="Training",
    )
    mask_neighbours: bool = option(
        False,  # noqa: FBT003
        "exclude spatial neighbours, which may be near duplicates, from the negatives of a spot",
        panel="Training",
    )
    balance_donors: bool = option(
        False,  # noqa: FBT003
        "draw equally many spots of each donor per batch, and per epoch as many as the smallest donor has; "
        "a section without a donor counts as one",
        panel="Training",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        is_unused = self.targets == "soft" and self.mode == "img-coord"
        return ["--targets soft has no effect with --mode img-coord; omit one of them" if is_unused else None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Options of `spam finetune` (stage 2, expression and count likelihood)."""

    pretrained_ckpt: Path | None = option(
        None, "checkpoint of `spam pretrain` (default: random initial weights)", panel="Data"
    )
    epochs: int = option(
        30,
        "passes over the training spots; the best number is chosen on held-out spots",
        limits=">=1",
        panel="Training",
    )
    batch_size: int = option(64, "spots per step", limits=">=1", panel="Training")
    lr: float = option(1e-3, "learning rate of AdamW", limits=">0", panel="Training")
    weight_decay: float = option(0.1, "weight decay of AdamW", limits=">=0", panel="Training")
    dropout: float = option(0.4, "dropout of image inputs and activations", limits="[0,1)", panel="Training")
    members: int = option(4, "networks with different initial weights, averaged", limits=">=1", panel="Model")
    path: Literal["mean", "ridge"] = option(
        "mean",
        "baseline that the networks correct: the mean of the training sections, or ridge regression on the image",
        panel="Model",
    )
    attend: Literal["none", "neighbours", "references", "both"] = option(
        "none",
        "cross-attention to spatial neighbours, to similar spots of other sections, or both",
        panel="Model",
    )
    fuse_dim: int = option(
        128, "width of the attention and of the merged embedding", limits=">=1", panel="Model"
    )
    heads: int = option(4, "attention heads; must divide --fuse-dim", limits=">=1", panel="Model")
    merge: Literal["gated-sum", "concat-proj"] = option(
        "gated-sum", "fusion of the attended image, coordinate and gene parts", panel="Model"
    )
    likelihood: Literal["zinb", "nb", "poisson"] = option(
        "zinb", "distribution of the raw counts", panel="Model"
    )
    n_neighbours: int = option(
        8, "spatial neighbours in the attention of a spot, at most --k", limits=">=2", panel="Model"
    )
    n_references: int = option(
        16, "spots of other sections in the attention of a spot", limits=">=2", panel="Model"
    )
    with_bank: bool = option(
        False,  # noqa: FBT003
        "store the expression of all training spots in the checkpoint, for --attend references or both and for panels of "
        "genes in `spam predict --context-h5ad`; share such a checkpoint only if you may share the counts",
        panel="Output",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        rules = {
            f"--heads must divide --fuse-dim, not {self.heads} into {self.fuse_dim}": self.heads > 0
            and self.fuse_dim % self.heads > 0,
            f"--n-neighbours must be at most --k {self.k}, not {self.n_neighbours}": self.n_neighbours
            > self.k,
            f"--attend {self.attend} needs --with-bank: predictions then read the expression of training spots": (
                self.attend in ("references", "both") and not self.with_bank
            ),
        }
        return [rule for rule, is_broken in rules.items() if is_broken]
