"""What stage 2 brings to the training loop: the ensemble, its loss on raw counts, and its figures on held-out spots."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from spam.errors import CheckpointError, StoreError
from spam.hardware import seeded
from spam.models import Branch, FusionEnsemble, FusionModel, FusionOutput, build_distribution
from spam.models.checkpoint import Checkpoint, read_checkpoint, to_tensors, weights_of
from spam.models.fusion import FusionInputs
from spam.models.rate_path import (
    PER,
    choose_penalty,
    dispersion_by_moments,
    fit_baselines,
    fit_rate_path,
    group_means,
    log_rate_of,
    per_10k,
)
from spam.models.reliability import HeldOut, fit_appearance, judge, within_section_pearson
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import FinetuneConfig
from spam.typing import Array, Int64

from .cohort import cohort_neighbours
from .dataset import TrainingSet, retrieve_across_groups
from .description import describe_training, with_pretrained_donors
from .groups import cross_fit
from .loop import LossTerms

_BRANCHES: dict[str, tuple[Branch, ...]] = {
    "both": ("coord", "gene"),
    "neighbours": ("coord",),
    "references": ("gene",),
    "none": (),
}


class FusionStage:
    """What stage 2 brings to the training loop.

    Parameters
    ----------
    judged
        Sections that an earlier run held out, and what it found on them; given, no spot needs to be held out now.
    """

    name = "finetune"
    # Of Pearson correlation: what seeds differ by. The curve is flat around its highest point, which a few held-out spots
    # place at random, and averaged networks gain from what each of them alone has begun to overfit.
    tolerance = 0.01

    def __init__(
        self,
        config: FinetuneConfig,
        data: TrainingSet,
        pretrained: Checkpoint | None,
        device: torch.device,
        *,
        judged: tuple[tuple[str, ...], HeldOut] | None = None,
    ) -> None:
        if not len(data.train_rows) or not (judged or len(data.val_rows)):
            message = (
                f"training needs spots with counts on both sides, not {len(data.train_rows)} to train on and "
                f"{len(data.val_rows)} to validate on; name more sections in --sections"
            )
            raise StoreError(message)
        if len(np.unique(data.groups.group[data.train_rows])) < 2:
            lone = data.spots[data.section_of[data.train_rows[0]]].name
            what = f"one block of section {lone!r}" if data.groups.are_blocks else f"section {lone!r}"
            message = (
                f"only {what} has counts to train on, but a spot is predicted from groups other than its own; "
                "name more sections with counts in --sections"
            )
            raise StoreError(message)
        self.config, self.data, self._judged = config, data, judged
        self.train_rows = data.train_rows
        self._pretrained_donors = {} if pretrained is None else pretrained[0].donors
        has_ridge = config.path == "ridge"
        everything = self._rows(np.arange(len(data.totals)))
        ridge, level, offset = cross_fit(*everything, data.section_of, data.groups, has_ridge=has_ridge)
        base = ridge + level
        self.settings: dict[str, Any] = {
            "members": config.members,
            "image_dim": data.inputs.shape[1],
            "n_genes": len(data.genes.genes),
            "proj_dim": config.fuse_dim if pretrained is None else pretrained[0].settings["proj_dim"],
            "fuse_dim": config.fuse_dim,
            "heads": config.heads,
            "merge": config.merge,
            "dropout": config.dropout,
            "likelihood": config.likelihood,
            "branches": list(_BRANCHES[config.attend]),
        }
        with seeded(config.seed, device=torch.device("cpu")):
            self.network = FusionEnsemble(**self.settings)
        members = cast("list[FusionModel]", list(self.network.members))
        self._base, self._offset = torch.from_numpy(base).to(device), torch.from_numpy(offset).to(device)
        train = data.train_rows
        rate = log_rate_of(torch.from_numpy(base[train])) + torch.from_numpy(offset[train])
        theta = dispersion_by_moments(
            data.counts[train], rate.exp().numpy() * (data.totals[train] / PER)[:, None]
        )
        for member in members:
            if pretrained is not None:
                load_pretrained(member, pretrained[1])
            if member.log_theta is not None:
                member.log_theta.data = torch.from_numpy(np.log(theta)).float()
        has_coord, has_gene = ("coord" in self.settings["branches"], "gene" in self.settings["branches"])
        self._fusion = FusionInputs(
            inputs=torch.from_numpy(data.inputs).to(device),
            neighbours=cohort_neighbours(data.spots, config.n_neighbours) if has_coord else None,
            weights=data.weights if has_coord else None,
            references=retrieve_across_groups(data, config.n_references) if has_gene else None,
            bank=torch.from_numpy(self._reference_expression()).to(device) if has_gene else None,
        )
        # What is to be added to the base: only the pattern within the section counts, for its level cannot be known.
        self._pattern = torch.from_numpy(data.centred - ridge).to(device)
        self._constants = self._fit_constants()
        self._log_size = torch.from_numpy(np.log(np.maximum(data.totals, 1.0) / PER)).float().to(device)

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_train"]:
        """Rows to train on, each of them once."""
        shuffled: Array = rng.permutation(self.train_rows)
        return shuffled

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Squared error and negative log-likelihood, means over spots, genes and members."""
        error, nll = self._errors(rows, self.network.each(self._fusion.batch(rows)))
        # Each member minimises its own loss, so that one alone and several together learn alike: a sum.
        total = self.config.members * (error + nll)
        parts = {"error": float(error.detach()), "nll": float(nll.detach())}
        return LossTerms(total=total, parts=parts, n=len(rows))

    def validate(self) -> dict[str, float]:
        """Figures of the averaged members on the held-out spots; nothing where none are held out.

        ``loss`` is 1 - Pearson, within each section and averaged over genes: the score that predictions are judged by.
        Squared error and likelihood would stop earlier, when amplitudes begin to be too large, while patterns go on
        to improve (docs/experiments.md).
        """
        rows = self.data.val_rows
        if not len(rows):
            return {}
        outputs = self._outputs(rows)
        errors = [(len(batch), *map(float, self._errors(batch, out))) for batch, out in outputs]
        n, error, nll = np.array(errors).T
        pearson = within_section_pearson(
            self._expression(outputs), self.data.expression[rows], self.data.section_of[rows]
        )
        mean = float(np.nanmean(pearson)) if np.isfinite(pearson).any() else 0.0
        total = n.sum()
        return {
            "loss": 1.0 - mean,
            "pearson": mean,
            "error": float(n @ error / total),
            "nll": float(n @ nll / total),
        }

    def load(self, path: Path) -> None:
        """Take the weights of a checkpoint of this stage."""
        self.network.load_state_dict(weights_of(read_checkpoint(path, stage=self.name)[1]))

    @torch.no_grad()
    def judge_heldout(self) -> HeldOut:
        """Measure accuracy and calibrate intervals on the held-out spots."""
        rows = self.data.val_rows
        self.network.eval()
        outputs = self._outputs(rows)
        log_mu = torch.cat([self._log_mu(batch, out) for batch, out in outputs])
        inflation = [out.zi_logits for _, out in outputs if out.zi_logits is not None]
        theta = outputs[0][1].log_theta
        return judge(
            self._expression(outputs),
            self.data.expression[rows],
            self.data.section_of[rows],
            xy=np.concatenate([spots.xy for spots in self.data.spots])[rows],
            counts=self.data.counts[rows].toarray(),
            likelihood=self.config.likelihood,
            mu=log_mu.exp().cpu().numpy(),
            theta=None if theta is None else theta.exp().cpu().numpy(),
            pi=torch.sigmoid(torch.cat(inflation)).cpu().numpy() if inflation else None,
        )

    def constants(self) -> dict[str, Array]:
        """Keep all that prediction needs without the training sections: transforms, paths, references, baselines."""
        return self._constants

    def meta(self, *, epoch: int, history: list[dict[str, float]], best: dict[str, float]) -> CheckpointMeta:
        """Describe the checkpoint; sections that only pretraining has seen come last among its donors."""
        meta = describe_training(
            self.config,
            self.data,
            stage="finetune",
            settings=self.settings,
            epoch=epoch,
            history=history,
            best=best,
        )
        held_out = meta.val_sections if self._judged is None else self._judged[0]
        donors = with_pretrained_donors(meta.donors, self._pretrained_donors)
        return dataclasses.replace(meta, donors=donors, val_sections=held_out)

    def _fit_constants(self) -> dict[str, Array]:
        """Fit what prediction needs beside the network, on every spot with counts: none of it has epochs to choose."""
        data = self.data
        rows = np.flatnonzero(data.totals > 0)
        section = data.section_of[rows]
        alpha = choose_penalty(data.inputs[rows], data.expression[rows], data.groups.group[rows])
        ridge = fit_rate_path(*self._rows(rows), section, alpha=alpha)
        is_ridge = self.config.path == "ridge"
        path = ridge if is_ridge else fit_rate_path(*self._rows(rows), section, alpha=None)
        dim = data.features.dims[0]
        features = np.concatenate([s.features for s in data.spots])[rows]
        hest = [data.genes.genes.index(gene) for gene in data.genes.sets["hest-50"]]
        baselines = fit_baselines(
            features[:, :dim], data.expression[rows], data.counts[rows][:, hest].toarray()
        )
        appearance = fit_appearance(features, data.groups.group[rows], section)
        tensors = {
            **to_tensors(data.transform, "inputs"),
            **to_tensors(path, "path"),
            **to_tensors(ridge, "ridge"),
            **to_tensors(baselines, "baseline"),
            **to_tensors(appearance, "appearance"),
            **({} if self._judged is None else to_tensors(self._judged[1], "heldout")),
            # Each group's own level is replaced by the mean over the sections, as in the bank.
            "cohort.per_10k": per_10k(self._reference_expression()[rows] + path.gene_mean).mean(axis=0),
        }
        if self.config.with_bank:
            tensors |= {
                "bank.inputs": data.inputs[rows],
                "bank.expression": self._reference_expression()[rows],
                "bank.section": section.astype(np.int32),
            }
        return tensors

    def _reference_expression(self) -> Array:
        """Expression relative to the mean of the group: no spot of another group, which may refer to it, is in that."""
        group, has_counts = self.data.groups.group, self.data.totals > 0
        centred = np.zeros_like(self.data.expression)  # also where a spot has no counts: nobody refers to it
        rank = np.unique(group[has_counts], return_inverse=True)[1]
        known = self.data.expression[has_counts]
        centred[has_counts] = known - group_means(known, group[has_counts])[rank]
        return centred

    def _rows(self, rows: Int64[Array, " b"]) -> tuple[Array, Array, Any, Array]:
        data = self.data
        return data.inputs[rows], data.expression[rows], data.counts[rows], data.totals[rows]

    def _outputs(self, rows: Int64[Array, " b"]) -> list[tuple[Array, FusionOutput]]:
        """Ask the averaged members about these rows, batch by batch."""
        size = self.config.batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        return [(batch, self.network(self._fusion.batch(batch))) for batch in batches]

    def _expression(self, outputs: list[tuple[Array, FusionOutput]]) -> Array:
        """Predicted log1p(CP10k) of all batches."""
        parts = [
            self._base[torch.from_numpy(batch).to(self._base.device)] + out.expression.float()
            for batch, out in outputs
        ]
        return torch.cat(parts).cpu().numpy()

    def _log_mu(self, rows: Int64[Array, " b"], out: FusionOutput) -> torch.Tensor:
        """Logarithm of the expected counts; the expression decoder is not moved by them."""
        where = torch.from_numpy(rows).to(self._base.device)
        expression = self._base[where] + out.expression.float().detach()
        log_rate: torch.Tensor = log_rate_of(expression) + self._offset[where] + out.log_rate.float()
        return log_rate + self._log_size[where, None]

    def _errors(self, rows: Int64[Array, " b"], out: FusionOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of the pattern, and negative log-likelihood of the counts, per spot and gene."""
        where = torch.from_numpy(rows).to(self._base.device)
        counts = torch.from_numpy(self.data.counts[rows].toarray()).to(self._base.device)
        with torch.autocast(self._base.device.type, enabled=False):
            distribution = build_distribution(
                self.config.likelihood,
                log_mu=self._log_mu(rows, out),
                log_theta=None if out.log_theta is None else out.log_theta[..., None, :],
                zi_logits=None if out.zi_logits is None else out.zi_logits.float(),
            )
            error = (out.expression.float() - self._pattern[where]).square().mean()
            return error, -distribution.log_prob(counts, validate=False).mean()


def load_pretrained(network: FusionModel, tensors: dict[str, Array]) -> None:
    """Load the encoders that stage 1 trained; every weight of an encoder must be there and fit.

    Raises
    ------
    CheckpointError
        If an encoder's weights do not fit the network.
    """
    parts = {
        "image_projector": network.image_projector,
        "gcn": network.gcn,
        "gene_encoder": network.gene_encoder,
    }
    for name, module in parts.items():
        if module is None:
            continue  # a branch that is not used
        prefix = f"network.{name}."
        weights = {
            key[len(prefix) :]: torch.from_numpy(v) for key, v in tensors.items() if key.startswith(prefix)
        }
        if not weights:
            continue  # a single mode of stage 1 trains only one of the two partners
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            message = (
                f"the pretrained {name} does not fit: {error}; pretrain again with the same genes and sizes"
            )
            raise CheckpointError(message) from error
