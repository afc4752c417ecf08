"""What `loop.fit` trains in stage 2: the ensemble, its loss, its held-out predictions, and what its checkpoint holds."""

import dataclasses
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import mse_loss

from spam.errors import StoreError
from spam.hardware import seeded
from spam.models.checkpoint import (
    Checkpoint,
    to_tensors,
    weights_of,
)
from spam.models.count_likelihood import count_log_prob, zinb_log_prob_sum
from spam.models.fusion import Branch, FusionEnsemble, FusionInputs, FusionModel, FusionOutput
from spam.models.linear import choose_alpha
from spam.models.rate_path import (
    ALPHAS,
    DEFAULT_ALPHA,
    PER,
    RatePath,
    dispersion_by_moments,
    fit_baselines,
    fit_rate_path,
    group_means,
    log_rate_of,
    per_10k,
)
from spam.models.reliability import fit_appearance, within_section_pearson
from spam.models.stacking import Stack, fit_prototypes
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.tile_spec import dim_of_smallest
from spam.schemas.training_config import SMALL_EPOCH, FinetuneConfig
from spam.typing import Array, Int64

from .cohort import cohort_neighbours
from .groups import MOST_FITTED, at_most, cross_fit, units_of
from .judging import HeldOutPredictions, Judgement
from .loop import PATIENCE, LossTerms
from .resident_counts import CountBatch, ResidentCounts
from .training_set import (
    TrainingSet,
    describe_training,
    retrieve_across_groups,
)

_MOST_MOMENTS = 1 << 14  # spots for the initial dispersions, which training refines
_MOST_SEEN = 1 << 14  # training spots whose images new ones are compared with
_INFERRED = 512  # held-out spots at a time
_BRANCHES: dict[str, tuple[Branch, ...]] = {
    "both": ("coord", "gene"),
    "neighbours": ("coord",),
    "references": ("gene",),
    "none": (),
}


