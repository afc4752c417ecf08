"""Adaptation as a stage of the training loop: augmented tiles -> encoder with adapter -> contrast of stage 1."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from spam.encoders.tile_network import TileNetwork
from spam.models import AlignmentModel, Embeddings, Surroundings
from spam.models.linear import STD_FLOOR, standardise_per_section
from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.training.contrast import contrast_metrics, training_losses
from spam.training.loop import PATIENCE, LossTerms
from spam.training.resident_counts import ResidentCounts
from spam.training.training_set import TrainingSet, check_donors, describe_training, random_order
from spam.typing import Array, Float, Int64, Shaped

from .tile_bank import TileBank

# Small, because darkness of a tile counts nuclei, and a section's own stain is removed by standardisation.
_GAIN = 0.05  # of each channel, and of the contrast
_SHIFT = 2.55  # of each channel: 1 % of the range


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
        Alignment model of stage 1.
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
            return super().load_state_dict({**super().state_dict(), **state_dict})


class AdaptationStage:
    """Tiles -> encoder with adapter -> features, standardised within the section as frozen ones are -> contrast of stage 1.

    A spot's image is contrasted with its expression and its neighbourhood. The neighbourhood consists of frozen features
    from the store; only the spot's own tile runs through the encoder.

    Parameters
    ----------
    encoder
        Network with an adapter, see `add_lora`.
    cut
        Cuts the tiles, which takes minutes; called once, when they are needed. A complete run needs none.
    """

    name = "adapt"
    tolerance, patience = 0.0, PATIENCE

    def __init__(
        self,
        config: AdaptConfig,
        data: TrainingSet,
        encoder: TileNetwork,
        device: torch.device,
        *,
        cut: Callable[[], TileBank],
    ) -> None:
        if config.balance_donors:
            check_donors(data.train_rows, data)
        self.config, self.data, self._device, self._cut = config, data, device, cut
        features = [s.features[:] for s in data.spots]
        frozen = np.concatenate([standardise_per_section(each) for each in features]).astype(np.float32)
        head = AlignmentModel(
            image_dim=frozen.shape[1],
            n_genes=len(data.genes.genes),
            proj_dim=config.proj_dim,
            mode=config.mode,
            dropout=config.dropout,
        )
        self.network = AdaptationNetwork(encoder, head)
        mean = np.stack([each.mean(axis=0, dtype=np.float64) for each in features]).astype(np.float32)
        std = np.stack([each.std(axis=0, dtype=np.float64) + STD_FLOOR for each in features])
        arrays = (frozen, mean, std.astype(np.float32), data.section_of)
        frozen_inputs, self._mean, self._std, self._section_of = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        self._surroundings = Surroundings(data.weights, frozen_inputs)
        self._counts = ResidentCounts(data, device)

    @functools.cached_property
    def tiles(self) -> TileBank:
        """Tiles of all training and held-out spots."""
        return self._cut()

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_visits"]:
        """Training rows in random order: all, or equally many of every donor."""
        balance = self.config.balance_donors
        return random_order(self.data.train_rows, self.data, rng, balance_donors=balance)

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Loss of augmented tiles: the sum over the pairs of the mode."""
        parts = training_losses(
            self._embed(rows, is_augmented=True),
            self.config,
            expression=self._counts.batch(rows).centred,
            weights=self.data.weights,
            rows=rows,
        )
        return LossTerms(
            total=torch.stack(list(parts.values())).sum(),
            parts={f"{name}_loss": float(value.detach()) for name, value in parts.items()},
            n=len(rows),
        )

    def validate(self) -> dict[str, float]:
        """Evaluate the held-out tiles as stage 1 does, without augmentation, in a fixed random order."""
        rows = np.random.default_rng(self.config.seed).permutation(self.data.val_rows)
        size = min(self.config.batch_for(len(rows)), len(rows))
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        return contrast_metrics([self._embed(part, is_augmented=False) for part in parts], self.config)

    def constants(self) -> dict[str, Array]:
        """Return nothing: a checkpoint holds only the trained weights."""
        return {}

    def meta(self, *, epoch: int, history: list[dict[str, float]], best: dict[str, float]) -> CheckpointMeta:
        """Describe the checkpoint."""
        return describe_training(
            self.config, self.data, stage="adapt", settings={}, epoch=epoch, history=history, best=best
        )

    def _embed(self, rows: Int64[Array, " b"], *, is_augmented: bool) -> Embeddings:
        views = self.tiles.gather(rows, self._device)
        views = [augment(view) for view in views] if is_augmented else views
        features = torch.cat([self.network.encoder(view).float() for view in views], dim=1)
        where = torch.from_numpy(rows).to(self._device)
        section = self._section_of[where]
        standardised = (features - self._mean[section]) / self._std[section]
        mode = self.config.mode
        graph = None if mode == "img-gene" else self._surroundings.of(rows)
        expression = None if mode == "img-coord" else self._counts.batch(rows).centred
        embedded: Embeddings = self.network.head(standardised, expression, graph)
        return embedded
