"""Stage 2: predict expression and the distribution of counts from a spot's image and its surroundings."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spam.atomic import claimed, write_text
from spam.errors import counted
from spam.hardware import keep_freed_memory, limited_threads, resolve_device
from spam.models.checkpoint import (
    Checkpoint,
    from_tensors,
    read_checkpoint,
    weights_of,
    write_checkpoint,
)
from spam.models.inputs import InputTransform
from spam.models.stacking import KINDS, MAJORITY
from spam.progress import SILENT, Progress
from spam.schemas.checkpoint_meta import CHECKPOINT_NAME
from spam.schemas.shards import part_of
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import Profiles, local_file

from .fusion_stage import FusionStage, with_pretrained_donors
from .groups import assign_groups, folds_of
from .judging import HeldOutPredictions, best_epoch, judge_folds
from .loop import HEALTH, Run, TrainingReport, fit, held_out_in_words
from .pretraining import AlignmentStage
from .training_set import (
    TrainingSet,
    build_training_set,
    has_one_split,
    numbered_donors,
)

_SELECTION = "selection"  # folder of the runs with held-out spots


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
            "\nheld-out spots are not known to be of another donor: accuracy and intervals for new donors were not measured, and "
            "a fifth of the weights was moved to the ridge as a precaution"
            if not self.is_new_donor
            else "\nthe ridge has most of the weight, because left-out donors were predicted best that way"
            if self.weights["ridge"] > MAJORITY
            else ""
        )
        parts = ", ".join(
            f"{name} {self.weights[name]:.0%} (alone {self.alone[name]:.3f})" for name in self.weights
        )
        then = "then trained on all spots for as many epochs" if is_better else "then fitted on all spots"
        return "".join(f"{line}\n" for line in self.run.repeated()) + (
            f"{counted(self.n_train, 'spot')}, {counted(self.n_genes, 'gene')}; held out: "
            f"{counted(self.n_val, 'spot')} ({self.held_out})\n"
            f"held-out NLL of the network per spot and gene {nll}\n"
            f"held-out Pearson {self.heldout_pearson:.3f}; weights: {parts}{donor}{adapted}\n"
            f"{then}; checkpoint: {self.run.best_path}"
        )


def finetune(config: FinetuneConfig, *, progress: Progress = SILENT) -> FinetuneReport:
    """Train the fusion model on raw counts, and weigh it against a ridge and prototypes (`Stack`).

    The first runs ("selection") leave out each donor, section or block in turn (or ``--val-sections``). Where stage 1 was
    trained on what a run leaves out, stage 1 is repeated without it. The held-out spots choose the number of epochs and the
    weights of the predictors, measure the accuracy of each gene and calibrate the predictive intervals; for weights,
    accuracy and intervals each fold is predicted at its own best epoch, which favours the network a little. A run on more
    than 2,048 spots ends when the held-out correlation no longer rises. The last run trains on all spots for the number of
    epochs that is best on average. No input of a spot's prediction depends on the spot's own counts. The loss of the network
    is the squared error of log1p(CP10k) minus the section mean, plus the negative log-likelihood of the raw counts, of which
    each member of the ensemble learns a share of every batch.

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
    path = local_file(config.pretrained_ckpt, CHECKPOINT_NAME)
    meta, tensors = read_checkpoint(path, stage="pretrain")
    data = build_training_set(config, (meta, from_tensors(InputTransform, tensors, "inputs")))
    # A resumed run must agree on the pretrained weights.
    mixed = hashlib.sha256(data.digest.encode())
    for name in sorted(name for name in tensors if name.startswith("network.")):
        mixed.update(tensors[name].tobytes())
    data = dataclasses.replace(data, digest=mixed.hexdigest())
    report = finetune_on(data, config, pretrained=(meta, tensors), progress=progress)
    health = path.with_name(HEALTH)
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
    keep_freed_memory()
    device = resolve_device(config.device)
    save_dir = config.save_dir
    assert save_dir is not None  # checked by the configuration
    if config.overwrite:
        _clear(save_dir)
    if pretrained is not None:  # all folds keep the components of stage 1, which its weights were trained on
        data = dataclasses.replace(data, given_transform=data.transform)
    with limited_threads(config.num_workers, values=data.step_size(config)):
        runs, parts = _select(data, config, save_dir, pretrained, device, progress)
        history = [
            {key: float(np.mean([metrics[key] for metrics in epoch])) for key in epoch[0]}
            | {"epoch": float(i)}
            for i, epoch in enumerate(zip(*_padded([run.history for run in runs]), strict=True))
        ]
        write_text(save_dir / _SELECTION / "history.json", json.dumps(history, indent=1))
        nothing = np.zeros_like(data.groups.is_val)
        groups = dataclasses.replace(assign_groups(data.spots, ()), is_val=nothing)
        whole = dataclasses.replace(data, groups=groups)
        donors = numbered_donors(data)
        if pretrained is not None:
            donors = with_pretrained_donors(donors, pretrained[0].donors)
        judged = judge_folds(parts, whole, config.likelihood, donors)
        final = FusionStage(config, whole, pretrained, device, judged=judged)
        # Without held-out spots each epoch counts as the best: the last one is kept.
        epochs = best_epoch(history, FusionStage.tolerance)
        run = fit(final, config, device=device, progress=progress, epochs=epochs)
    # If the run was complete, `fit` wrote nothing: update what came from folds that have been trained for longer since.
    for path in (run.best_path, run.last_path):
        meta, tensors = read_checkpoint(path, stage=final.name)
        if not all(
            np.array_equal(tensors[key], value, equal_nan=True) for key, value in final.constants().items()
        ):
            write_checkpoint(path, meta, tensors | final.constants())
    pearson = judged.heldout.pearson[np.isfinite(judged.heldout.pearson)]
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
        is_new_donor=judged.is_new_donor,
        adapted_on=tuple(name for name in judged.sections if name in data.features.adapted_on),
    )


