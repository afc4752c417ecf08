"""From a checkpoint and the image features of a section to expression; the counts of the section are never read."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.errors import CheckpointError
from spam.models import FusionEnsemble, count_interval
from spam.models.checkpoint import from_tensors, read_checkpoint, weights_of
from spam.models.fusion import FusionInputs, retrieve
from spam.models.inputs import InputTransform
from spam.models.rate_path import PER, Baselines, RatePath
from spam.models.reliability import AppearanceBank, HeldOut
from spam.models.stacking import KINDS, Prototypes, Stack, stacked, stacked_inflation, stacked_log_rate
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import CHECKPOINT_NAME, CheckpointMeta
from spam.store import Profiles, StoredSection, flagged_spots, local_file, profiles_of, readable_spots
from spam.training.cohort import SpotData, cohort_neighbours, fit_in_memory, read_spots
from spam.training.feature_choice import require_features
from spam.training.judging import are_new_donors
from spam.typing import Array, Bool, Float, Float32, Float64
from spam.versions import software_versions

from .predicted_section import Allocate, PredictedSection, at_all_spots, filled, in_memory

_PARTS: dict[str, Any] = {
    "inputs": InputTransform,
    "path": RatePath,
    "ridge": RatePath,
    "prototypes": Prototypes,
    "stack": Stack,
    "baseline": Baselines,
    "appearance": AppearanceBank,
    "heldout": HeldOut,
}
CALIBRATING_DONORS = 3  # left out in turn: with fewer, intervals are widened and called not calibrated
_INTERVAL_ROWS = 1024  # spots per step: quantiles are computed in float64
_ROWS = 8192  # spots whose features are projected at a time


def n_new_donors(meta: CheckpointMeta) -> int:
    """Count the donors that were held out and so predicted as new ones."""
    is_new = are_new_donors(meta.donors, meta.val_sections)
    return len({meta.donors[name] for name in meta.val_sections}) if is_new else 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpotPredictions:
    """Network output for some spots.

    Attributes
    ----------
    inputs
        Image inputs, (n, q).
    distance
        Distance of each image from those of the training spots, see `AppearanceBank`, (n,).
    weights
        Weights of ridge, prototypes and network, (3,).
    is_calibrated
        Whether intervals were calibrated on sections like this one, see `Predictor.infer`.
    unclipped
        Expected log1p(CP10k), (n, n_genes); below 0 for absent genes.
    rate
        Mean per 10k counts before zero inflation, (n, n_genes).
    theta
        Inverse dispersion, (n_genes,), infinite for a Poisson.
    pi
        Probability of an excess zero, (n, n_genes); 0 without zero inflation.
    """

    inputs: Float32[Array, "n q"]
    distance: Float64[Array, " n"]
    weights: Float64[Array, " n_kinds"]
    is_calibrated: bool
    unclipped: Float32[Array, "n n_genes"]
    rate: Float32[Array, "n n_genes"]
    theta: Float32[Array, " n_genes"]
    pi: Float32[Array, "n n_genes"]

    @property
    def expression(self) -> Float32[Array, "n n_genes"]:
        """Expected log1p(CP10k), at least 0."""
        expression: Array = np.maximum(self.unclipped, 0.0)
        return expression


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictor:
    """A fine-tuned checkpoint, ready for any section with the same kind of features.

    Attributes
    ----------
    meta, sha256
        Metadata and digest of the checkpoint.
    network
        The trained network on its device.
    tensors
        All other arrays of the checkpoint.
    """

    meta: CheckpointMeta
    sha256: str
    network: FusionEnsemble
    tensors: dict[str, Array]

    @classmethod
    def load(cls, path: Path | str, device: torch.device) -> "Predictor":
        """Load a checkpoint of `spam finetune`, from a path or an address (``hf://org/name``).

        Raises
        ------
        MissingInputError, CheckpointError
            If the file does not exist or is not such a checkpoint.
        StoreError
            If it cannot be fetched from its address.
        """
        path = local_file(path, CHECKPOINT_NAME)
        meta, tensors = read_checkpoint(path, stage="finetune")
        rest = {k: v for k, v in tensors.items() if not k.startswith(("network.", "optimizer.", "scaler."))}
        for name, kind in _PARTS.items():
            from_tensors(kind, rest, name)  # refuses an incomplete checkpoint before anything is computed
        try:
            with torch.device("meta"):  # no random weights, which would be replaced at once
                network = FusionEnsemble(**meta.settings)
            network.load_state_dict(weights_of(tensors), assign=True)
        except RuntimeError as error:
            message = f"The weights in {str(path)!r} do not fit its settings. Copy it again or train again."
            raise CheckpointError(message) from error
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(meta=meta, sha256=sha256, network=network.to(device).eval(), tensors=rest)

    @torch.inference_mode()
    def predict(
        self,
        section: StoredSection,
        *,
        depth: float | None = None,
        coverage: float = 0.9,
        batch_size: int = 1024,
        with_baselines: bool = True,
        allocate: Allocate = in_memory,
        most_bytes: int | None = None,
        progress: Progress = SILENT,
    ) -> PredictedSection:
        """Predict the expression of every spot of a section; NaN for spots with unreadable tiles.

        Parameters
        ----------
        section
            Needs the features that the checkpoint was trained on. Its counts are not read.
        depth
            Library size of `mu` and the interval; None: the median of the training spots.
        coverage
            Probability mass of the interval.
        with_baselines
            Whether to predict the baselines too, which are used for scores only.
        allocate
            Where arrays of spots and genes are kept: `in_memory`, or `on_disk` for a million cells.
        most_bytes
            Larger features are read from the store when they are needed; None: they are kept in memory.

        Raises
        ------
        CheckpointError
            If the section lacks the features, or has them from other weights or tiles, or predictions are not finite.
        StoreError
            If no tile of the section could be read, or a part of it is damaged.
        """
        require_features(self.meta, section)
        keys, k = self.meta.feature_keys, int(self.meta.config["k"])
        is_readable = readable_spots(section, keys)
        is_in_memory = most_bytes is None or fit_in_memory([section], keys, most_bytes)
        spots = read_spots(section, keys, k=k, with_counts=False, is_in_memory=is_in_memory)
        depth = depth or self.meta.depth
        with np.errstate(over="ignore", invalid="ignore"):  # checked at once
            inferred = self.infer(spots, batch_size=batch_size, allocate=allocate, progress=progress)
            if coverage > self.heldout.coverage[-1]:  # than the widest interval had
                inferred = dataclasses.replace(inferred, is_calibrated=False)
            mu = inferred.rate
            mu *= np.float32(depth / PER)
            self._check_finite(mu, inferred.unclipped, depth=depth)
            level = self.heldout.level_for(coverage, is_calibrated=inferred.is_calibrated)
            lower, upper = self.interval(
                mu, inferred.theta, inferred.pi, depth=depth, level=level, allocate=allocate
            )
        self._check_finite(lower, upper, depth=depth)
        own = self.training_section(spots)

        def everywhere(
            values: Float[Array, "n ..."], allocate: Allocate | None = None
        ) -> Float[Array, "n_spots ..."]:
            return at_all_spots(values, is_readable, allocate)

        none: dict[str, Any] = {"baselines": {}, "raw_scale_baselines": {}}
        return PredictedSection(
            section=section.meta.name,
            donor=section.meta.donor,
            ids=section.ids,
            genes=self.meta.genes,
            xy_px=section.xy_px,
            xy_um=section.xy_um,
            flags=flagged_spots(section, self.meta.feature_keys),
            unclipped=everywhere(inferred.unclipped, allocate),
            mu=everywhere(mu, allocate),
            pi=everywhere(inferred.pi, allocate),
            lower=everywhere(lower, allocate),
            upper=everywhere(upper, allocate),
            theta=inferred.theta,
            depth=float(depth),
            coverage=coverage,
            level=level,
            heldout_pearson=self.heldout.pearson,
            heldout_q=self.heldout.q_value,
            bank_distance=everywhere(inferred.distance),
            **(self._baselines(spots, inferred.inputs, is_readable, allocate) if with_baselines else none),
            provenance=self._provenance(own, inferred, coverage),
        )

    @torch.inference_mode()
    def infer(
        self,
        spots: SpotData,
        *,
        batch_size: int = 1024,
        allocate: Allocate = in_memory,
        progress: Progress = SILENT,
    ) -> SpotPredictions:
        """Predict spots that were already read; counts among them are not used.

        Intervals are calibrated for the section if three or more donors were left out in turn (`CALIBRATING_DONORS`), and its
        images are no farther from those of training than the images of a left-out section.
        """
        transform = from_tensors(InputTransform, self.tensors, "inputs")
        inputs = transform.apply(spots.features, spots.graph.connectivities)
        path, ridge = (from_tensors(RatePath, self.tensors, name) for name in ("path", "ridge"))
        prototypes = from_tensors(Prototypes, self.tensors, "prototypes")
        own = self.bank_section(self.training_section(spots))
        appearance = from_tensors(AppearanceBank, self.tensors, "appearance")
        distance = appearance.distance(spots.features, without=own)
        stack = from_tensors(Stack, self.tensors, "stack")
        weights = stack.weights_at(float(np.median(distance)))
        offsets = np.stack([ridge.offset, path.offset]).astype(np.float32)
        fusion = self._fusion_inputs(spots, inputs)
        shape = (spots.n_spots, len(self.meta.genes))
        unclipped, rate = allocate(shape), allocate(shape)
        pi = np.broadcast_to(np.float32(0), shape)
        theta = np.full(shape[1], np.inf, dtype=np.float32)
        if self.meta.settings["likelihood"] == "zinb":
            pi = allocate(shape)
        with progress.task(f"predict {spots.name}", spots.n_spots) as advance:
            for start in range(0, spots.n_spots, batch_size):
                rows = slice(start, min(start + batch_size, spots.n_spots))
                out = self.network(fusion.batch(np.arange(rows.start, rows.stop)))
                patterns = (
                    ridge.ridge.predict(inputs[rows]),
                    prototypes.predict(inputs[rows]),
                    path.ridge.predict(inputs[rows]) + out.expression.float().cpu().numpy(),
                )
                pattern = stacked(np.stack([p.astype(np.float32) for p in patterns]), weights)
                unclipped[rows] = pattern + path.gene_mean.astype(np.float32)
                correction = out.log_rate.float().cpu().numpy()
                rate[rows] = np.exp(stacked_log_rate(unclipped[rows], correction, offsets, weights))
                if out.zi_logits is not None:
                    pi[rows] = stacked_inflation(torch.sigmoid(out.zi_logits).cpu().numpy(), weights)
                if out.log_theta is not None:
                    theta = out.log_theta.exp().cpu().numpy()
                advance(rows.stop - start)
        return SpotPredictions(
            inputs=inputs,
            distance=distance,
            weights=weights,
            is_calibrated=n_new_donors(self.meta) >= CALIBRATING_DONORS
            and stack.trust(float(np.median(distance))) == 1.0,
            unclipped=unclipped,
            rate=rate,
            theta=theta,
            pi=pi,
        )

    @property
    def heldout(self) -> HeldOut:
        """Accuracy and interval coverage on held-out spots."""
        return from_tensors(HeldOut, self.tensors, "heldout")

    def interval(
        self,
        mu: Float32[Array, "n n_genes"],
        theta: Float32[Array, " n_genes"],
        pi: Float32[Array, "n n_genes"],
        *,
        depth: float,
        level: float,
        allocate: Allocate = in_memory,
    ) -> tuple[Float32[Array, "n n_genes"], Float32[Array, "n n_genes"]]:
        """Compute the central intervals of nominal level `level` (`HeldOut.level_for`), in log1p(CP10k).

        `mu` are expected counts at library size `depth`; `theta` and `pi` as in `SpotPredictions`.
        """
        likelihood = self.meta.settings["likelihood"]
        lower, upper = allocate(mu.shape), allocate(mu.shape)
        for start in range(0, len(mu), _INTERVAL_ROWS):
            rows = slice(start, start + _INTERVAL_ROWS)
            ends = count_interval(likelihood, mu[rows], theta, pi[rows], level)
            lower[rows], upper[rows] = (np.log1p(end * (PER / depth)) for end in ends)
        return lower, upper

    def bank_section(self, section: str | None) -> int:
        """Look up the number of a training section in ``appearance.section`` and ``bank.section``; -1 for other sections."""
        sections = list(self.meta.donors)
        return sections.index(section) if section in sections else -1

    def training_section(self, spots: SpotData) -> str | None:
        """Name the section of training that has this name, or else these images; None for new tissue."""
        if spots.name in self.meta.donors:
            return spots.name
        number = from_tensors(AppearanceBank, self.tensors, "appearance").section_of(spots.features)
        return None if number < 0 else list(self.meta.donors)[number]

    def section_with_counts(self, section: StoredSection) -> str | None:
        """Name the section of training that has these counts; None if there is none, or nothing to compare."""
        if section.genes is None:
            return None
        own = profiles_of(section.counts(), section.genes, among=self.meta.genes)
        known = ((name, Profiles.from_mapping(kept)) for name, kept in self.meta.section_digests.items())
        return next((name for name, profiles in known if own.share_of_counts(profiles)), None)

    def _check_finite(self, *layers: Float32[Array, "n n_genes"], depth: float) -> None:
        """Refuse to return numbers that are infinite or not a number."""
        parts = range(0, len(layers[0]), _INTERVAL_ROWS)
        if not all(np.isfinite(layer[i : i + _INTERVAL_ROWS]).all() for layer in layers for i in parts):
            message = (
                f"Predicted counts at a library size of {depth:g} (--depth) are not finite. Leave --depth out; if that does not "
                "help, the checkpoint is damaged: train again."
            )
            raise CheckpointError(message)

    def _fusion_inputs(self, spots: SpotData, inputs: Array) -> FusionInputs:
        """Gather the tokens that the network attends to, if any; a training section does not refer to itself."""
        device = next(self.network.parameters()).device
        branches, config = self.meta.settings["branches"], self.meta.config
        tokens: dict[str, Any] = {}
        if "coord" in branches:
            tokens["neighbours"] = cohort_neighbours([spots], int(config["n_neighbours"]))
            tokens["weights"] = csr_matrix(spots.graph.connectivities)
        if "gene" in branches:
            own = self.bank_section(self.training_section(spots))
            rows = np.flatnonzero(self.tensors["bank.section"] != own)
            tokens["references"] = retrieve(
                inputs, self.tensors["bank.inputs"][rows], int(config["n_references"])
            )
            # Unused places of the table point at row 0.
            bank = self.tensors["bank.expression"][rows if len(rows) else [0]]
            tokens["bank"] = torch.from_numpy(bank).to(device)
        return FusionInputs(inputs=torch.from_numpy(inputs).to(device), **tokens)

    def _baselines(
        self,
        spots: SpotData,
        inputs: Float32[Array, "n q"],
        is_readable: Bool[Array, " n_spots"],
        allocate: Allocate,
    ) -> dict[str, Any]:
        """Predict by the baselines in the checkpoint: the two fields of `PredictedSection`."""
        recipe = from_tensors(Baselines, self.tensors, "baseline")
        starts, dim = range(0, spots.n_spots, _ROWS), len(recipe.transform.mean)
        parts = (spots.features[start : start + _ROWS, :dim] for start in starts)
        features = np.concatenate([recipe.transform.apply(part) for part in parts])
        ridge, shape = from_tensors(RatePath, self.tensors, "ridge"), (len(inputs), len(self.meta.genes))
        found = {
            "training mean": np.broadcast_to(recipe.mean.astype(np.float32), shape),
            "HEST ridge": filled(allocate, shape, lambda rows: recipe.ridge.predict(features[rows])),
            "tuned ridge": filled(allocate, shape, lambda rows: ridge.expression(inputs[rows])),
        }
        raw = at_all_spots(recipe.raw_ridge.predict(features).astype(np.float32), is_readable)
        return {
            "baselines": {
                name: at_all_spots(values, is_readable, allocate) for name, values in found.items()
            },
            "raw_scale_baselines": {"HEST ridge": (tuple(self.meta.gene_sets["hest-50"]), raw)},
        }

    def _provenance(self, own: str | None, inferred: SpotPredictions, coverage: float) -> dict[str, object]:
        weights, chosen = (
            inferred.weights.tolist(),
            from_tensors(Stack, self.tensors, "stack").weights.tolist(),
        )
        return {
            "weights": dict(zip(KINDS, weights, strict=True)),
            "weights_of_similar_sections": dict(zip(KINDS, chosen, strict=True)),
            "checkpoint_sha256": self.sha256,
            "epoch": self.meta.epoch,
            "trained_on": list(self.meta.train_sections),
            "validated_on": list(self.meta.val_sections),
            "is_training_section": own is not None,
            "training_section": own,
            "is_calibrated": inferred.is_calibrated,
            "n_left_out_donors": n_new_donors(self.meta),
            "least_heldout_coverage": min(coverage, float(self.heldout.lowest[-1])),
            "encoders": {str(one["name"]): one["weights_sha256"] for one in self.meta.encoders},
            "features": list(self.meta.feature_keys),
            "likelihood": self.meta.settings["likelihood"],
            "software": software_versions(),
        }
