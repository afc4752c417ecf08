"""What the features are trained for: the contrast of stage 1, or expression itself."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from spam.models import AlignmentModel, Embeddings, ImageProjector, closure, pearson_per_gene
from spam.schemas.adapt_config import AdaptConfig
from spam.training.contrast import contrast_figures, training_losses
from spam.training.training_set import TrainingSet
from spam.typing import Array, Float, Float32, Int64

__all__ = ["Contrast", "Objective", "Regression", "build_objective"]


@runtime_checkable  # for the run-time type checks of the tests
class Objective(Protocol):
    """A loss on features, and the head that it is computed through."""

    @property
    def head(self) -> nn.Module:
        """What stands between features and loss."""

    def losses(
        self, features: Float[torch.Tensor, "b dim"], rows: Int64[Array, " b"]
    ) -> dict[str, torch.Tensor]:
        """Return the summands of the loss of some spots, by name: means over spots."""

    def figures(
        self, batches: list[tuple[Float[torch.Tensor, "..."], Int64[Array, "..."]]]
    ) -> dict[str, float]:
        """Judge held-out spots: features and rows, batch by batch; ``loss`` among the figures decides."""


def build_objective(
    config: AdaptConfig, data: TrainingSet, frozen: Float32[Array, "n dim"], device: torch.device
) -> Objective:
    """Make the objective that the configuration asks for.

    Parameters
    ----------
    frozen
        Features of all spots of the cohort by the encoder as it was, standardised within each section.
    """
    kind = Contrast if config.objective == "contrastive" else Regression
    return kind(config, data, frozen, device)


class Contrast:
    """The objective of stage 1: a spot's image against its expression and its neighbourhood, among those of other spots.

    The neighbourhood is that of the frozen features, which are in the store: only the spot's own tile runs through the
    encoder.
    """

    def __init__(
        self, config: AdaptConfig, data: TrainingSet, frozen: Float32[Array, "n dim"], device: torch.device
    ) -> None:
        self._config, self._weights = config, data.weights
        self._frozen = torch.from_numpy(frozen).to(device)
        self._expression = torch.from_numpy(data.centred).to(device)
        self.head: nn.Module = AlignmentModel(
            image_dim=frozen.shape[1],
            n_genes=len(data.genes.genes),
            proj_dim=config.proj_dim,
            mode=config.mode,
            dropout=config.dropout,
        )

    def losses(
        self, features: Float[torch.Tensor, "b dim"], rows: Int64[Array, " b"]
    ) -> dict[str, torch.Tensor]:
        """Contrast each pair that the mode asks for."""
        return training_losses(
            self._embed(features, rows),
            self._config,
            expression=self._expression[torch.from_numpy(rows).to(self._expression.device)],
            weights=self._weights,
            rows=rows,
        )

    def figures(
        self, batches: list[tuple[Float[torch.Tensor, "..."], Int64[Array, "..."]]]
    ) -> dict[str, float]:
        """Judge as stage 1 does: losses beside ln(batch), and recall."""
        return contrast_figures([self._embed(features, rows) for features, rows in batches], self._config)

    def _embed(self, features: Float[torch.Tensor, "b dim"], rows: Int64[Array, " b"]) -> Embeddings:
        where = torch.from_numpy(rows).to(self._frozen.device)
        mode, graph = self._config.mode, None
        if mode != "img-gene":
            graph = closure(self._weights, rows).gather(self._frozen)
        embedded: Embeddings = self.head(
            features, self._expression[where] if mode != "img-coord" else None, graph
        )
        return embedded


class Regression:
    """Squared error of centred log1p(CP10k), predicted from a spot's own features.

    The head is the projector of stage 1 and a linear layer that starts at zero: before training it predicts each
    section's mean.
    """

    def __init__(
        self, config: AdaptConfig, data: TrainingSet, frozen: Float32[Array, "n dim"], device: torch.device
    ) -> None:
        projector = ImageProjector(frozen.shape[1], config.proj_dim, dropout=config.dropout)
        output = nn.Linear(config.proj_dim, len(data.genes.genes))
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self.head: nn.Module = nn.Sequential(projector, output)
        self._expression = torch.from_numpy(data.centred).to(device)

    def losses(
        self, features: Float[torch.Tensor, "b dim"], rows: Int64[Array, " b"]
    ) -> dict[str, torch.Tensor]:
        """Mean over spots and genes of the squared error."""
        error = self.head(features).float() - self._truth(rows)
        return {"squared_error": (error**2).mean()}

    def figures(
        self, batches: list[tuple[Float[torch.Tensor, "..."], Int64[Array, "..."]]]
    ) -> dict[str, float]:
        """Squared error beside that of predicting each group's mean (``null_loss``); mean Pearson correlation per gene."""
        predicted = torch.cat([self.head(features).float() for features, _ in batches])
        truth = self._truth(np.concatenate([rows for _, rows in batches]))
        correlation = pearson_per_gene(predicted.cpu().numpy(), truth.cpu().numpy())
        defined = correlation[np.isfinite(correlation)]
        return {
            "loss": float(((predicted - truth) ** 2).mean()),
            "null_loss": float((truth**2).mean()),
            "pearson": float(defined.mean()) if len(defined) else 0.0,
        }

    def _truth(self, rows: Int64[Array, " b"]) -> Float[torch.Tensor, "b n_genes"]:
        return self._expression[torch.from_numpy(rows).to(self._expression.device)]
