"""Stage 1: contrastive alignment of image, spatial neighbourhood and gene expression."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import torch

from spam.atomic import write_text
from spam.errors import StoreError
from spam.hardware import limited_threads, resolve_device, seeded
from spam.models import AlignmentModel, Embeddings, closure
from spam.models.checkpoint import read_checkpoint, to_tensors
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import PretrainConfig
from spam.typing import Array, Int64

from .contrast import contrast_figures, training_losses
from .dataset import TrainingSet, build_training_set
from .description import describe_training
from .health import ContrastHealth, pair_health
from .loop import LossTerms, Run, fit
from .order import check_donors, random_order
from .probing import probe_labels
from .report import TrainingReport

__all__ = ["AlignmentStage", "PretrainReport", "pretrain", "pretrain_on"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PretrainReport(TrainingReport):
    """Outcome of `pretrain`.

    Attributes
    ----------
    health
        Whether the alignment was learned, and what else the embeddings carry; also in ``health.json`` in the save dir.
    """

    health: ContrastHealth

    def summary(self) -> str:
        """Say in a few lines whether the alignment was learned."""
        lines = [
            f"{self.n_train} spots trained on, {self.n_val} held out "
            f"({self.held_out}); best epoch {self.run.best['epoch']:.0f}",
            *self.health.lines(),
            f"checkpoint: {self.run.best_path}",
        ]
        return "\n".join(lines)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        # Not super(): a class with slots is made twice, and super() finds the first.
        return {**TrainingReport.to_mapping(self), "health": self.health.to_mapping()}


def pretrain(config: PretrainConfig, *, progress: Progress = SILENT) -> PretrainReport:
    """Align image, spatial neighbourhood and expression of the store's spots in one embedding.

    The loss is the sum of a symmetric InfoNCE per pair (image-coord, image-gene; one of them in the single modes),
    validated on held-out spots of other sections.

    Relative to the paper: the foundation model is not in the loop (its features come from the store), the coordinate
    branch is a GCN over image features of neighbours, without the spot itself, and validation spots are never trained on.

    Raises
    ------
    ConfigError, StoreError
        If options, sections or features do not fit together.
    OutputExistsError
        If the save dir holds another run.
    """
    return pretrain_on(build_training_set(config), config, progress=progress)


def pretrain_on(data: TrainingSet, config: PretrainConfig, *, progress: Progress = SILENT) -> PretrainReport:
    """Do what `pretrain` does, on spots that were read already."""
    device = resolve_device(config.device)
    stage = AlignmentStage(config, data, device)
    with limited_threads(config.num_workers):
        run = fit(stage, config, device=device, progress=progress)
        health = _check_health(stage, run)
    return PretrainReport(
        run=run,
        health=health,
        n_train=len(data.train_rows),
        n_val=len(data.val_rows),
        val_sections=() if len(data.spots) == 1 else data.held_out_sections,
    )


def _check_health(stage: "AlignmentStage", run: Run) -> ContrastHealth:
    """Judge the best epoch, and write the judgement beside its checkpoint."""
    config, data = stage.config, stage.data
    _, tensors = read_checkpoint(run.best_path, stage=stage.name)
    stage.network.load_state_dict(
        {name: torch.from_numpy(tensors[f"network.{name}"]) for name in stage.network.state_dict()}
    )
    stage.network.eval()
    health = ContrastHealth(
        pairs=pair_health(
            run.best,
            run.history[-1],
            n_val=len(data.val_rows),
            train_ln_batch=math.log(
                min(config.batch_size, len(stage.order(np.random.default_rng(config.seed))))
            ),
            dim=config.proj_dim,
        ),
        probes=probe_labels(data, stage._embed, batch_size=config.batch_size, seed=config.seed),
    )
    write_text(run.best_path.parent / "health.json", json.dumps(health.to_mapping(), indent=2))
    return health


class AlignmentStage:
    """What stage 1 brings to the training loop."""

    name = "pretrain"
    tolerance = 0.0

    def __init__(self, config: PretrainConfig, data: TrainingSet, device: torch.device) -> None:
        if min(len(data.train_rows), len(data.val_rows)) < 2:
            message = (
                f"contrastive training needs at least two spots with counts on each side, not {len(data.train_rows)} to "
                f"train on and {len(data.val_rows)} to validate on; name more sections in --sections"
            )
            raise StoreError(message)
        self.config, self.data = config, data
        self.train_rows = data.train_rows
        if config.balance_donors:
            check_donors(data.train_rows, data)
        self.inputs = torch.from_numpy(data.inputs).to(device)
        self.expression = torch.from_numpy(data.centred).to(device)
        self.settings: dict[str, Any] = {
            "image_dim": data.inputs.shape[1],
            "n_genes": len(data.genes.genes),
            "proj_dim": config.proj_dim,
            "mode": config.mode,
            "dropout": config.dropout,
        }
        with seeded(config.seed, device=torch.device("cpu")):
            self.network = AlignmentModel(**self.settings)

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_visits"]:
        """Rows to train on: all of them, or equally many of every donor."""
        return random_order(self.train_rows, self.data, rng, balance_donors=self.config.balance_donors)

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Sum of the contrastive losses of the pairs that the mode asks for."""
        parts = training_losses(
            self._embed(rows),
            self.config,
            expression=self.expression[torch.from_numpy(rows).to(self.expression.device)],
            weights=self.data.weights,
            rows=rows,
        )
        total = torch.stack(list(parts.values())).sum()
        return LossTerms(
            total=total, parts={f"{k}_loss": float(v.detach()) for k, v in parts.items()}, n=len(rows)
        )

    def validate(self) -> dict[str, float]:
        """Loss over held-out batches of the training size beside ln(batch), and recall over all held-out spots.

        The figures are means over batches of equal size, in fixed order; a rest that is smaller is left out of the loss.
        """
        rows = np.random.default_rng(self.config.seed).permutation(self.data.val_rows)
        size = min(self.config.batch_size, len(rows))
        batches = [self._embed(rows[i : i + size]) for i in range(0, len(rows), size)]
        return contrast_figures(batches, self.config)

    def constants(self) -> dict[str, Array]:
        """Keep the input transform: the weights mean nothing without it."""
        return to_tensors(self.data.transform, "inputs")

    def meta(self, *, epoch: int, history: list[dict[str, float]], best: dict[str, float]) -> CheckpointMeta:
        """Describe the checkpoint."""
        return describe_training(
            self.config,
            self.data,
            stage="pretrain",
            settings=self.settings,
            epoch=epoch,
            history=history,
            best=best,
        )

    def _embed(self, rows: Int64[Array, " b"]) -> Embeddings:
        """Embed the named spots; the neighbourhood of a spot is whole, whatever batch it is in."""
        where = torch.from_numpy(rows).to(self.inputs.device)
        uses_gene, uses_coord = self.config.mode != "img-coord", self.config.mode != "img-gene"
        graph = (
            closure(self.data.weights, rows).to(self.inputs.device).gather(self.inputs)
            if uses_coord
            else None
        )
        result: Embeddings = self.network(
            self.inputs[where], self.expression[where] if uses_gene else None, graph
        )
        return result
