"""The one training loop: epochs, validation, `best` and `last` checkpoints, resuming to the same bits."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from spam.atomic import claimed, write_text
from spam.errors import ConfigError, OutputExistsError
from spam.hardware import seeded
from spam.models.checkpoint import (
    Checkpoint,
    read_checkpoint,
    read_checkpoint_meta,
    weights_of,
    write_checkpoint,
)
from spam.progress import Progress, already_done
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.config import flag
from spam.schemas.shards import part_of
from spam.schemas.training_config import TrainingConfig
from spam.typing import Array, Int64

from .training_set import NOT_IN_DIGEST

HEALTH = "health.json"
"""File of the health check of stage 1; stage 2 copies it from the folder of its pretrained checkpoint."""
_LONGEST_WAIT_S = 7 * 24 * 3600.0
PATIENCE = 5
"""Epochs without a gain after which training ends (docs/experiments-log.md, "Shorter training")."""
_SECONDS_BETWEEN_WRITES = 10.0  # a killed run loses no more than this; short epochs are not slowed by writing


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """Loss of one step.

    Attributes
    ----------
    total
        What is minimised: a mean over the `n` spots of the step.
    parts
        Named summands, detached.
    n
        Number of spots.
    """

    total: torch.Tensor
    parts: dict[str, float]
    n: int


@runtime_checkable  # for the run-time type checks of the tests
class Stage(Protocol):
    """What a stage defines for the loop."""

    @property
    def name(self) -> str:
        """Stage of its checkpoints, see `CheckpointMeta`."""

    tolerance: float
    """An epoch counts as the best if its validation loss is less than this above the lowest one before it."""

    patience: int
    """Training ends if the validation loss fell by less than half of the tolerance in so many epochs."""

    @property
    def network(self) -> torch.nn.Module:
        """The network that is trained."""

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_visits"]:
        """Rows that an epoch visits, in order; an epoch may leave out rows."""

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Loss of one step on these rows."""

    def validate(self) -> dict[str, float]:
        """Metrics on the held-out spots; ``loss`` decides which epoch is best. Without it, the last epoch is."""

    def constants(self) -> dict[str, Array]:
        """Arrays that a checkpoint keeps beside the network's weights."""

    def meta(self, *, epoch: int, history: list[dict[str, float]], best: dict[str, float]) -> CheckpointMeta:
        """Metadata of a checkpoint."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Outcome of a run.

    Attributes
    ----------
    best_path, last_path
        The two checkpoints.
    best
        Validation metrics of the best epoch.
    history
        Metrics of every epoch.
    resumed_from
        Epochs that were already done, 0 for a fresh run.
    """

    best_path: Path
    last_path: Path
    best: dict[str, float]
    history: list[dict[str, float]]
    resumed_from: int

    def repeated(self) -> list[str]:
        """Return a line that says that the run was already done, if it was."""
        n_epochs = len(self.history) - 1
        if not self.resumed_from == n_epochs > 0:
            return []
        return [already_done(self.best_path.parent, f"has all {n_epochs} epochs of this run", "trained")]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """Outcome of a training stage.

    Attributes
    ----------
    run
        Checkpoints and history.
    n_train, n_val
        Spots trained on and held out.
    val_sections
        Sections held out; empty if a block of a single section was.
    """

    run: Run
    n_train: int
    n_val: int
    val_sections: tuple[str, ...]

    @property
    def held_out(self) -> str:
        """What was held out, in words."""
        return held_out_in_words(self.val_sections)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        names = {field.name for field in dataclasses.fields(self)} - {"run"}
        return {
            **{name: getattr(self, name) for name in names},
            "best": str(self.run.best_path),
            "last": str(self.run.last_path),
            "best_epoch": int(self.run.best["epoch"]),
            "resumed_from": self.run.resumed_from,
            "metrics": self.run.best,
            "val_sections": list(self.val_sections),
        }


def held_out_in_words(sections: tuple[str, ...]) -> str:
    """Name the held-out sections; without any, a block of a single section was held out."""
    return ", ".join(sections) or (
        "a block of the section, adjacent to training spots: easier than another section"
    )