class FusionStage:
    """Stage 2 for `loop.fit`: the ensemble, its loss on raw counts, and its metrics on held-out spots.

    Parameters
    ----------
    judged
        None for a selection run, whose checkpoints only serve to resume. For the final run, what the held-out spots of
        the selection runs said; no spot is held out then, and checkpoints contain all that prediction needs.
    """

    # In units of Pearson correlation: the spread between seeds. The curve is flat around its maximum, whose place is
    # noisy with few held-out spots, and an average of networks gains from training beyond the optimum of each.
    tolerance = 0.01

    def __init__(
        self,
        config: FinetuneConfig,
        data: TrainingSet,
        pretrained: Checkpoint | None,
        device: torch.device,
        *,
        judged: Judgement | None = None,
    ) -> None:
        self.name = "selection" if judged is None else "finetune"
        self.config, self.data, self._judged = config, data, judged
        self.train_rows = train = data.train_rows
        self.patience = PATIENCE if len(train) > SMALL_EPOCH else config.epochs
        groups = np.unique(data.groups.group[train])
        if len(groups) < 2 or not (judged or len(data.val_rows)):
            what = "blocks of the section" if data.groups.are_blocks else "training sections"
            message = (
                f"Training needs counts in two {what} and in held-out spots, because a spot is predicted from other "
                f"sections than its own; {len(groups)} of them and {len(data.val_rows)} held-out spots have counts. Name more in "
                "--sections."
            )
            raise StoreError(message)
        self._pretrained = None if pretrained is None else pretrained[0]
        branches = _BRANCHES[config.attend]
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
            "branches": list(branches),
        }
        has_ridge = config.path == "ridge"
        self._path = cross_fit(
            data.inputs,
            data.expression,
            data.counts,
            data.totals,
            data.section_of,
            data.groups,
            has_ridge=has_ridge,
        )
        with seeded(config.seed, device=torch.device("cpu")):
            self.network = FusionEnsemble(**self.settings)
        log_theta = self._first_log_theta(at_most(train, _MOST_MOMENTS))
        for member in cast("list[FusionModel]", list(self.network.members)):
            if pretrained is not None:
                load_pretrained(member, pretrained[1])
            if member.log_theta is not None:
                member.log_theta.data = log_theta
        has_coord, has_gene = "coord" in branches, "gene" in branches
        self._fusion = FusionInputs(
            inputs=torch.from_numpy(data.inputs).to(device),
            neighbours=cohort_neighbours(data.spots, config.n_neighbours) if has_coord else None,
            weights=data.weights if has_coord else None,
            references=retrieve_across_groups(data, config.n_references) if has_gene else None,
            bank=self._bank().to(device) if has_gene else None,
        )
        self._device = device
        self._counts = ResidentCounts(data, device)
        self._rank = torch.from_numpy(self._path.rank).to(device)
        levels = (np.stack([getattr(p, name) for p in self._path.paths]) for name in ("gene_mean", "offset"))
        self._level, self._offset = (torch.from_numpy(level).float().to(device) for level in levels)
        self._log_size = torch.from_numpy(np.log(np.maximum(data.totals, 1.0) / PER)).float().to(device)
        self._constants = {} if judged is None else self._fit_constants(judged)

    def _first_log_theta(self, rows: Int64[Array, " b"]) -> torch.Tensor:
        """Logarithm of the inverse dispersion of each gene around the path, by the method of moments."""
        data = self.data
        pattern, level, offset = self._path.at(rows, data.inputs[rows])
        rate = log_rate_of(torch.from_numpy(pattern + level)) + torch.from_numpy(offset)
        mu = rate.exp().numpy() * (data.totals[rows] / PER)[:, None]
        return torch.from_numpy(np.log(dispersion_by_moments(data.counts[rows], mu))).float()

    def _bank(self) -> torch.Tensor:
        """References of all spots; a spot without counts is never retrieved."""
        known, shape = np.flatnonzero(self.data.totals > 0), self.data.expression.shape
        bank = np.zeros(shape, dtype=np.float32)
        bank[known] = self._reference_expression(known)
        return torch.from_numpy(bank)

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_train"]:
        """Shuffle the training rows; each occurs once."""
        shuffled: Array = rng.permutation(self.train_rows)
        return shuffled

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Squared error of all members, and negative log-likelihood of each member's share of the spots."""
        error, nll = self._errors(rows, *self.network.each(self._fusion.batch(rows)))
        # Summed over members: each minimises its own loss, so that training does not depend on the size of the ensemble.
        total = self.config.members * (error + nll)
        parts = {"error": float(error.detach()), "nll": float(nll.detach())}
        return LossTerms(total=total, parts=parts, n=len(rows))

    def validate(self) -> dict[str, float]:
        """Metrics of the averaged members on the held-out spots; empty if none are held out.

        ``loss`` is 1 - Pearson, within each section and averaged over genes, as in the reported scores. Squared error
        and likelihood would stop earlier, when amplitudes begin to overshoot although patterns still improve
        (docs/experiments-log.md).
        """
        rows = self.data.val_rows
        if not len(rows):
            return {}
        outputs = self._outputs(rows)
        errors = [
            (len(batch), *map(float, self._errors(batch, out.expression, out))) for batch, out in outputs
        ]
        n, error, nll = np.array(errors).T
        pearson = within_section_pearson(
            self._expression(outputs), self.data.expression_of(rows), self.data.section_of[rows]
        )
        mean = float(np.nanmean(pearson)) if np.isfinite(pearson).any() else 0.0
        weighted = {"error": float(n @ error / n.sum()), "nll": float(n @ nll / n.sum())}
        return {"loss": 1.0 - mean, "pearson": mean, **weighted}

    @torch.no_grad()
    def predict_heldout(self) -> HeldOutPredictions:
        """Predict the held-out spots by the network, and by a ridge and prototypes fitted on the same training spots."""
        data, train, rows = self.data, self.train_rows, self.data.val_rows
        self.network.eval()
        outputs = self._outputs(rows)
        ridge = self._fit_ridge(train)
        fitted = at_most(train, MOST_FITTED)
        prototypes = fit_prototypes(data.inputs[fitted], data.centred_of(fitted))
        # No fit contains a held-out spot, so the gene means and offsets are the same for all of them: read them from one.
        level, offset = (each[0] for each in self._path.at(rows[:1], data.inputs[rows[:1]])[1:])
        network = self._expression(outputs) - level
        inflation = [out.zi_logits for _, out in outputs if out.zi_logits is not None]
        theta = outputs[0][1].log_theta
        patterns = (ridge.ridge.predict(data.inputs[rows]), prototypes.predict(data.inputs[rows]), network)
        return HeldOutPredictions(
            rows=rows,
            patterns=np.stack([pattern.astype(np.float32) for pattern in patterns]),
            level=level,
            offsets=np.stack([ridge.offset.astype(np.float32), offset]),
            log_rate=torch.cat([out.log_rate for _, out in outputs]).float().cpu().numpy(),
            theta=None if theta is None else theta.exp().cpu().numpy(),
            pi=torch.sigmoid(torch.cat(inflation)).cpu().numpy() if inflation else None,
        )

    def constants(self) -> dict[str, Array]:
        """Arrays that prediction needs in addition to the network: transforms, baselines and accuracy."""
        return self._constants

    def meta(self, *, epoch: int, history: list[dict[str, float]], best: dict[str, float]) -> CheckpointMeta:
        """Describe the checkpoint; ``donors`` lists sections used only in pretraining last."""
        meta = describe_training(
            self.config,
            self.data,
            stage="selection" if self._judged is None else "finetune",
            settings=self.settings,
            epoch=epoch,
            history=history,
            best=best,
        )
        held_out = meta.val_sections if self._judged is None else self._judged.sections
        meta = dataclasses.replace(meta, val_sections=held_out)
        if self._pretrained is None:
            return meta
        return dataclasses.replace(
            meta,
            donors=with_pretrained_donors(meta.donors, self._pretrained.donors),
            section_digests={**self._pretrained.section_digests, **meta.section_digests},
            licences={**self._pretrained.licences, **meta.licences},
        )

    def _fit_ridge(self, rows: Int64[Array, " n"]) -> RatePath:
        """Fit the tuned ridge on some spots; its penalty is the best one on left-out donors, sections or blocks."""
        data, rows = self.data, at_most(rows, MOST_FITTED)
        units = units_of(data.spots, data.groups)[rows]
        group = units if len(np.unique(units)) > 1 else data.groups.group[rows]
        inputs, alpha = data.inputs[rows], DEFAULT_ALPHA
        if len(np.unique(group)) > 1:
            alpha = choose_alpha(inputs, data.centred_of(rows), group, ALPHAS)
        of_spots = (data.counts[rows], data.totals[rows], data.section_of[rows])
        return fit_rate_path(inputs, data.expression_of(rows), *of_spots, alpha=alpha)

    def _fit_constants(self, judged: Judgement) -> dict[str, Array]:
        """Fit what prediction needs in addition to the network, on all spots with counts (or `MOST_FITTED` of them)."""
        data = self.data
        known = np.flatnonzero(data.totals > 0)
        ridge = path = self._fit_ridge(known)
        if self.config.path != "ridge":
            path = fit_rate_path(
                data.inputs[:0],
                data.expression[known],
                data.counts[known],
                data.totals[known],
                data.section_of[known],
                alpha=None,
            )
        rows, seen = at_most(known, MOST_FITTED), at_most(known, _MOST_SEEN)
        hest = [data.genes.genes.index(gene) for gene in data.genes.sets["hest-50"]]
        hest_counts = data.counts[rows][:, hest].toarray()
        expression = data.expression_of(rows)
        reference = self._reference_expression(rows)
        appearance = fit_appearance(data.features_of(seen), data.groups.group[seen], data.section_of[seen])
        stack = Stack(
            weights=judged.weights,
            reach=appearance.reach(units_of(data.spots, data.groups)[seen], data.groups.group[seen]),
        )
        smallest = data.features_of(rows, dim=dim_of_smallest(data.features.tiles, data.features.dims))
        prototypes = fit_prototypes(data.inputs[rows], data.centred_of(rows))
        tensors = {
            **to_tensors(data.transform, "inputs"),
            **to_tensors(path, "path"),
            **to_tensors(ridge, "ridge"),
            **to_tensors(prototypes, "prototypes"),
            **to_tensors(stack, "stack"),
            **to_tensors(fit_baselines(smallest, expression, hest_counts), "baseline"),
            **to_tensors(appearance, "appearance"),
            **to_tensors(judged.heldout, "heldout"),
            # Counts per 10k if every group had the gene means of the cohort, as `panel.py` computes them from a bank.
            "cohort.per_10k": per_10k(reference + path.gene_mean).mean(axis=0),
        }
        if self.config.with_bank:
            tensors |= {
                "bank.inputs": data.inputs[rows],
                "bank.expression": reference,
                "bank.section": data.section_of[rows].astype(np.int32),
            }
        return tensors

    def _reference_expression(self, rows: Int64[Array, " b"]) -> Array:
        """Expression of some spots with counts minus the mean of their group, as references for spots of other groups."""
        group, known = self.data.groups.group, np.flatnonzero(self.data.totals > 0)
        means = group_means(self.data.expression, group, known)
        rank = np.searchsorted(np.unique(group[known]), group[rows])
        reference: Array = (self.data.expression_of(rows) - means[rank]).astype(np.float32)
        return reference

    def _outputs(self, rows: Int64[Array, " b"]) -> list[tuple[Array, FusionOutput]]:
        """Averaged output of the members, batch by batch."""
        batches = [rows[i : i + _INFERRED] for i in range(0, len(rows), _INFERRED)]
        return [(batch, self.network(self._fusion.batch(batch))) for batch in batches]

    def _expression(self, outputs: list[tuple[Array, FusionOutput]]) -> Array:
        """Predicted log1p(CP10k) of all batches."""
        return (
            torch.cat([self._path_at(batch)[1] + out.expression.float() for batch, out in outputs])
            .cpu()
            .numpy()
        )

    def _path_at(self, rows: Int64[Array, " b"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Output of the path's ridge (0 without one), and the expression by the path, which the network corrects."""
        level = self._level.index_select(0, self._rank[self._where(rows)])
        if self.config.path != "ridge":
            return level.new_zeros(()), level
        ridge = torch.from_numpy(self._path.at(rows, self.data.inputs[rows])[0]).to(self._device)
        return ridge, ridge + level

    def _where(self, rows: Int64[Array, " b"]) -> torch.Tensor:
        return torch.from_numpy(rows).to(self._device)

    def _errors(
        self, rows: Int64[Array, " b"], expression: torch.Tensor, out: FusionOutput
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of corrections of the expression, and negative log-likelihood of the counts; means over spots and genes.

        Stop-gradient: the likelihood does not update the expression.
        """
        where, batch, (ridge, base) = self._where(rows), self._counts.batch(rows), self._path_at(rows)
        with torch.autocast(self._device.type, enabled=False):
            target = (batch.centred - ridge).expand_as(expression)
            error = mse_loss(expression.float(), target)
            log_mu = log_rate_of(base + out.expression.detach().float())
            log_mu += self._offset.index_select(0, self._rank[where])
            log_mu += self._log_size[where, None]
            return error, -self._log_prob(batch, log_mu + out.log_rate.float(), out)

    def _log_prob(self, batch: CountBatch, log_mu: torch.Tensor, out: FusionOutput) -> torch.Tensor:
        """Log-probability of the counts, mean over spots and genes."""
        if out.log_theta is None or out.zi_logits is None:
            return count_log_prob(batch.dense(), log_mu=log_mu, log_theta=out.log_theta).mean()
        total = zinb_log_prob_sum(
            batch.place, batch.count, log_mu=log_mu, log_theta=out.log_theta, zi_logits=out.zi_logits.float()
        )
        return total / log_mu.numel()


def with_pretrained_donors(
    own: dict[str, int | None], pretrained: dict[str, int | None]
) -> dict[str, int | None]:
    """Append the sections used only in pretraining, with donor numbers that agree with those of this run.

    A donor of pretraining is identified by a section that is in both runs. If all sections of this run were in
    pretraining, the remaining donors of pretraining are other donors; otherwise they are unknown (None).
    """
    numbers: dict[int | None, int | None] = {None: None}
    for name, number in pretrained.items():
        if number is not None and own.get(name) is not None:
            numbers[number] = own[name]
    is_complete = own.keys() <= pretrained.keys()
    for number in set(pretrained.values()) - numbers.keys():
        numbers[number] = len(own) + number if is_complete and number is not None else None
    return own | {name: numbers[number] for name, number in pretrained.items() if name not in own}


def load_pretrained(network: FusionModel, tensors: dict[str, Array]) -> None:
    """Load the encoders that stage 1 trained into the branches that the network has.

    Sizes fit, because genes, components and the width of the encoders are those of the checkpoint.
    """
    for name in ("image_projector", "gcn", "gene_encoder"):
        module, weights = getattr(network, name), weights_of(tensors, f"network.{name}.")
        if module is not None and weights:  # img-gene and img-coord train one branch only
            module.load_state_dict(weights)
