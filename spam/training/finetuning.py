"""Stage 2: cross-attention over neighbours and references, on top of a linear path, with a likelihood on raw counts."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import torch

from spam.errors import CheckpointError, StoreError
from spam.hardware import limited_threads, resolve_device, seeded
from spam.models import FusionModel, build_distribution
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import FinetuneConfig
from spam.typing import Array, Int64

from .baselines import fit_baselines
from .batches import FusionInputs
from .checkpoint import Checkpoint, read_checkpoint
from .dataset import TrainingSet, build_training_set, retrieve_across_groups
from .description import describe_training
from .inputs import InputTransform
from .loop import LossTerms, fit
from .neighbours import cohort_neighbours
from .rate_path import PER, choose_penalty, cross_fit_log_rate, dispersion_by_moments, fit_rate_path
from .report import TrainingReport

__all__ = ["FinetuneReport", "FusionStage", "finetune"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneReport(TrainingReport):
    """Outcome of `finetune`; epoch 0 of its history is the linear path alone.

    Attributes
    ----------
    n_genes
        Genes modelled.
    alpha
        Penalty of the linear path that predicts new sections, chosen by leaving out one group at a time.
    """

    n_genes: int
    alpha: float

    def summary(self) -> str:
        """Say in a few lines what training added to the linear path."""
        best, start = self.run.best, self.run.history[0]
        gain = start["val_loss"] - best["val_loss"]
        verdict = (
            f"better than the linear path by {gain:.4f}"
            if gain > 0
            else "no better than the linear path, which is kept"
        )
        return (
            f"{self.n_train} spots, {self.n_genes} genes; {self.n_val} spots held out "
            f"({self.held_out})\n"
            f"held-out NLL per spot and gene {best['val_loss']:.4f} at epoch {best['epoch']:.0f}: {verdict}\n"
            f"checkpoint: {self.run.best_path}"
        )


def finetune(config: FinetuneConfig, *, progress: Progress = SILENT) -> FinetuneReport:
    """Train the fusion model on raw counts.

    The log-rate of a spot is that of the linear path (a ridge on its image inputs, fitted without its group) plus a
    residual from cross-attention, which starts at zero: epoch 0 is the tuned ridge, and training is kept only as far as
    it lowers the held-out negative log-likelihood. No input of a spot's prediction depends on its own counts.

    Relative to the paper: the gene branch reads the expression of *other* sections' spots that look alike, never the
    spot's own; attention runs over several neighbours and references; counts are modelled raw, with the library size as
    offset; the linear path is ours.

    Raises
    ------
    ConfigError, StoreError, CheckpointError
        If options, sections, features and pretrained checkpoint do not fit together.
    OutputExistsError
        If the save dir holds another run.
    """
    device = resolve_device(config.device)
    pretrained = (
        None if config.pretrained_ckpt is None else read_checkpoint(config.pretrained_ckpt, stage="pretrain")
    )
    transform = None if pretrained is None else (pretrained[0], InputTransform.from_tensors(pretrained[1]))
    data = build_training_set(config, transform)
    if pretrained is not None:
        _check_no_leak(pretrained[0], data)
        data = dataclasses.replace(data, digest=_mix(data.digest, pretrained[1]))
    stage = FusionStage(config, data, pretrained, device)
    with limited_threads(config.num_workers):
        run = fit(stage, config, device=device, progress=progress)
    return FinetuneReport(
        run=run,
        n_train=len(data.train_rows),
        n_val=len(data.val_rows),
        n_genes=len(data.genes.genes),
        val_sections=() if len(data.spots) == 1 else data.held_out_sections,
        alpha=stage.alpha,
    )


class FusionStage:
    """What stage 2 brings to the training loop."""

    name = "finetune"

    def __init__(
        self, config: FinetuneConfig, data: TrainingSet, pretrained: Checkpoint | None, device: torch.device
    ) -> None:
        if not len(data.train_rows) or not len(data.val_rows):
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
        self.config, self.data = config, data
        self.train_rows = data.train_rows
        self._pretrained_donors = {} if pretrained is None else pretrained[0].donors
        train, usable = data.train_rows, np.flatnonzero(data.totals > 0)
        self.alpha = choose_penalty(data.inputs[usable], data.expression[usable], data.groups.group[usable])
        self._path = fit_rate_path(*self._rows(usable), data.groups.group[usable], alpha=self.alpha)
        log_rate = cross_fit_log_rate(data.inputs, data.expression, data.counts, data.totals, data.groups)
        mu = np.exp(log_rate[train]) * (data.totals[train] / PER)[:, None]
        theta = dispersion_by_moments(data.counts[train], mu)
        self._baselines = fit_baselines(data)
        self.settings: dict[str, Any] = {
            "image_dim": data.inputs.shape[1],
            "n_genes": len(data.genes.genes),
            "proj_dim": 256 if pretrained is None else pretrained[0].settings["proj_dim"],
            "fuse_dim": config.fuse_dim,
            "heads": config.heads,
            "merge": config.merge,
            "dropout": config.dropout,
            "likelihood": config.likelihood,
        }
        with seeded(config.seed, device=torch.device("cpu")):
            self.network = FusionModel(**self.settings)
        if pretrained is not None:
            load_pretrained(self.network, pretrained[1])
        if self.network.log_theta is not None:
            self.network.log_theta.data = torch.from_numpy(np.log(theta)).float()
        self._fusion = FusionInputs.to_device(
            data.inputs,
            data.weights,
            cohort_neighbours(data.spots, config.n_neighbours),
            retrieve_across_groups(data, config.n_references),
            data.centred,
            device=device,
        )
        self._log_rate = torch.from_numpy(log_rate).to(device)
        self._log_size = torch.from_numpy(np.log(np.maximum(data.totals, 1.0) / PER)).float().to(device)

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Negative log-likelihood of the raw counts, a mean over spots and genes."""
        nll = self._nll(rows)
        return LossTerms(total=nll, parts={"nll": float(nll.detach())}, n=len(rows))

    def validate(self) -> dict[str, float]:
        """Negative log-likelihood per spot and gene of the held-out spots."""
        rows, size = self.data.val_rows, self.config.batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        return {"loss": sum(float(self._nll(batch)) * len(batch) for batch in batches) / len(rows)}

    def constants(self) -> dict[str, Array]:
        """Keep all that prediction needs without the training sections: transforms, linear path, references, baselines."""
        data = self.data
        rows = np.flatnonzero(data.totals > 0)
        return {
            **data.transform.to_tensors(),
            **self._path.to_tensors(),
            **self._baselines.to_tensors(),
            "bank.inputs": data.inputs[rows],
            "bank.expression": data.centred[rows],
            "bank.section": data.section_of[rows].astype(np.int32),
        }

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
        # Own sections first: "bank.section" counts them.
        only_pretrained = {k: v for k, v in self._pretrained_donors.items() if k not in meta.donors}
        return dataclasses.replace(meta, donors=meta.donors | only_pretrained)

    def _rows(self, rows: Int64[Array, " b"]) -> tuple[Array, Array, Any, Array]:
        data = self.data
        return data.inputs[rows], data.expression[rows], data.counts[rows], data.totals[rows]

    def _nll(self, rows: Int64[Array, " b"]) -> torch.Tensor:
        out = self.network(self._fusion.batch(rows))
        where = torch.from_numpy(rows).to(self._log_rate.device)
        counts = torch.from_numpy(self.data.counts[rows].toarray()).to(self._log_rate.device)
        with torch.autocast(self._log_rate.device.type, enabled=False):
            log_mu = self._log_rate[where] + self._log_size[where, None] + out.residual.float()
            distribution = build_distribution(
                self.config.likelihood, log_mu=log_mu, log_theta=out.log_theta, zi_logits=out.zi_logits
            )
            return -distribution.log_prob(counts, validate=False).mean()


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


def _check_no_leak(meta: CheckpointMeta, data: TrainingSet) -> None:
    """Refuse a pretraining that has trained on sections, or on the block of one, which are to be held out now."""
    held_out = {s.name for i, s in enumerate(data.spots) if data.groups.is_val[data.section_of == i].any()}
    names = [s.name for s in data.spots]
    seen = sorted(held_out & (set(meta.train_sections) - set(meta.val_sections)))
    if seen:
        is_cut = bool((~data.groups.is_val[data.section_of == names.index(seen[0])]).any())
        held = "a block of which is held out" if is_cut else "which --val-sections holds out"
        message = (
            f"the pretrained checkpoint was trained on {', '.join(seen)}, {held} now; hold out "
            f"{', '.join(meta.val_sections)} as in pretraining, or pretrain again with the same --sections and "
            "--val-sections"
        )
        raise CheckpointError(message)


def _mix(digest: str, tensors: dict[str, Array]) -> str:
    """Make the pretrained weights part of what a resumed run must agree on."""
    mixed = hashlib.sha256(digest.encode())
    for name in sorted(tensors):
        if name.startswith("network."):
            mixed.update(tensors[name].tobytes())
    return mixed.hexdigest()
