"""Options of the two training stages."""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

from .config import option
from .embed_config import FeatureOptions

_data, _training, _model, _output, _advanced = (
    functools.partial(option, panel=panel) for panel in ("Data", "Training", "Model", "Output", "Advanced")
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(FeatureOptions):
    """Options that both stages share: data, features, length of the training."""

    sections: tuple[str, ...] = _data((), "sections to train on, e.g. C2,C3,C4 (default: all in the store)")
    val_sections: tuple[str, ...] = _data(
        (),
        "sections held out for validation, in addition to --sections or among them (default: all sections of the last donor if "
        "three or more donors are known and these are at most half of the sections, else the last section; of a single "
        "section, a block)",
    )
    save_dir: Path | None = _output(
        None,
        "folder for best.safetensors, last.safetensors and the log of the run",
        required="give a folder for the checkpoints",
    )
    epochs: int = _training(50, "passes over the training spots", limits=">=1")
    batch_size: int = _training(64, "spots per step", limits=">=1")
    lr: float = _training(3e-4, "learning rate of AdamW", limits=">0")
    weight_decay: float = _training(0.05, "weight decay of AdamW", limits=">=0")
    dropout: float = _training(0.1, "dropout of activations", limits="[0,1)")
    n_components: int = _model(256, "principal components of the image features", limits=">=1")
    use_hvg: bool = _data(
        True,  # noqa: FBT003
        "model only the most variable genes of the training sections",
    )
    n_top_genes: int = _data(
        541,
        "number of most variable genes; the 50 genes of the HEST board are added",
        limits=">=1",
    )
    seed: int = _training(0, "random seed", limits=">=0")
    device: str = _advanced("auto", "auto, cpu, cuda or cuda:N")
    amp: bool = _advanced(False, "train in mixed precision (losses stay in float32)")  # noqa: FBT003
    amp_dtype: Literal["auto", "bf16", "fp16", "fp32"] = _advanced(
        "auto", "floating-point format of --amp; auto is bf16"
    )
    num_workers: int = _advanced(0, "CPU threads of the trainer (0: PyTorch's default)", limits=">=0")
    overwrite: bool = _output(False, "replace the run in --save-dir")  # noqa: FBT003


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Options of `spam pretrain` (stage 1, contrastive alignment)."""

    mode: Literal["joint", "img-gene", "img-coord"] = _training(
        "joint", "align the image with gene expression and the spatial neighbourhood, or with one of them"
    )
    batch_size: int = _training(
        64, "spots per step; each is contrasted with all others of the batch", limits=">=2"
    )
    proj_dim: int = _model(128, "length of the shared embedding", limits=">=1")
    temperature: float = _training(0.15, "temperature of InfoNCE", limits=">0")
    mixing: float = _training(
        0.5,
        "weight of the image-to-other direction of InfoNCE; the other direction has the rest",
        limits="[0,1]",
    )
    targets: Literal["hard", "soft"] = _training(
        "hard",
        "positive pairs of an image: the expression of the same spot (hard), or also that of similar spots (soft)",
    )
    mask_neighbours: bool = _training(
        False,  # noqa: FBT003
        "exclude spatial neighbours, which may be near duplicates, from the negatives of a spot",
    )
    balance_donors: bool = _training(
        False,  # noqa: FBT003
        "draw equally many spots of each donor per batch, and per epoch as many as the smallest donor has; "
        "a section without a donor counts as one",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        is_unused = self.targets == "soft" and self.mode == "img-coord"
        return ["--targets soft has no effect with --mode img-coord; omit one of them" if is_unused else None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Options of `spam finetune` (stage 2, expression and count likelihood)."""

    pretrained_ckpt: Path | None = _data(
        None,
        "checkpoint of `spam pretrain`; its genes and principal components are used too (default: random initial weights)",
    )
    epochs: int = _training(
        30,
        "largest number of passes over the training spots; the best number is chosen on held-out spots",
        limits=">=1",
    )
    lr: float = _training(1e-3, "learning rate of AdamW", limits=">0")
    weight_decay: float = _training(0.1, "weight decay of AdamW", limits=">=0")
    dropout: float = _training(0.4, "dropout of image inputs and activations", limits="[0,1)")
    members: int = _model(4, "networks with different initial weights, averaged", limits=">=1")
    path: Literal["mean", "ridge"] = _model(
        "mean",
        "baseline that the networks correct: the mean of the training sections, or ridge regression on the image",
    )
    attend: Literal["none", "neighbours", "references", "both"] = _model(
        "none",
        "cross-attention to spatial neighbours, to similar spots of other sections (needs --with-bank), or both",
    )
    fuse_dim: int = _model(128, "width of the attention and of the merged embedding", limits=">=1")
    heads: int = _model(4, "attention heads; must divide --fuse-dim", limits=">=1")
    merge: Literal["gated-sum", "concat-proj"] = _model(
        "gated-sum", "how image, neighbours and references are merged"
    )
    likelihood: Literal["zinb", "nb", "poisson"] = _model("zinb", "distribution of the raw counts")
    n_neighbours: int = _model(8, "spatial neighbours in the attention of a spot, at most --k", limits=">=2")
    n_references: int = _model(16, "spots of other sections in the attention of a spot", limits=">=2")
    with_bank: bool = _output(
        False,  # noqa: FBT003
        "store the expression of all training spots in the checkpoint, for --attend references or both and for panels of "
        "genes in `spam predict --context-h5ad`; share such a checkpoint only if you may share the counts",
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
