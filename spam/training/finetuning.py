"""Stage 2: expression and a count likelihood from a spot's image and what it attends to; trained twice."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from spam.errors import CheckpointError, ConfigError
from spam.hardware import limited_threads, resolve_device
from spam.models.checkpoint import Checkpoint, from_tensors, read_checkpoint
from spam.models.inputs import InputTransform
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import FinetuneConfig
from spam.typing import Array

from .dataset import TrainingSet, build_training_set, with_all_trained_on
from .fusion_stage import FusionStage
from .loop import Run, fit
from .report import TrainingReport

__all__ = ["FinetuneReport", "finetune", "finetune_on"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneReport(TrainingReport):
    """Outcome of `finetune`; epoch 0 of its history is the path alone.

    Attributes
    ----------
    selection
        The run that chose the number of epochs, on held-out spots.
    n_genes
        Genes modelled.
    heldout_pearson
        Correlation on the held-out spots, within their section, mean over genes where it is defined.
    adapted_on
        Sections with held-out spots that an adapted encoder has seen: what is measured there is too good.
    """

    selection: Run
    n_genes: int
    heldout_pearson: float
    adapted_on: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types; figures are those on the spots that were held out at first."""
        values = TrainingReport.to_mapping(self)
        del values["selection"]
        return values | {"metrics": self.selection.best}

    def summary(self) -> str:
        """Say in a few lines what training learned."""
        best, start = self.selection.best, self.selection.history[0]
        verdict = (
            f"{best['val_nll']:.4f} at epoch {best['epoch']:.0f} ({start['val_nll']:.4f} before training)"
            if best["epoch"] > 0
            else f"{start['val_nll']:.4f} before training, and no better correlation after it: nothing is learned"
        )
        then = (
            "then trained on all spots for as many epochs" if best["epoch"] > 0 else "the mean is predicted"
        )
        seen = (
            f"\nthe encoder was adapted with the counts of {', '.join(self.adapted_on)} at hand, so accuracy and intervals "
            "that were measured there are too good"
            if self.adapted_on
            else ""
        )
        return (
            f"{self.n_train} spots, {self.n_genes} genes; {self.n_val} of them held out at first ({self.held_out})\n"
            f"held-out NLL per spot and gene {verdict}; Pearson {self.heldout_pearson:.3f}{seen}\n"
            f"{then}; checkpoint: {self.run.best_path}"
        )


def finetune(config: FinetuneConfig, *, progress: Progress = SILENT) -> FinetuneReport:
    """Train the fusion model on raw counts, twice.

    First without the held-out spots: on these the number of epochs is chosen, each gene's accuracy is measured, and the
    predictive intervals are calibrated. Then on all spots, for as many epochs. No input of a spot's prediction depends
    on its own counts. The loss is the squared error of log1p(CP10k) relative to the section's mean, plus the negative
    log-likelihood of the raw counts.

    Relative to the paper: the gene branch reads the expression of *other* sections' spots that look alike, never the
    spot's own; attention runs over several neighbours and references, and only where ``--attend`` asks for it; counts are
    modelled raw, with the library size as offset; expression has a decoder of its own; several networks are averaged.

    Raises
    ------
    ConfigError, StoreError, CheckpointError
        If options, sections, features and pretrained checkpoint do not fit together.
    OutputExistsError
        If the save dir holds another run.
    """
    pretrained = (
        None if config.pretrained_ckpt is None else read_checkpoint(config.pretrained_ckpt, stage="pretrain")
    )
    transform = (
        None if pretrained is None else (pretrained[0], from_tensors(InputTransform, pretrained[1], "inputs"))
    )
    data = build_training_set(config, transform)
    if pretrained is not None:
        _check_no_leak(pretrained[0], data)
        data = dataclasses.replace(data, digest=_mix(data.digest, pretrained[1]))
    return finetune_on(data, config, pretrained=pretrained, progress=progress)


def finetune_on(
    data: TrainingSet,
    config: FinetuneConfig,
    *,
    pretrained: Checkpoint | None = None,
    progress: Progress = SILENT,
) -> FinetuneReport:
    """Do what `finetune` does, on spots that were read already."""
    device = resolve_device(config.device)
    if config.save_dir is None:
        message = "--save-dir is missing: say where the checkpoints go"
        raise ConfigError(message)
    chosen = dataclasses.replace(config, save_dir=config.save_dir / "selection")
    with limited_threads(config.num_workers):
        stage = FusionStage(chosen, data, pretrained, device)
        selection = fit(stage, chosen, device=device, progress=progress)
        stage.load(selection.best_path)
        heldout = stage.judge_heldout()
        whole = with_all_trained_on(data, n_components=None if pretrained else config.n_components)
        judged = (data.held_out_sections, heldout)
        final = FusionStage(config, whole, pretrained, device, judged=judged)
        # Without held-out spots each epoch counts as the best: the last one is kept.
        epochs = int(selection.best["epoch"])
        run = fit(final, config, device=device, progress=progress, epochs=epochs)
    pearson = heldout.pearson[np.isfinite(heldout.pearson)]
    return FinetuneReport(
        run=run,
        selection=selection,
        n_train=len(final.train_rows),
        n_val=len(data.val_rows),
        n_genes=len(data.genes.genes),
        val_sections=() if len(data.spots) == 1 else data.held_out_sections,
        heldout_pearson=float(pearson.mean()) if len(pearson) else float("nan"),
        adapted_on=tuple(name for name in data.held_out_sections if name in data.features.adapted_on),
    )


def _check_no_leak(meta: CheckpointMeta, data: TrainingSet) -> None:
    """Refuse a pretraining that has trained on sections, or on the block of one, which are to be held out now."""
    held_out = {s.name for i, s in enumerate(data.spots) if data.groups.is_val[data.section_of == i].any()}
    names = [s.name for s in data.spots]
    seen = sorted(held_out & (set(meta.train_sections) - set(meta.val_sections)))
    if seen:
        is_cut = bool((~data.groups.is_val[data.section_of == names.index(seen[0])]).any())
        held = "a block of which is held out" if is_cut else "which would be held out"
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
