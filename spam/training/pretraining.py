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
from spam.models.checkpoint import to_tensors
from spam.models.contrastive import AlignmentModel, Embeddings
from spam.models.networks import Surroundings
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import PretrainConfig
from spam.typing import Array, Int64

from .contrast import ContrastHealth, contrast_metrics, pair_health, training_losses
from .loop import HEALTH, PATIENCE, LossTerms, TrainingReport, fit
from .resident_counts import ResidentCounts
from .training_set import TrainingSet, build_training_set, check_donors, describe_training, random_order


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PretrainReport(TrainingReport):
    """Outcome of `pretrain`.

    Attributes
    ----------
    health
        Whether the alignment was learned; also in ``health.json`` in the save dir.
    """

    health: ContrastHealth

    def summary(self) -> str:
        """Summarise the run and the health check in a few lines."""
        lines = [
            *self.run.repeated(),
            f"{self.n_train} training spots, {self.n_val} held out ({self.held_out}); best epoch "
            f"{self.run.best['epoch']:.0f}",
            *(pair.describe() for pair in self.health.pairs),
            self.health.verdict,
            f"checkpoint: {self.run.best_path}",
        ]
        return "\n".join(lines)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        # Not super(), which does not find the class that `slots` makes.
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
    """`pretrain` on spots that were already read."""
    device = resolve_device(config.device)
    stage = AlignmentStage(config, data, device)
    with limited_threads(config.num_workers, values=data.step_size(config)):
        run = fit(stage, config, device=device, progress=progress)
    n_visits = stage.n_visits
    pairs = pair_health(
        run.best,
        run.history[-1],
        n_val=len(data.val_rows),
        train_ln_batch=math.log(min(config.batch_for(n_visits), n_visits)),
        dim=config.proj_dim,
    )
    health = ContrastHealth(pairs=pairs)
    write_text(run.best_path.parent / HEALTH, json.dumps(health.to_mapping(), indent=2))
    return PretrainReport(
        run=run,
        health=health,
        n_train=len(data.train_rows),
        n_val=len(data.val_rows),
        val_sections=() if len(data.spots) == 1 else data.held_out_sections,
    )


class AlignmentStage:
    """Stage 1 for the training loop."""

    name = "pretrain"
    tolerance, patience = 0.0, PATIENCE

    def __init__(self, config: PretrainConfig, data: TrainingSet, device: torch.device) -> None:
        if min(len(data.train_rows), len(data.val_rows)) < 2:
            message = (
                f"Contrastive training needs at least two spots with counts for training and for validation, not "
                f"{len(data.train_rows)} and {len(data.val_rows)}. Name more sections in --sections."
            )
            raise StoreError(message)
        self.config, self.data = config, data
        self.train_rows = data.train_rows
        if config.balance_donors:
            check_donors(data.train_rows, data)
        self.inputs = torch.from_numpy(data.inputs).to(device)
        has_graph = config.mode != "img-gene"
        self._surroundings = Surroundings(data.weights, self.inputs) if has_graph else None
        self._counts = ResidentCounts(data, device)
        self.settings: dict[str, Any] = {
            "image_dim": data.inputs.shape[1],
            "n_genes": len(data.genes.genes),
            "proj_dim": config.proj_dim,
            "mode": config.mode,
            "dropout": config.dropout,
        }
        with seeded(config.seed, device=torch.device("cpu")):
            self.network = AlignmentModel(**self.settings)

    @property
    def n_visits(self) -> int:
        """Spots of an epoch."""
        return min(len(self.order(np.random.default_rng(self.config.seed))), self.config.spots_per_epoch)

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_visits"]:
        """Rows to train on: all of them, or equally many of every donor."""
        return random_order(self.train_rows, self.data, rng, balance_donors=self.config.balance_donors)

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Sum of the contrastive losses of the pairs of the mode."""
        expression = self.expression_of(rows)
        parts = training_losses(
            self.embed(rows, expression),
            self.config,
            expression=expression,
            weights=self.data.weights,
            rows=rows,
        )
        return LossTerms(
            total=torch.stack(list(parts.values())).sum(),
            parts={f"{pair}_loss": float(loss.detach()) for pair, loss in parts.items()},
            n=len(rows),
        )

    def validate(self) -> dict[str, float]:
        """`contrast_metrics` of the held-out spots, in batches of the training size."""
        rows = np.random.default_rng(self.config.seed).permutation(self.data.val_rows)
        size = min(self.config.batch_for(self.n_visits), len(rows))
        batches = (rows[i : i + size] for i in range(0, len(rows), size))
        embedded = [self.embed(batch, self.expression_of(batch)) for batch in batches]
        return contrast_metrics(embedded, self.config)

    def constants(self) -> dict[str, Array]:
        """Input transform: the weights depend on it."""
        return to_tensors(self.data.transform, "inputs")

    def meta(self, *, epoch: int, history: list[dict[str, float]], best: dict[str, float]) -> CheckpointMeta:
        """Describe the checkpoint."""
        progress: dict[str, Any] = {"epoch": epoch, "history": history, "best": best}
        return describe_training(self.config, self.data, stage="pretrain", settings=self.settings, **progress)

    def expression_of(self, rows: Int64[Array, " b"]) -> torch.Tensor:
        """Centred expression of these spots."""
        return self._counts.batch(rows).centred

    def embed(self, rows: Int64[Array, " b"], expression: torch.Tensor) -> Embeddings:
        """Embed these spots, each with its complete neighbourhood, whether in the batch or not."""
        where = torch.from_numpy(rows).to(self.inputs.device)
        graph = None if self._surroundings is None else self._surroundings.of(rows)
        genes = None if self.config.mode == "img-coord" else expression
        embedded: Embeddings = self.network(self.inputs[where], genes, graph)
        return embedded