def fit(
    stage: Stage,
    config: TrainingConfig,
    *,
    device: torch.device,
    progress: Progress,
    epochs: int | None = None,
) -> Run:
    """Train a stage up to epoch `epochs`; None: at most ``config.epochs`` epochs, with early stopping.

    Early stopping ends training if the validation loss no longer falls (`has_converged`). Epoch 0 is the state
    before the first step and takes part in the choice of the best. After an epoch, at most every ten seconds and at the end,
    `last.safetensors` is replaced, and `best.safetensors` if the validation loss fell, or rose by less than the tolerance of
    the stage. A run that was stopped resumes after the last epoch that was written
    and ends with the same bits as an unbroken one (on one machine and device).

    Raises
    ------
    OutputExistsError
        If the save dir holds a run of other options or data, or of more epochs, or another process trains in it.
    ConfigError
        If the loss becomes NaN or infinite.
    """
    assert config.save_dir is not None  # checked by the configuration
    # Processes of torchrun wait for each other's runs, and then find them done.
    wait_s = _LONGEST_WAIT_S if part_of(None)[1] > 1 else 0.0
    with claimed(config.save_dir, "--save-dir", wait_s=wait_s):
        return _fit(stage, config, config.save_dir, epochs, device, progress)


def _fit(
    stage: Stage,
    config: TrainingConfig,
    folder: Path,
    exactly: int | None,
    device: torch.device,
    progress: Progress,
) -> Run:
    epochs = config.epochs if exactly is None else exactly
    best_path, last_path = folder / "best.safetensors", folder / "last.safetensors"
    network = stage.network.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # several times faster; other devices may lack it
    )
    scaler = torch.amp.GradScaler(device.type, enabled=_amp_dtype(config) is torch.float16)
    history: list[dict[str, float]] = []
    best: dict[str, float] = {}
    if last_path.exists() and not config.overwrite:
        history, best = _resume(stage, last_path, network, optimizer, scaler)
        if len(history) - 1 > epochs:
            message = (
                f"{str(folder)!r} holds a run of {len(history) - 1} epochs, more than --epochs {epochs}. Choose another "
                "--save-dir, or start again with --overwrite."
            )
            raise OutputExistsError(message)
    else:
        for old in (last_path, best_path):  # a run that is killed now must not be mistaken for the old one
            old.unlink(missing_ok=True)
    software = stage.meta(epoch=0, history=[], best={}).software
    resolved = {"config": config.to_record() | {"epochs": epochs}, "software": software}
    write_text(folder / "config.json", json.dumps(resolved, indent=2))
    resumed_from = max(len(history) - 1, 0)
    unwritten: dict[str, Checkpoint] = {}

    def write() -> None:
        """Write the best checkpoint first, so that there is never a last one without it."""
        constants = stage.constants() if unwritten else {}
        for name in ("best", "last"):
            if name in unwritten:
                meta, tensors = unwritten.pop(name)
                write_checkpoint(folder / f"{name}.safetensors", meta, tensors | constants)
                write_text(folder / "history.json", json.dumps(history, indent=1))

    written = time.monotonic()
    try:
        with progress.task(stage.name, epochs) as advance:
            advance(resumed_from)
            for epoch in range(len(history), epochs + 1):
                if exactly is None and has_converged(history, stage.tolerance, stage.patience):
                    advance(epochs + 1 - epoch)
                    break
                metrics: dict[str, float] = {"epoch": float(epoch)}
                if epoch > 0:
                    metrics |= _train_epoch(stage, config, epoch, optimizer, scaler)
                with seeded(config.seed, epoch, device=device), torch.no_grad():
                    network.eval()
                    metrics |= {f"val_{name}": value for name, value in stage.validate().items()}
                is_best = "val_loss" not in metrics or all(
                    metrics["val_loss"] < before["val_loss"] + stage.tolerance for before in history
                )
                history = [*history, metrics]
                best = metrics if is_best else best
                meta = stage.meta(epoch=epoch, history=history, best=best)
                weights = {
                    f"network.{k}": v.detach().cpu().numpy().copy() for k, v in network.state_dict().items()
                }
                if is_best:
                    unwritten["best"] = (meta, weights)
                unwritten["last"] = (meta, weights | _optimizer_state(optimizer, scaler))
                if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                    write()
                    written = time.monotonic()
                if epoch > 0:
                    advance(note=f"val {metrics['val_loss']:.4f}" if "val_loss" in metrics else "")
    finally:
        write()  # also after an interruption or a loss that is NaN: no whole epoch is lost
    return Run(
        best_path=best_path, last_path=last_path, best=best, history=history, resumed_from=resumed_from
    )


