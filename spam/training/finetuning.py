"""Stage 2: predict expression and the distribution of counts from a spot's image and its surroundings."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from spam.atomic import claimed, write_text
from spam.errors import CheckpointError, StoreError
from spam.hardware import limited_threads, resolve_device, seeded
from spam.models.checkpoint import (
    Checkpoint,
    from_tensors,
    read_checkpoint,
    to_tensors,
    weights_of,
    write_checkpoint,
)
from spam.models.count_likelihood import count_log_prob
from spam.models.fusion import Branch, FusionEnsemble, FusionInputs, FusionModel, FusionOutput
from spam.models.inputs import InputTransform
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
from spam.models.stacking import KINDS, Stack, fit_prototypes
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import FinetuneConfig
from spam.store import Profiles
from spam.typing import Array, Int64

from .cohort import cohort_neighbours
from .groups import assign_groups, cross_fit, folds_of, units_of
from .judging import HeldOutPredictions, Judgement, are_new_donors, best_epoch, judge_folds
from .loop import HEALTH, LossTerms, Run, TrainingReport, fit, held_out_in_words
from .training_set import (
    TrainingSet,
    build_training_set,
    describe_training,
    has_one_split,
    regrouped,
    retrieve_across_groups,
)

_SELECTION = "selection"  # folder of the runs with held-out spots
_BRANCHES: dict[str, tuple[Branch, ...]] = {
    "both": ("coord", "gene"),
    "neighbours": ("coord",),
    "references": ("gene",),
    "none": (),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneReport(TrainingReport):
    """Outcome of `finetune`; epoch 0 of a history is the baseline (``--path``) alone, before any training.

    Attributes
    ----------
    selections
        The runs that chose the number of epochs, one for each fold of held-out spots.
    history
        Means of the folds' metrics on held-out spots, for every epoch.
    n_genes
        Genes modelled.
    heldout_pearson
        Correlation on the held-out spots, within their section, mean over genes with a defined correlation.
    alone
        The same of each predictor alone, mean over all genes.
    weights
        Weights of the predictors.
    is_new_donor
        Whether the donors of the held-out sections are known, and were not trained on by the run that held them out.
    adapted_on
        Sections with held-out spots whose counts trained the adapted encoder, so that their accuracy is overestimated.
    """

    selections: tuple[Run, ...]
    history: list[dict[str, float]]
    n_genes: int
    heldout_pearson: float
    alone: dict[str, float]
    weights: dict[str, float]
    adapted_on: tuple[str, ...]
    is_new_donor: bool

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types; ``metrics`` are those of the folds, on held-out spots."""
        values = TrainingReport.to_mapping(self) | {"metrics": self.best}
        del values["selections"], values["history"]
        return values

    @property
    def best(self) -> dict[str, float]:
        """Mean metrics of the folds at the chosen number of epochs."""
        return self.history[int(self.run.best["epoch"])]

    @property
    def held_out(self) -> str:
        """What was held out, in words."""
        if len(self.selections) == 1:
            return held_out_in_words(self.val_sections)
        what = "donor" if self.is_new_donor else "section" if self.val_sections else "block"
        return f"each {what} in turn, in {len(self.selections)} folds"

    def summary(self) -> str:
        """Describe what training learned, in a few lines."""
        best, start = self.best, self.history[0]
        is_better = best["epoch"] > 0
        nll = (
            f"{best['val_nll']:.4f} at epoch {best['epoch']:.0f} ({start['val_nll']:.4f} before training)"
            if is_better
            else f"{start['val_nll']:.4f} before training, and no better correlation after training: the network learned nothing"
        )
        adapted = (
            f"\nthe encoder was adapted with the counts of {', '.join(self.adapted_on)}: accuracy and intervals measured "
            "there are too optimistic"
            if self.adapted_on
            else ""
        )
        donor = (
            ""
            if self.is_new_donor
            else "\nheld-out spots are not known to be of another donor: accuracy and intervals for new donors were not measured"
        )
        parts = ", ".join(
            f"{name} {self.weights[name]:.0%} (alone {self.alone[name]:.3f})" for name in self.weights
        )
        then = "then trained on all spots for as many epochs" if is_better else "then fitted on all spots"
        return "".join(f"{line}\n" for line in self.run.repeated()) + (
            f"{self.n_train} spots, {self.n_genes} genes; held out in the first {'runs' if len(self.selections) > 1 else 'run'}: "
            f"{self.n_val} spots ({self.held_out})\n"
            f"held-out NLL of the network per spot and gene {nll}\n"
            f"held-out Pearson {self.heldout_pearson:.3f}; weights: {parts}{donor}{adapted}\n"
            f"{then}; checkpoint: {self.run.best_path}"
        )


