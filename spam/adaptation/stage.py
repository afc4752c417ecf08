"""What adaptation brings to the training loop."""

import functools
from collections.abc import Callable

import numpy as np
import torch

from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.training.loop import LossTerms
from spam.training.training_set import TrainingSet, check_donors, describe_training, random_order
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
    """Tiles -> encoder with adapter -> features, standardised within the section as the frozen ones are -> loss.

    Parameters
    ----------
    config, data, network, objective, device
        The run: its options, the spots, what is trained, the loss, and where it is computed.
    cut
        Cuts the tiles, which takes minutes: not before they are looked at, and once. A run that is done needs none.
    is_forgiving
        Whether tiles may turn out to be unreadable; then only cutting them tells which spots are left.
    """

    name = "adapt"
    tolerance = 0.0

    def __init__(
        self,
        config: AdaptConfig,
        data: TrainingSet,
        network: AdaptationNetwork,
        objective: Objective,
        device: torch.device,
        *,
        cut: Callable[[], TileBank],
        is_forgiving: bool,
    ) -> None:
        if config.balance_donors:
            check_donors(data.train_rows, data)
        self.config, self.data, self.network = config, data, network
        self._objective, self._device = objective, device
        self._cut, self._is_forgiving = cut, is_forgiving
        self._mean, self._std = (torch.from_numpy(one).to(device) for one in section_statistics(data))
        self._section_of = torch.from_numpy(data.section_of).to(device)

    @functools.cached_property
    def tiles(self) -> TileBank:
        """The tiles of all spots that are trained on or held out."""
        return self._cut()

    @property
    def train_rows(self) -> Int64[Array, " n_train"]:
        """Rows of the spots to train on."""
        return self._with_tiles(self.data.train_rows)

    @property
    def val_rows(self) -> Int64[Array, " n_val"]:
        """Rows of the spots that are held out."""
        return self._with_tiles(self.data.val_rows)

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_visits"]:
        """Rows to train on: all of them, or equally many of every donor."""
        return random_order(self.train_rows, self.data, rng, balance_donors=self.config.balance_donors)

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

    def _with_tiles(self, rows: Int64[Array, " n"]) -> Int64[Array, " n_kept"]:
        return rows[self.tiles.place[rows] >= 0] if self._is_forgiving else rows

    def _features(self, rows: Int64[Array, " b"], *, is_augmented: bool) -> Float[torch.Tensor, "b dim"]:
        views = self.tiles.gather(rows, self._device)
        views = [augment(view) for view in views] if is_augmented else views
        features = torch.cat([self.network.encoder(view).float() for view in views], dim=1)
        section = self._section_of[torch.from_numpy(rows).to(self._device)]
        standardised: torch.Tensor = (features - self._mean[section]) / self._std[section]
        return standardised
