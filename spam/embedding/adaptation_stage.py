"""Adaptation as a stage of the training loop: augmented tiles -> encoder with adapter -> loss of an objective."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import nn

from spam.encoders.tile_network import TileNetwork
from spam.models import AlignmentModel, Embeddings, ImageProjector, closure, pearson_per_gene
from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.training.contrast import contrast_figures, training_losses
from spam.training.loop import LossTerms
from spam.training.training_set import TrainingSet, check_donors, describe_training, random_order
from spam.typing import Array, Float, Float32, Int64, Shaped

from .tile_bank import TileBank

_STD_FLOOR = 1e-3  # as in `standardise_per_section`
# Small, because darkness of a tile counts nuclei, and a section's own stain is removed by standardisation.
_GAIN = 0.05  # of each channel, and of the contrast
_SHIFT = 2.55  # of each channel: 1 % of the range

Batches: TypeAlias = list[tuple[Float[torch.Tensor, "..."], Int64[Array, "..."]]]
"""Features and rows of held-out spots."""


def augment(pixels: Shaped[torch.Tensor, "n 3 px px"]) -> Float[torch.Tensor, "n 3 px px"]:
    """Apply one of the eight symmetries of the square to each tile, and jitter its colour.

    Each channel is multiplied by a number from [0.95, 1.05] and shifted by up to 1 % of the range; the contrast about the
    tile's mean is multiplied by another number from [0.95, 1.05] (all uniform). Values stay within 0..255. Random
    numbers come from PyTorch's CPU generator on every device.
    """

    def uniform(channels: int) -> torch.Tensor:
        return torch.rand(len(pixels), channels, 1, 1) * 2 - 1

    symmetry = torch.randint(8, (len(pixels),))
    gain, shift, contrast = 1 + _GAIN * uniform(3), _SHIFT * uniform(3), 1 + _GAIN * uniform(1)
    out = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
    for code in range(8):
        chosen = torch.nonzero(symmetry == code)[:, 0].to(pixels.device)
        images = pixels[chosen].float().rot90(code % 4, (2, 3))
        out[chosen] = images.flip(3) if code >= 4 else images
    out = out * gain.to(out.device) + shift.to(out.device)
    mean = out.mean(dim=(1, 2, 3), keepdim=True)
    return ((out - mean) * contrast.to(out.device) + mean).clamp_(0, 255)


class AdaptationNetwork(nn.Module):
    """Encoder with adapter, and the head that it is trained through; only adapter and head learn.

    The frozen part works as in embedding: no updates of batch statistics, no dropout. Its weights are not in the
    state dict.

    Parameters
    ----------
    encoder
        Network with an adapter, see `add_lora`.
    head
        Network from features to the objective's output.
    """

    def __init__(self, encoder: TileNetwork, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.train()

    def train(self, mode: bool = True) -> "AdaptationNetwork":  # noqa: FBT001, FBT002  as in torch
        """Switch the dropout of adapter and head; everything else stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        for name, module in self.encoder.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # torch's overloads
        """Return the trained weights."""
        trained = {name for name, value in self.named_parameters() if value.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load what `state_dict` returned; the frozen weights stay."""
        if other := sorted(self.state_dict().keys() ^ state_dict.keys()):
            message = f"the state does not fit the network: {', '.join(other[:5])}"
            raise RuntimeError(message)
        with torch.no_grad():
            return super().load_state_dict(state_dict, strict=False)


@runtime_checkable  # for the run-time type checks of the tests
class Objective(Protocol):
    """A loss on features, and the head that it is computed through."""

    head: nn.Module

    def losses(
        self, features: Float[torch.Tensor, "b dim"], rows: Int64[Array, " b"]
    ) -> dict[str, torch.Tensor]:
        """Return the terms of the loss by name, each a mean over spots."""

    def figures(self, batches: Batches) -> dict[str, float]:
        """Evaluate held-out spots; ``loss`` decides which epoch is best."""


def build_objective(
    config: AdaptConfig, data: TrainingSet, frozen: Float32[Array, "n dim"], device: torch.device
) -> Objective:
    """Build the objective of ``--objective``; `frozen` are frozen features, standardised within each section."""
    kind = Contrast if config.objective == "contrastive" else Regression
    return kind(config, data, frozen, device)


class Contrast:
    """The objective of stage 1: image against expression and neighbourhood, contrasted with those of other spots.

    The neighbourhood consists of frozen features from the store; only the spot's own tile runs through the encoder.
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
        """Return the contrastive loss of each pair of the mode."""
        return training_losses(
            self._embed(features, rows),
            self._config,
            expression=self._expression[torch.from_numpy(rows).to(self._expression.device)],
            weights=self._weights,
            rows=rows,
        )

    def figures(self, batches: Batches) -> dict[str, float]:
        """Evaluate as stage 1: losses, ln(batch) and recall."""
        return contrast_figures([self._embed(features, rows) for features, rows in batches], self._config)

    def _embed(self, features: Float[torch.Tensor, "b dim"], rows: Int64[Array, " b"]) -> Embeddings:
        where = torch.from_numpy(rows).to(self._frozen.device)
        mode, graph = self._config.mode, None
        if mode != "img-gene":
            graph = closure(self._weights, rows).to(self._frozen.device).gather(self._frozen)
        embedded: Embeddings = self.head(
            features, self._expression[where] if mode != "img-coord" else None, graph
        )
        return embedded


class Regression:
    """Squared error of centred log1p(CP10k), predicted from a spot's own features.

    The head is the projector of stage 1 and a linear layer that starts at zero: untrained it predicts each section's
    mean.
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
        """Return the mean squared error over spots and genes."""
        error = self.head(features).float() - self._truth(rows)
        return {"squared_error": (error**2).mean()}

    def figures(self, batches: Batches) -> dict[str, float]:
        """Return squared error, that of each group's mean (``null_loss``), and mean Pearson correlation per gene."""
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


class AdaptationStage:
    """Tiles -> encoder with adapter -> features, standardised within the section as frozen ones are -> loss.

    Parameters
    ----------
    cut
        Cuts the tiles, which takes minutes; called once, when they are needed. A complete run needs none.
    is_forgiving
        Whether unreadable tiles are omitted; then only cutting tells which spots remain.
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
        mean = np.stack([s.features.mean(axis=0, dtype=np.float64) for s in data.spots])
        std = np.stack([s.features.std(axis=0, dtype=np.float64) + _STD_FLOOR for s in data.spots])
        self._mean, self._std = (torch.from_numpy(one.astype(np.float32)).to(device) for one in (mean, std))
        self._section_of = torch.from_numpy(data.section_of).to(device)

    @functools.cached_property
    def tiles(self) -> TileBank:
        """Tiles of all training and held-out spots."""
        return self._cut()

    @property
    def train_rows(self) -> Int64[Array, " n_train"]:
        """Rows of the training spots."""
        return self._with_tiles(self.data.train_rows)

    @property
    def val_rows(self) -> Int64[Array, " n_val"]:
        """Rows of the held-out spots."""
        return self._with_tiles(self.data.val_rows)

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_visits"]:
        """Training rows in random order: all, or equally many of every donor."""
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
        """Evaluate the held-out tiles without augmentation, in a fixed random order."""
        rows = np.random.default_rng(self.config.seed).permutation(self.val_rows)
        size = min(self.config.batch_size, len(rows))
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        return self._objective.figures([(self._features(part, is_augmented=False), part) for part in parts])

    def constants(self) -> dict[str, Array]:
        """Return nothing: a checkpoint holds only the trained weights."""
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