def finetune(config: FinetuneConfig, *, progress: Progress = SILENT) -> FinetuneReport:
    """Train the fusion model on raw counts, and weigh it against a ridge and prototypes (`Stack`).

    The first runs ("selection") leave out each donor, section or block in turn (or ``--val-sections``, or what
    pretraining held out). The held-out spots choose the number of epochs and the weights of the predictors, measure the
    accuracy of each gene and calibrate the predictive intervals; for weights, accuracy and intervals each fold is predicted
    at its own best epoch, which favours the network a little. The last run trains on all spots for the number of epochs that
    is best on average. No input of a spot's prediction depends on the spot's own counts. The loss of the network is the
    squared error of log1p(CP10k) minus the section mean, plus the negative log-likelihood of the raw counts.

    Relative to the paper: the gene branch reads the expression of *other* sections' spots that look alike, never the
    spot's own; attention runs over several neighbours and references, and only with ``--attend``; counts are
    modelled raw, with the library size as offset; expression has a separate decoder; several networks are averaged.

    Raises
    ------
    ConfigError, StoreError, CheckpointError
        If options, sections, features and pretrained checkpoint do not fit together.
    OutputExistsError
        If the save dir holds another run.
    """
    if config.pretrained_ckpt is None:
        return finetune_on(build_training_set(config), config, progress=progress)
    meta, tensors = read_checkpoint(config.pretrained_ckpt, stage="pretrain")
    data = build_training_set(config, (meta, from_tensors(InputTransform, tensors, "inputs")))
    _check_no_leak(meta, data)
    # A resumed run must agree on the pretrained weights.
    mixed = hashlib.sha256(data.digest.encode())
    for name in sorted(name for name in tensors if name.startswith("network.")):
        mixed.update(tensors[name].tobytes())
    data = dataclasses.replace(data, digest=mixed.hexdigest())
    report = finetune_on(data, config, pretrained=(meta, tensors), progress=progress)
    health = config.pretrained_ckpt.with_name(HEALTH)
    if health.is_file():  # for `spam report`
        write_text(report.run.best_path.with_name(HEALTH), health.read_text(encoding="utf-8"))
    return report


def finetune_on(
    data: TrainingSet,
    config: FinetuneConfig,
    *,
    pretrained: Checkpoint | None = None,
    progress: Progress = SILENT,
) -> FinetuneReport:
    """`finetune` on spots that were already read.

    Raises
    ------
    StoreError, OutputExistsError
        As in `finetune`.
    """
    device = resolve_device(config.device)
    save_dir = config.save_dir
    assert save_dir is not None  # checked by the configuration
    if config.overwrite:
        _clear(save_dir)
    with limited_threads(config.num_workers):
        runs, parts = _select(data, config, save_dir, pretrained, device, progress)
        history = [
            {key: float(np.mean([metrics[key] for metrics in epoch])) for key in epoch[0]}
            for epoch in zip(*(run.history for run in runs), strict=True)
        ]
        write_text(save_dir / _SELECTION / "history.json", json.dumps(history, indent=1))
        nothing = np.zeros_like(data.groups.is_val)
        groups = dataclasses.replace(assign_groups(data.spots, ()), is_val=nothing)
        whole = regrouped(data, groups, n_components=None if pretrained else config.n_components)
        judged = judge_folds(parts, whole, config.likelihood)
        final = FusionStage(config, whole, pretrained, device, judged=judged)
        # Without held-out spots each epoch counts as the best: the last one is kept.
        epochs = best_epoch(history, FusionStage.tolerance)
        run = fit(final, config, device=device, progress=progress, epochs=epochs)
    # A run that was done before, with folds that have been trained for longer since.
    for path in (run.best_path, run.last_path):
        meta, tensors = read_checkpoint(path, stage=final.name)
        if not all(
            np.array_equal(tensors[key], value, equal_nan=True) for key, value in final.constants().items()
        ):
            write_checkpoint(path, meta, tensors | final.constants())
    pearson = judged.heldout.pearson[np.isfinite(judged.heldout.pearson)]
    donors = final.meta(epoch=0, history=[], best={}).donors
    return FinetuneReport(
        run=run,
        selections=tuple(runs),
        history=history,
        n_train=len(final.train_rows),
        n_val=sum(len(part.rows) for part in parts),
        n_genes=len(data.genes.genes),
        val_sections=() if len(data.spots) == 1 else judged.sections,
        heldout_pearson=float(pearson.mean()) if len(pearson) else float("nan"),
        alone=judged.alone,
        weights=dict(zip(KINDS, judged.weights.tolist(), strict=True)),
        is_new_donor=are_new_donors(donors, judged.sections),
        adapted_on=tuple(name for name in judged.sections if name in data.features.adapted_on),
    )


