"""What `loop.fit` trains in stage 2: the ensemble, its loss, its held-out predictions, and what its checkpoint holds."""

import dataclasses
from typing import Any, cast

import numpy as np
import torch

from spam.errors import StoreError
from spam.hardware import seeded
from spam.models.checkpoint import (
    Checkpoint,
    to_tensors,
    weights_of,
)
from spam.models.count_likelihood import count_log_prob
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
from spam.schemas.training_config import FinetuneConfig
from spam.typing import Array, Int64

from .cohort import cohort_neighbours
from .groups import cross_fit, units_of
from .judging import HeldOutPredictions, Judgement
from .loop import LossTerms
from .training_set import (
    TrainingSet,
    describe_training,
    retrieve_across_groups,
)

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
        ridge, level, offset = cross_fit(
            *self._rows(np.arange(len(data.totals))),
            data.section_of,
            data.groups,
            has_ridge=config.path == "ridge",
        )
        base, self._level = ridge + level, level
        rate = log_rate_of(torch.from_numpy(base[train])) + torch.from_numpy(offset[train])
        mu = rate.exp().numpy() * (data.totals[train] / PER)[:, None]
        theta = dispersion_by_moments(data.counts[train], mu)
        with seeded(config.seed, device=torch.device("cpu")):
            self.network = FusionEnsemble(**self.settings)
        for member in cast("list[FusionModel]", list(self.network.members)):
            if pretrained is not None:
                load_pretrained(member, pretrained[1])
            if member.log_theta is not None:
                member.log_theta.data = torch.from_numpy(np.log(theta)).float()
        has_coord, has_gene = "coord" in branches, "gene" in branches
        self._fusion = FusionInputs(
            inputs=torch.from_numpy(data.inputs).to(device),
            neighbours=cohort_neighbours(data.spots, config.n_neighbours) if has_coord else None,
            weights=data.weights if has_coord else None,
            references=retrieve_across_groups(data, config.n_references) if has_gene else None,
            bank=torch.from_numpy(self._reference_expression()).to(device) if has_gene else None,
        )
        self._base, self._offset = torch.from_numpy(base).to(device), torch.from_numpy(offset).to(device)
        # Target of the expression decoder: the pattern within the section, because an image does not show its level.
        self._pattern = torch.from_numpy(data.centred - ridge).to(device)
        self._log_size = torch.from_numpy(np.log(np.maximum(data.totals, 1.0) / PER)).float().to(device)
        self._constants = {} if judged is None else self._fit_constants(judged)

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_train"]:
        """Shuffle the training rows; each occurs once."""
        shuffled: Array = rng.permutation(self.train_rows)
        return shuffled

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Squared error and negative log-likelihood, means over spots, genes and members."""
        error, nll = self._errors(rows, self.network.each(self._fusion.batch(rows)))
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
        errors = [(len(batch), *map(float, self._errors(batch, out))) for batch, out in outputs]
        n, error, nll = np.array(errors).T
        pearson = within_section_pearson(
            self._expression(outputs), self.data.expression[rows], self.data.section_of[rows]
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
        prototypes = fit_prototypes(data.inputs[train], data.centred[train])
        base, offset = self._base[rows].cpu().numpy(), self._offset[rows].cpu().numpy()
        level = self._level[rows[0]]  # fitted without any held-out spot, so the same for all of them
        network = base - level + torch.cat([out.expression for _, out in outputs]).float().cpu().numpy()
        inflation = [out.zi_logits for _, out in outputs if out.zi_logits is not None]
        theta = outputs[0][1].log_theta
        patterns = (ridge.ridge.predict(data.inputs[rows]), prototypes.predict(data.inputs[rows]), network)
        return HeldOutPredictions(
            rows=rows,
            patterns=np.stack([pattern.astype(np.float32) for pattern in patterns]),
            level=level,
            offsets=np.stack([ridge.offset.astype(np.float32), offset[0]]),
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
        data = self.data
        units = units_of(data.spots, data.groups)[rows]
        group = units if len(np.unique(units)) > 1 else data.groups.group[rows]
        alpha = DEFAULT_ALPHA
        if len(np.unique(group)) > 1:
            alpha = choose_alpha(data.inputs[rows], data.centred[rows], group, ALPHAS)
        return fit_rate_path(*self._rows(rows), data.section_of[rows], alpha=alpha)

    def _fit_constants(self, judged: Judgement) -> dict[str, Array]:
        """Fit what prediction needs in addition to the network, on all spots with counts."""
        data = self.data
        rows = np.flatnonzero(data.totals > 0)
        section, group, expression = data.section_of[rows], data.groups.group[rows], data.expression[rows]
        ridge = self._fit_ridge(rows)
        path = ridge if self.config.path == "ridge" else fit_rate_path(*self._rows(rows), section, alpha=None)
        features = np.concatenate([s.features for s in data.spots])[rows]
        hest = [data.genes.genes.index(gene) for gene in data.genes.sets["hest-50"]]
        hest_counts = data.counts[rows][:, hest].toarray()
        reference = self._reference_expression()[rows]
        appearance = fit_appearance(features, group, section)
        stack = Stack(
            weights=judged.weights,
            reach=appearance.reach(units_of(data.spots, data.groups)[rows], group),
        )
        tensors = {
            **to_tensors(data.transform, "inputs"),
            **to_tensors(path, "path"),
            **to_tensors(ridge, "ridge"),
            **to_tensors(fit_prototypes(data.inputs[rows], data.centred[rows]), "prototypes"),
            **to_tensors(stack, "stack"),
            **to_tensors(
                fit_baselines(features[:, : data.features.dims[0]], expression, hest_counts), "baseline"
            ),
            **to_tensors(appearance, "appearance"),
            **to_tensors(judged.heldout, "heldout"),
            # The mean over the sections replaces each group's own level, as where a panel is compared with the bank.
            "cohort.per_10k": per_10k(reference + path.gene_mean).mean(axis=0),
        }
        if self.config.with_bank:
            tensors |= {
                "bank.inputs": data.inputs[rows],
                "bank.expression": reference,
                "bank.section": section.astype(np.int32),
            }
        return tensors

    def _reference_expression(self) -> Array:
        """Expression of all spots minus the mean of their group, as references for spots of other groups."""
        group, has_counts = self.data.groups.group, self.data.totals > 0
        centred = np.zeros_like(self.data.expression)  # a spot without counts is never retrieved
        rank = np.unique(group[has_counts], return_inverse=True)[1]
        known = self.data.expression[has_counts]
        centred[has_counts] = known - group_means(known, group[has_counts])[rank]
        return centred

    def _rows(self, rows: Int64[Array, " b"]) -> tuple[Array, Array, Any, Array]:
        data = self.data
        return data.inputs[rows], data.expression[rows], data.counts[rows], data.totals[rows]

    def _outputs(self, rows: Int64[Array, " b"]) -> list[tuple[Array, FusionOutput]]:
        """Averaged output of the members, batch by batch."""
        size = self.config.batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        return [(batch, self.network(self._fusion.batch(batch))) for batch in batches]

    def _expression(self, outputs: list[tuple[Array, FusionOutput]]) -> Array:
        """Predicted log1p(CP10k) of all batches."""
        device = self._base.device
        parts = [
            self._base[torch.from_numpy(batch).to(device)] + out.expression.float() for batch, out in outputs
        ]
        return torch.cat(parts).cpu().numpy()

    def _log_mu(self, rows: Int64[Array, " b"], out: FusionOutput) -> torch.Tensor:
        """Logarithm of the expected counts; stop-gradient on the expression."""
        where = torch.from_numpy(rows).to(self._base.device)
        expression = self._base[where] + out.expression.float().detach()
        log_rate: torch.Tensor = log_rate_of(expression) + self._offset[where] + out.log_rate.float()
        return log_rate + self._log_size[where, None]

    def _errors(self, rows: Int64[Array, " b"], out: FusionOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of the centred expression and negative log-likelihood of the counts, means over spots and genes."""
        where = torch.from_numpy(rows).to(self._base.device)
        counts = torch.from_numpy(self.data.counts[rows].toarray()).to(self._base.device)
        with torch.autocast(self._base.device.type, enabled=False):
            log_prob = count_log_prob(
                counts,
                log_mu=self._log_mu(rows, out),
                log_theta=None if out.log_theta is None else out.log_theta[..., None, :],
                zi_logits=out.zi_logits,
            )
            error = (out.expression.float() - self._pattern[where]).square().mean()
            return error, -log_prob.mean()


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
