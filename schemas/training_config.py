"""Options of the two training stages."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

from spam.errors import ConfigError, shortened

from .config import Config, advanced, data, model, output, training
from .embed_config import FeatureOptions
from .shards import shard_fault

SMALL_EPOCH = 2048
"""Spots up to which a step takes 64 of them in both stages, and stage 2 is trained for all epochs (docs/experiments-log.md)."""
_BATCH = "64; in epochs of more than 2,048 spots twice the square root of their number"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(FeatureOptions):
    """Options that both stages share: data, features, length of the training."""

    sections: tuple[str, ...] = data((), "sections to train on, e.g. C2,C3,C4 (default: all in the store)")
    val_sections: tuple[str, ...] = data(
        (),
        "sections held out for validation, in addition to --sections or among them (default: all sections of the last donor if "
        "three or more donors are known and these are at most half of the sections, else the last section; of a single "
        "section, a block)",
    )
    save_dir: Path | None = output(
        None, "folder for best.safetensors, last.safetensors and the log", required="give a new folder"
    )
    epochs: int = training(
        50,
        "largest number of passes over the training spots; training ends earlier if the validation loss no longer falls",
        limits="[1,100000]",
    )
    batch_size: int | None = training(None, f"spots per step (default: {_BATCH})", limits="[1,1000000]")
    spots_per_epoch: int = training(
        100_000, "most training spots that an epoch visits; each epoch draws others", limits="[2,1000000000]"
    )
    lr: float = training(3e-4, "learning rate of AdamW", limits="(0,100]")
    weight_decay: float = training(0.05, "weight decay of AdamW", limits="[0,100]")
    dropout: float = training(0.1, "dropout of activations", limits="[0,1)")
    n_components: int = model(256, "principal components of the image features", limits="[1,100000]")
    use_hvg: bool = data(True, "model only the most variable genes of the training sections")
    n_top_genes: int = data(
        541, "number of most variable genes; the 50 genes of the HEST board are added", limits="[1,1000000]"
    )
    genes: tuple[str, ...] = data(
        (),
        "genes to model in addition to the most variable ones: names, or a text file with one name per line",
        metavar="NAME,...|FILE",
    )
    seed: int = training(0, "random seed", limits="[0,4294967295]")
    device: str = advanced("auto", "auto, cpu, cuda or cuda:N")
    amp: bool = advanced(False, "train in mixed precision (losses stay in float32)")
    amp_dtype: Literal["auto", "bf16", "fp16", "fp32"] = advanced(
        "auto", "floating-point format of --amp; auto is bf16"
    )
    num_workers: int = advanced(
        0,
        "CPU threads of the trainer (0: one if batch and genes are small, else PyTorch's default)",
        limits="[0,1024]",
    )
    memory_budget: float | None = advanced(
        None,
        "GB of memory for image features; larger ones stay in the store and are read whenever they are needed, with the same "
        "result (default: half of the free memory)",
        limits="(0,1000000]",
    )
    overwrite: bool = output(False, "replace the run in --save-dir")

    def batch_for(self, n_spots: int) -> int:
        """Spots per step in an epoch of `n_spots`."""
        return self.batch_size or (64 if n_spots <= SMALL_EPOCH else round(2 * math.sqrt(n_spots)))

    def __post_init__(self) -> None:
        """Replace files of genes by their names, which a resumed run must agree on."""
        Config.__post_init__(self)
        names = (name for value in self.genes for name in _names(value))
        object.__setattr__(self, "genes", tuple(dict.fromkeys(names)))


def _names(value: str) -> list[str]:
    """Read the names in a file, one per line; a value that is no file is a name."""
    path = Path(value)
    try:
        if not path.is_file():
            return [value]
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        message = f"{shortened(repr(value))} (--genes) is not a text file with one name of a gene per line."
        raise ConfigError(message) from error
    return [name for name in names if name]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Options of `spam pretrain` (stage 1, contrastive alignment)."""

    mode: Literal["joint", "img-gene", "img-coord"] = training(
        "joint", "align the image with gene expression and the spatial neighbourhood, or with one of them"
    )
    batch_size: int | None = training(
        None,
        f"spots per step; each is contrasted with all others of the batch (default: {_BATCH})",
        limits="[2,1000000]",
    )
    proj_dim: int = model(128, "length of the shared embedding", limits="[1,8192]")
    temperature: float = training(0.15, "temperature of InfoNCE", limits="[0.0001,100]")
    mixing: float = training(
        0.5,
        "weight of the image-to-other direction of InfoNCE; the opposite direction has 1 minus this weight",
        limits="[0,1]",
    )
    targets: Literal["hard", "soft"] = training(
        "hard",
        "positive pairs of an image: the expression of the same spot (hard), or also that of similar spots (soft)",
    )
    mask_neighbours: bool = training(
        False, "exclude spatial neighbours, which may be near duplicates, from the negatives of a spot"
    )
    balance_donors: bool = training(
        False,
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

    pretrained_ckpt: Path | str | None = data(
        None,
        "checkpoint of `spam pretrain`: its folder or file, or an address; its genes and principal components are used "
        "too (default: random initial weights)",
    )
    val_sections: tuple[str, ...] = data(
        (),
        "sections held out at first, in addition to --sections or among them (default: each donor in turn if all are known "
        "and there are two or more, else each section, or each block of a single one, in four folds at most; with "
        "an adapted encoder, the default of `spam pretrain`)",
    )
    epochs: int = training(
        30,
        "largest number of passes over the training spots; the best number is chosen on held-out spots, and with more than 2,048 "
        "training spots, training ends earlier if the held-out correlation no longer rises",
        limits="[1,100000]",
    )
    lr: float = training(1e-3, "learning rate of AdamW", limits="(0,100]")
    weight_decay: float = training(0.1, "weight decay of AdamW", limits="[0,100]")
    dropout: float = training(0.4, "dropout of image inputs and activations", limits="[0,1)")
    members: int = model(4, "networks with different initial weights, averaged", limits="[1,100]")
    path: Literal["mean", "ridge"] = model(
        "mean",
        "baseline that the networks correct: the mean of the training sections, or ridge regression on the image",
    )
    attend: Literal["none", "neighbours", "references", "both"] = model(
        "none",
        "cross-attention to spatial neighbours, to similar spots of other sections (needs --with-bank), or both",
    )
    fuse_dim: int = model(128, "width of the attention and of the merged embedding", limits="[1,8192]")
    heads: int = model(4, "attention heads; must divide --fuse-dim", limits="[1,1024]")
    merge: Literal["gated-sum", "concat-proj"] = model(
        "gated-sum", "how image, neighbours and references are merged"
    )
    likelihood: Literal["zinb", "nb", "poisson"] = model("zinb", "distribution of the raw counts")
    n_neighbours: int = model(
        8, "spatial neighbours in the attention of a spot, at most --k", limits="[2,1000]"
    )
    n_references: int = model(16, "spots of other sections in the attention of a spot", limits="[2,10000]")
    with_bank: bool = output(
        False,
        "store the expression of training spots (at most 65,536) in the checkpoint, for --attend references or both and for "
        "panels of genes in `spam predict --context-h5ad`; share such a checkpoint only if you may share the counts",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        is_indivisible = self.heads > 0 and self.fuse_dim % self.heads > 0
        needs_bank = self.attend in ("references", "both") and not self.with_bank
        return [
            f"--heads must divide --fuse-dim, not {self.heads} into {self.fuse_dim}"
            if is_indivisible
            else None,
            f"--n-neighbours must be at most --k {self.k}" if self.n_neighbours > self.k else None,
            f"--attend {self.attend} reads training spots; add --with-bank" if needs_bank else None,
            shard_fault(None, is_overwrite=self.overwrite),
        ]