def _clear(save_dir: Path) -> None:
    """Remove an earlier run, so that nothing of it passes for a part of the new one."""
    with claimed(save_dir, "--save-dir"):
        for name in ("best.safetensors", "last.safetensors", HEALTH):
            (save_dir / name).unlink(missing_ok=True)
        shutil.rmtree(save_dir / _SELECTION, ignore_errors=True)


def _select(
    data: TrainingSet,
    config: FinetuneConfig,
    save_dir: Path,
    pretrained: Checkpoint | None,
    device: torch.device,
    progress: Progress,
) -> tuple[list[Run], list[HeldOutPredictions]]:
    """Train without the held-out spots of each fold; predict them, each fold at its own best epoch."""
    is_one_split = has_one_split(config, data.features) or pretrained is not None
    folds = (data.groups,) if is_one_split else folds_of(data.spots, data.totals)
    n_components = None if pretrained else config.n_components
    runs, parts = [], []
    for number, groups in enumerate(folds, 1):
        chosen = dataclasses.replace(
            config,
            save_dir=save_dir / _SELECTION / str(number),
            # About as many networks in all folds together as in two runs of the whole ensemble.
            members=min(config.members, -(-2 * config.members // len(folds))),
        )
        part = data if is_one_split else regrouped(data, groups, n_components=n_components)
        stage = FusionStage(chosen, part, pretrained, device)
        runs.append(fit(stage, chosen, device=device, progress=progress))
        stage.network.load_state_dict(weights_of(read_checkpoint(runs[-1].best_path, stage=stage.name)[1]))
        parts.append(stage.predict_heldout())
        del stage, part  # frees the arrays before those of the next run are made
    return runs, parts


def _check_no_leak(meta: CheckpointMeta, data: TrainingSet) -> None:
    """Refuse a pretraining that was trained on spots that are held out now."""
    is_same_block = meta.train_sections == meta.val_sections == tuple(s.name for s in data.spots)
    whole = () if is_same_block else meta.train_sections
    held_out = [name for name in meta.val_sections if name not in meta.train_sections]
    known = [
        Profiles.from_mapping(meta.section_digests[name]) for name in whole if name in meta.section_digests
    ]
    seen = sorted(
        spots.name
        for spots, profiles in zip(data.spots, data.profiles, strict=True)
        if spots.name in data.held_out_sections
        and (
            spots.name in whole
            or any(profiles.share_of_counts(p) or profiles.share_of_images(p) for p in known)
        )
    )
    if seen:
        as_before = f"Hold out {', '.join(held_out)} as in pretraining" if held_out else "Hold out others"
        message = (
            f"The pretrained checkpoint was trained on {', '.join(seen)}, whose spots would be held out now. {as_before}, "
            "or pretrain again with the same --sections and --val-sections."
        )
        raise CheckpointError(message)


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
        (docs/experiments.md).
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
