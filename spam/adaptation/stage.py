"""What adaptation brings to the training loop."""

import numpy as np
import torch

from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.training.dataset import TrainingSet
from spam.training.description import describe_training
from spam.training.loop import LossTerms
from spam.typing import Array, Float, Float32, Int64

from .augmentation import augment
from .network import AdaptationNetwork
from .objectives import Objective
from .tile_bank import TileBank

__all__ = ["AdaptationStage", "section_statistics"]

_STD_FLOOR = 1e-3  # as in `standardise_per_section`


def section_statistics(
    data: TrainingSet,
) -> tuple[Float32[Array, "n_sections dim"], Float32[Array, "n_sections dim"]]:
    """Mean and standard deviation of the frozen features of each section: a section's images alone, no counts."""
    mean = np.stack([s.features.mean(axis=0, dtype=np.float64) for s in data.spots])
    std = np.stack([s.features.std(axis=0, dtype=np.float64) + _STD_FLOOR for s in data.spots])
    return mean.astype(np.float32), std.astype(np.float32)


class AdaptationStage:
    """Tiles -> encoder with adapter -> features, standardised within the section as the frozen ones are -> loss."""

    name = "adapt"

    def __init__(
        self,
        config: AdaptConfig,
        data: TrainingSet,
        tiles: TileBank,
        network: AdaptationNetwork,
        objective: Objective,
        device: torch.device,
    ) -> None:
        self.config, self.data, self.network = config, data, network
        self.train_rows = data.train_rows[tiles.place[data.train_rows] >= 0]
        self.val_rows = data.val_rows[tiles.place[data.val_rows] >= 0]
        self._tiles, self._objective, self._device = tiles, objective, device
        self._mean, self._std = (torch.from_numpy(one).to(device) for one in section_statistics(data))
        self._section_of = torch.from_numpy(data.section_of).to(device)

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Loss of augmented tiles."""
        parts = self._objective.losses(self._features(rows, is_augmented=True), rows)
        return LossTerms(
            total=torch.stack(list(parts.values())).sum(),
            parts={f"{name}_loss": float(value.detach()) for name, value in parts.items()},
            n=len(rows),
        )

    def validate(self) -> dict[str, float]:
        """Judge the held-out tiles as they are, in fixed random order."""
        rows = np.random.default_rng(self.config.seed).permutation(self.val_rows)
        size = min(self.config.batch_size, len(rows))
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        return self._objective.figures([(self._features(part, is_augmented=False), part) for part in parts])

    def constants(self) -> dict[str, Array]:
        """Keep nothing beside the weights that are trained."""
        return {}

    def meta(self, *, epoch: int, history: list[dict[str, float]], best: dict[str, float]) -> CheckpointMeta:
        """Describe the checkpoint."""
        return describe_training(
            self.config, self.data, stage="adapt", settings={}, epoch=epoch, history=history, best=best
        )

    def _features(self, rows: Int64[Array, " b"], *, is_augmented: bool) -> Float[torch.Tensor, "b dim"]:
        views = self._tiles.gather(rows, self._device)
        views = [augment(view) for view in views] if is_augmented else views
        features = torch.cat([self.network.encoder(view).float() for view in views], dim=1)
        section = self._section_of[torch.from_numpy(rows).to(self._device)]
        standardised: torch.Tensor = (features - self._mean[section]) / self._std[section]
        return standardised
