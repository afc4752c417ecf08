"""From a checkpoint and the images of a section to expression; the section's counts are never read."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix

from spam.hardware import seeded
from spam.models import FusionEnsemble, count_interval
from spam.models.checkpoint import from_tensors, read_checkpoint, weights_of
from spam.models.fusion import FusionInputs
from spam.models.inputs import InputTransform, context_features
from spam.models.rate_path import PER, Baselines, RatePath, log_rate_of
from spam.models.reliability import AppearanceBank, HeldOut
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.store import StoredSection, flagged_spots, readable_spots
from spam.training.cohort import SpotData, cohort_neighbours, read_spots
from spam.training.dataset import retrieve
from spam.typing import Array, Float, Float32
from spam.versions import software_versions

from .compatibility import check_section
from .result import PredictedSection

__all__ = ["Predictor", "SpotPredictions"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpotPredictions:
    """What the networks say of some spots.

    Attributes
    ----------
    inputs
        Image inputs, (n, q).
    unclipped
        Expected log1p(CP10k) as the network says it, (n, n_genes): below 0 for what it takes to be absent.
    rate
        Mean per 10k counts before zero inflation, (n, n_genes).
    theta
        Inverse dispersion (n_genes,), infinite for a Poisson.
    pi
        Probability of an excess zero, (n, n_genes), 0 without zero inflation.
    """

    inputs: Float32[Array, "n q"]
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
    """A fine-tuned checkpoint, ready to be used on any section with the same kind of features.

    Attributes
    ----------
    meta
        Metadata of the checkpoint.
    sha256
        Digest of the checkpoint file.
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
    def load(cls, path: Path, device: torch.device) -> "Predictor":
        """Load a checkpoint that `spam finetune` wrote.

        Raises
        ------
        MissingInputError, CheckpointError
            If it is not there, or is no such checkpoint.
        """
        meta, tensors = read_checkpoint(path, stage="finetune")
        with seeded(0, device=torch.device("cpu")):
            network = FusionEnsemble(**meta.settings)
        network.load_state_dict(weights_of(tensors))
        rest = {k: v for k, v in tensors.items() if not k.startswith(("network.", "optimizer.", "scaler."))}
        return cls(
            meta=meta,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            network=network.to(device).eval(),
            tensors=rest,
        )

    @torch.inference_mode()
    def predict(
        self,
        section: StoredSection,
        *,
        depth: float | None = None,
        coverage: float = 0.9,
        batch_size: int = 1024,
        progress: Progress = SILENT,
    ) -> PredictedSection:
        """Predict the expression of every spot of a section; of one whose tile could not be read it is NaN.

        Parameters
        ----------
        section
            Needs the features that the checkpoint was trained on; counts are not read, so they cannot matter.
        depth
            Library size at which `mu` and the interval are stated; None: the median of the training spots.
        coverage
            Probability mass of the interval.

        Raises
        ------
        CheckpointError
            If the section lacks the features, or has them from another encoder or tile size.
        StoreError
            If no tile of the section could be read, or a part of it is damaged.
        """
        check_section(self.meta, section)
        is_readable = readable_spots(section, self.meta.feature_keys)

        def spread(values: Float[Array, "n_read ..."]) -> Float[Array, "n_spots ..."]:
            whole = np.full((section.n_spots, *values.shape[1:]), np.nan, dtype=values.dtype)
            whole[is_readable] = values
            return whole

        spots = read_spots(section, self.meta.feature_keys, k=int(self.meta.config["k"]), with_counts=False)
        inferred = self.infer(spots, batch_size=batch_size, progress=progress)
        depth = depth or self.meta.depth
        mu = inferred.rate * np.float32(depth / PER)
        lower, upper = self.interval(mu, inferred.theta, inferred.pi, depth=depth, coverage=coverage)
        baselines = from_tensors(Baselines, self.tensors, "baseline")
        recipe = baselines.transform.apply(spots.features[:, : baselines.dim])
        appearance = from_tensors(AppearanceBank, self.tensors, "appearance")
        unknown = np.full(len(self.meta.genes), np.nan)
        return PredictedSection(
            section=section.meta.name,
            donor=section.meta.donor,
            ids=section.ids,
            genes=self.meta.genes,
            xy_px=section.xy_px,
            xy_um=section.xy_um,
            flags=flagged_spots(section, self.meta.feature_keys),
            unclipped=spread(inferred.unclipped),
            depth=float(depth),
            mu=spread(mu),
            theta=inferred.theta,
            pi=spread(inferred.pi),
            lower=spread(lower),
            upper=spread(upper),
            coverage=coverage,
            heldout_pearson=unknown if self.heldout is None else self.heldout.pearson,
            heldout_q=unknown if self.heldout is None else self.heldout.q_value,
            bank_distance=spread(appearance.distance(spots.features, without=self.bank_section(spots.name))),
            baselines={
                "training mean": spread(np.broadcast_to(baselines.mean, mu.shape).astype(np.float32)),
                "HEST ridge": spread(baselines.ridge.predict(recipe).astype(np.float32)),
                "tuned ridge": spread(
                    from_tensors(RatePath, self.tensors, "ridge").expression(inferred.inputs)
                ),
            },
            raw_scale_baselines={
                "HEST ridge": (
                    tuple(self.meta.gene_sets["hest-50"]),
                    spread(baselines.raw_ridge.predict(recipe).astype(np.float32)),
                )
            },
            provenance=self._provenance(section),
        )

    @torch.inference_mode()
    def infer(
        self, spots: SpotData, *, batch_size: int = 1024, progress: Progress = SILENT
    ) -> SpotPredictions:
        """Predict spots that were read already; their counts, if there are any, are not looked at."""
        inputs = from_tensors(InputTransform, self.tensors, "inputs").apply(
            context_features(spots.features, spots.graph.connectivities)
        )
        path = from_tensors(RatePath, self.tensors, "path")
        base = path.expression(inputs)
        fusion = self._fusion_inputs(spots, inputs)
        unclipped, log_rate, pi = np.empty((3, spots.n_spots, len(self.meta.genes)), dtype=np.float32)
        theta = np.full(len(self.meta.genes), np.inf, dtype=np.float32)
        with progress.task(f"predict {spots.name}", spots.n_spots) as advance:
            for start in range(0, spots.n_spots, batch_size):
                rows = np.arange(start, min(start + batch_size, spots.n_spots))
                out = self.network(fusion.batch(rows))
                total = torch.from_numpy(base[rows]) + out.expression.cpu()
                unclipped[rows] = total.numpy()
                log_rate[rows] = (log_rate_of(total) + out.log_rate.cpu()).numpy()
                pi[rows] = 0.0 if out.zi_logits is None else torch.sigmoid(out.zi_logits).cpu().numpy()
                if out.log_theta is not None:
                    theta = out.log_theta.exp().cpu().numpy()
                advance(len(rows))
        return SpotPredictions(
            inputs=inputs,
            unclipped=unclipped,
            rate=np.exp(log_rate + path.offset.astype(np.float32)),
            theta=theta,
            pi=pi,
        )

    @property
    def heldout(self) -> HeldOut | None:
        """What training found on spots that it held out; None for the run that chooses the epochs, which ends before."""
        return from_tensors(HeldOut, self.tensors, "heldout") if "heldout.levels" in self.tensors else None

    def interval_level(self, coverage: float) -> float:
        """Nominal level of the interval that covered this share of the counts of held-out spots, where there are some."""
        return coverage if self.heldout is None else self.heldout.level_for(coverage)

    def interval(
        self,
        mu: Float32[Array, "n n_genes"],
        theta: Float32[Array, " n_genes"],
        pi: Float32[Array, "n n_genes"],
        *,
        depth: float,
        coverage: float,
    ) -> tuple[Float32[Array, "n n_genes"], Float32[Array, "n n_genes"]]:
        """Return the ends of central intervals, in log1p(CP10k).

        Parameters
        ----------
        mu
            Expected counts of spots with `depth` counts over all genes.
        theta, pi
            Inverse dispersion per gene and share of inflated zeros, as far as the likelihood has them.
        depth
            Library size that `mu` is stated for, in counts.
        coverage
            Share of counts that the intervals are to cover.
        """
        likelihood = self.meta.settings["likelihood"]
        ends = count_interval(
            likelihood,
            mu,
            None if likelihood == "poisson" else theta,
            pi if likelihood == "zinb" else None,
            self.interval_level(coverage),
        )
        lower, upper = (np.log1p(end * (PER / depth)).astype(np.float32) for end in ends)
        return lower, upper

    def bank_section(self, section: str) -> int:
        """Return the number of a section in ``appearance.section``; -1 where it was not trained on."""
        sections = list(self.meta.donors)
        return sections.index(section) if section in sections else -1

    def _fusion_inputs(self, spots: SpotData, inputs: Array) -> FusionInputs:
        """Gather what the branches of the network read; a training section does not refer to itself."""
        device = next(self.network.parameters()).device
        on_device = torch.from_numpy(inputs).to(device)
        branches, config = self.meta.settings["branches"], self.meta.config
        fusion = FusionInputs(inputs=on_device)
        if "coord" in branches:
            near = cohort_neighbours([spots], int(config["n_neighbours"]))
            weights = csr_matrix(spots.graph.connectivities)
            fusion = dataclasses.replace(fusion, neighbours=near, weights=weights)
        if "gene" in branches:
            rows = np.flatnonzero(self.tensors["bank.section"] != self.bank_section(spots.name))
            found = retrieve(inputs, self.tensors["bank.inputs"][rows], int(config["n_references"]))
            bank = self.tensors["bank.expression"][rows if len(rows) else [0]]  # unused places point at row 0
            fusion = dataclasses.replace(fusion, references=found, bank=torch.from_numpy(bank).to(device))
        return fusion

    @property
    def _is_calibrated_on_new_donors(self) -> bool:
        """Whether the held-out sections, which intervals were calibrated on, were of donors that nothing else was of."""
        held_out = {self.meta.donors[name] for name in self.meta.val_sections}
        others = {donor for name, donor in self.meta.donors.items() if name not in self.meta.val_sections}
        return bool(others) and None not in held_out | others and held_out.isdisjoint(others)

    def _provenance(self, section: StoredSection) -> dict[str, object]:
        return {
            "checkpoint_sha256": self.sha256,
            "epoch": self.meta.epoch,
            "trained_on": list(self.meta.train_sections),
            "validated_on": list(self.meta.val_sections),
            "is_training_section": section.meta.name in self.meta.donors,
            "is_calibrated_on_new_donors": self._is_calibrated_on_new_donors,
            "encoder": self.meta.encoder_name,
            "weights_sha256": self.meta.weights_sha256,
            "features": list(self.meta.feature_keys),
            "likelihood": self.meta.settings["likelihood"],
            "software": software_versions(),
        }