def _padded(histories: list[list[dict[str, float]]]) -> list[list[dict[str, float]]]:
    """Repeat the last epoch of folds that converged before the others."""
    longest = max(map(len, histories))
    return [history + history[-1:] * (longest - len(history)) for history in histories]


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
    """Train without the held-out spots of each fold; predict them, each fold at its own best epoch.

    Processes of torchrun train different folds; a fold that another process trains is waited for, and taken over if that
    process is killed.
    """
    is_one_split = has_one_split(config, data.features)
    folds = (data.groups,) if is_one_split else folds_of(data.spots, data.totals)
    done: dict[int, tuple[Run, HeldOutPredictions]] = {}
    first, _ = part_of(None)  # each process of torchrun begins with another fold
    for number, groups in sorted(enumerate(folds, 1), key=lambda fold: (fold[0] - 1 - first) % len(folds)):
        chosen = dataclasses.replace(
            config,
            save_dir=save_dir / _SELECTION / str(number),
            # About as many networks in all folds together as in two runs of the whole ensemble.
            members=min(config.members, -(-2 * config.members // len(folds))),
        )
        part = data if is_one_split else dataclasses.replace(data, groups=groups)
        start = pretrained
        if start is not None:
            part, start = _without_leak(
                part, start, save_dir / _SELECTION / f"{number}-stage1", device, progress
            )
        stage = FusionStage(chosen, part, start, device)
        run = fit(stage, chosen, device=device, progress=progress)
        stage.network.load_state_dict(weights_of(read_checkpoint(run.best_path, stage=stage.name)[1]))
        done[number] = run, stage.predict_heldout()
        del stage, part  # frees the arrays before those of the next run are made
    runs, parts = zip(*(done[number] for number in sorted(done)), strict=True)
    return list(runs), list(parts)


def _without_leak(
    data: TrainingSet, pretrained: Checkpoint, save_dir: Path, device: torch.device, progress: Progress
) -> tuple[TrainingSet, Checkpoint]:
    """Repeat stage 1 if it was trained on spots that are held out now, even under another name.

    It has the options and epochs of the checkpoint, but neither weights nor components depend on held-out spots. The number of
    epochs does: it is the best one on what stage 1 held out, which may be a part of the cohort. Stage 1 is repeated on this
    cohort, so after a stage 1 on more sections the folds are predicted a little worse than a new section.
    """
    meta = pretrained[0]
    known = [
        Profiles.from_mapping(meta.section_digests[name])
        for name in meta.train_sections
        if name in meta.section_digests
    ]
    has_seen = any(
        spots.name in meta.train_sections
        or any(profiles.share_of_counts(p) or profiles.share_of_images(p) for p in known)
        for spots, profiles in zip(data.spots, data.profiles, strict=True)
        if spots.name in data.held_out_sections
    )
    if not has_seen:
        return data, pretrained
    donors = {spots.donor or spots.name for spots in data.spots if spots.name not in data.held_out_sections}
    changes = {
        "store": "memory",
        "save_dir": str(save_dir),
        "overwrite": False,
        # Where one donor is left there is nothing to balance.
        "balance_donors": bool(meta.config.get("balance_donors")) and len(donors) > 1,
    }
    config = PretrainConfig.from_mapping({**meta.config, **changes})
    part = dataclasses.replace(data, given_transform=None, n_components=config.n_components)
    stage = AlignmentStage(config, part, device)
    # The last epoch, not the best: held-out spots choose nothing.
    last = fit(stage, config, device=device, progress=progress, epochs=meta.epoch).last_path
    return part, read_checkpoint(last, stage=stage.name)