def has_converged(history: list[dict[str, float]], tolerance: float, patience: int) -> bool:
    """Whether the validation loss hardly fell in the last `patience` epochs; False without validation."""
    loss = [metrics["val_loss"] for metrics in history if "val_loss" in metrics]
    before, recent = loss[:-patience], loss[-patience:]
    return bool(before) and min(recent) >= min(before) - tolerance / 2


def _train_epoch(
    stage: Stage,
    config: TrainingConfig,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> dict[str, float]:
    """Visit the training rows; return the mean of each loss part."""
    stage.network.train()
    order = stage.order(np.random.default_rng([config.seed, epoch]))[: config.spots_per_epoch]
    size = config.batch_for(len(order))
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()  # a single row joins the batch before it, because a contrast needs two
    parameters = list(stage.network.parameters())
    device = parameters[0].device
    amp = _amp_dtype(config)
    sums: dict[str, float] = {}
    with seeded(config.seed, epoch, device=device):
        for rows in np.split(order, cuts):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=amp or torch.bfloat16, enabled=amp is not None):
                terms = stage.loss(rows)
            if not torch.isfinite(terms.total):  # stop before it ruins the weights
                message = (
                    f"The loss became {float(terms.total.detach()):g} in epoch {epoch}. Start again with --overwrite and a "
                    f"lower --lr than {config.lr:g}{', or without --amp' if config.amp else ''}; checkpoints of earlier "
                    f"epochs stay in {config.save_dir} until then."
                )
                raise ConfigError(message)
            scaler.scale(terms.total).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, max_norm=1.0)
            scaler.step(optimizer)
            scaler.update()
            for name, value in (("loss", float(terms.total.detach())), *terms.parts.items()):
                sums[name] = sums.get(name, 0.0) + value * terms.n / len(order)
    return sums


def _amp_dtype(config: TrainingConfig) -> torch.dtype | None:
    """Return the number format of mixed precision, or None without it."""
    formats = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
    return formats[config.amp_dtype] if config.amp else None


def _optimizer_state(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> dict[str, Array]:
    """Flatten a copy of the optimizer's state, one array per parameter and moment."""
    flat = {
        f"optimizer.{index}.{name}": np.asarray(value.cpu()).copy()
        for index, part in optimizer.state_dict()["state"].items()
        for name, value in part.items()
    }
    return flat | {f"scaler.{name}": np.asarray(value) for name, value in scaler.state_dict().items()}


def _resume(
    stage: Stage,
    last_path: Path,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Load the last whole epoch into network and optimizer; return the history and the best epoch's metrics."""
    now, before = stage.meta(epoch=0, history=[], best={}), read_checkpoint_meta(last_path)
    same = ("stage", "config_digest", "data_digest")
    if any(getattr(before, name) != getattr(now, name) for name in same):
        changed = [
            key
            for key in now.config
            if key not in NOT_IN_DIGEST and before.config.get(key) != now.config[key]
        ]
        what = f"other options ({', '.join(map(flag, changed))})" if changed else "other data"
        message = (
            f"{str(last_path.parent)!r} holds a run with {what}. Choose another --save-dir, or start again with "
            "--overwrite."
        )
        raise OutputExistsError(message)
    meta, tensors = read_checkpoint(last_path, stage=stage.name)
    network.load_state_dict(weights_of(tensors))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in weights_of(tensors, "optimizer.").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    scales = {name: value.item() for name, value in weights_of(tensors, "scaler.").items()}
    if scales:
        scaler.load_state_dict(scales)
    return meta.history, meta.best
