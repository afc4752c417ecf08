"""The one training loop: epochs, validation, `best` and `last` checkpoints, resuming to the same bits."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from spam.atomic import write_text
from spam.errors import ConfigError, OutputExistsError
from spam.hardware import seeded
from spam.models.checkpoint import Checkpoint, read_checkpoint, read_checkpoint_meta, write_checkpoint
from spam.progress import Progress
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.training_config import TrainingConfig
from spam.typing import Array, Int64

__all__ = ["LossTerms", "Run", "Stage", "fit"]

# These change where and how fast a run goes, or how long, but not what its epochs compute.
NOT_IN_DIGEST = (
    *("store", "save_dir", "device", "num_workers", "overwrite", "epochs", "pretrained_ckpt"),
    *("memory_gb", "grad_checkpointing"),
)


# A killed run loses no more than this; short epochs are not slowed by writing.
_SECONDS_BETWEEN_WRITES = 10.0


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
    """What a stage brings to the loop."""

    @property
    def name(self) -> str:
        """``pretrain``, ``finetune`` or ``adapt``."""

    tolerance: float
    """How far above the lowest validation loss before it an epoch still counts as the best."""

    @property
    def network(self) -> torch.nn.Module:
        """The network that is trained."""

    def order(self, rng: np.random.Generator) -> Int64[Array, " n_visits"]:
        """Rows that an epoch visits, in order; a row may be left out of some epochs."""

    def loss(self, rows: Int64[Array, " b"]) -> LossTerms:
        """Loss of one step on these rows."""

    def validate(self) -> dict[str, float]:
        """Figures on the held-out spots; ``loss`` among them decides which epoch is best, without it the last is."""

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
        Validation figures of the best epoch.
    history
        Figures of every epoch.
    resumed_from
        Epochs that were found done, 0 for a fresh run.
    """

    best_path: Path
    last_path: Path
    best: dict[str, float]
    history: list[dict[str, float]]
    resumed_from: int


def fit(
    stage: Stage,
    config: TrainingConfig,
    *,
    device: torch.device,
    progress: Progress,
    epochs: int | None = None,
) -> Run:
    """Train a stage for `epochs` epochs (None: ``config.epochs``), or the rest of them.

    Epoch 0 is the state before the first step and takes part in the choice of the best; there may be no other. After an
    epoch, at most every ten seconds and at the end, `last.safetensors` is replaced, and `best.safetensors` if the validation
    loss fell, or rose by less than the stage tolerates. A run that was stopped goes on after the last epoch that was written
    and ends with the same bits as an unbroken one (on one machine and device).

    Raises
    ------
    OutputExistsError
        If the save dir holds a run of other options or data, or of more epochs.
    """
    folder = _save_dir(config)
    epochs = config.epochs if epochs is None else epochs
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
                f"{str(folder)!r} holds a run of {len(history) - 1} epochs, more than --epochs {epochs}; "
                "choose another --save-dir, or start again here with --overwrite"
            )
            raise OutputExistsError(message)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (last_path, best_path):  # a run that is killed now must not be taken for the old one
            old.unlink(missing_ok=True)
    resolved = {
        "config": config.to_mapping() | {"epochs": epochs},
        "software": stage.meta(epoch=0, history=[], best={}).software,
    }
    write_text(folder / "config.json", json.dumps(resolved, indent=2))
    resumed_from = len(history) - 1 if history else 0
    kept = _Checkpoints(stage, folder)
    try:
        with progress.task(stage.name, epochs) as advance:
            advance(resumed_from)
            for epoch in range(len(history), epochs + 1):
                figures: dict[str, float] = {"epoch": float(epoch)}
                if epoch > 0:
                    figures |= _train_epoch(stage, config, epoch, optimizer, scaler)
                with seeded(config.seed, epoch, device=device), torch.no_grad():
                    network.eval()
                    figures |= {f"val_{name}": value for name, value in stage.validate().items()}
                is_best = _is_best(figures, history, stage.tolerance)
                history = [*history, figures]
                best = figures if is_best else best
                meta = stage.meta(epoch=epoch, history=history, best=best)
                kept.add(meta, network, _optimizer_state(optimizer, scaler), is_best=is_best)
                if epoch > 0:
                    advance(note=f"val {figures['val_loss']:.4f}" if "val_loss" in figures else "")
    finally:
        kept.write()  # also after an interruption or a loss that is not a number: no whole epoch is lost
    return Run(
        best_path=best_path, last_path=last_path, best=best, history=history, resumed_from=resumed_from
    )


def _is_best(figures: dict[str, float], before: list[dict[str, float]], tolerance: float) -> bool:
    """Compare an epoch with those before it; a stage that holds nothing out keeps its last one."""
    if "val_loss" not in figures or not before:
        return True
    return figures["val_loss"] < min(epoch["val_loss"] for epoch in before) + tolerance


class _Checkpoints:
    """The best and the last epoch of a run, written at most every few seconds."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self.best: Checkpoint | None = None
        self.last: Checkpoint | None = None
        self.written = time.monotonic()

    def add(
        self, meta: CheckpointMeta, network: torch.nn.Module, optimizer: dict[str, Array], *, is_best: bool
    ) -> None:
        """Take the state after an epoch, and write if it is time."""
        weights = {
            f"network.{name}": value.detach().cpu().numpy().copy()
            for name, value in network.state_dict().items()
        }
        self.best = (meta, weights) if is_best else self.best
        self.last = (meta, weights | optimizer)
        if time.monotonic() - self.written > _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Write what is not written yet; the best first, so that a last one never stands without it."""
        for name, checkpoint in (("best", self.best), ("last", self.last)):
            if checkpoint is not None:
                meta, tensors = checkpoint
                write_checkpoint(self.folder / f"{name}.safetensors", meta, tensors | self.stage.constants())
        if self.last is not None:
            write_text(self.folder / "history.json", json.dumps(self.last[0].history, indent=1))
        self.best = self.last = None
        self.written = time.monotonic()


def _train_epoch(
    stage: Stage,
    config: TrainingConfig,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> dict[str, float]:
    """Visit the training rows; return the mean of each loss part."""
    stage.network.train()
    order = stage.order(np.random.default_rng([config.seed, epoch]))
    batches = _batches(order, config.batch_size)
    device = next(stage.network.parameters()).device
    amp = _amp_dtype(config)
    sums: dict[str, float] = {}
    with seeded(config.seed, epoch, device=device):
        for rows in batches:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=amp or torch.bfloat16, enabled=amp is not None):
                terms = stage.loss(rows)
            _check_finite(terms, epoch)
            scaler.scale(terms.total).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(stage.network.parameters(), max_norm=1.0)
            scaler.step(optimizer)
            scaler.update()
            for name, value in (("loss", float(terms.total.detach())), *terms.parts.items()):
                sums[name] = sums.get(name, 0.0) + value * terms.n / len(order)
    return sums


def _batches(order: Int64[Array, " n"], size: int) -> list[Array]:
    """Cut into batches of `size`; a rest of a single row joins the batch before it, as a contrast needs two."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)


def _check_finite(terms: LossTerms, epoch: int) -> None:
    """Stop before a loss that is not a number ruins the weights."""
    if not torch.isfinite(terms.total):
        message = (
            f"the loss became {float(terms.total):g} in epoch {epoch} ({terms.parts}); the last whole epoch is saved: "
            "go on from it with a lower --lr, or without --amp"
        )
        raise ConfigError(message)


def _amp_dtype(config: TrainingConfig) -> torch.dtype | None:
    """Return the number format of mixed precision, or None without it."""
    formats = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
    return formats[config.amp_dtype] if config.amp else None


def _save_dir(config: TrainingConfig) -> Path:
    if config.save_dir is None:
        message = "--save-dir is missing: say where the checkpoints go"
        raise ConfigError(message)
    return config.save_dir


def _optimizer_state(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> dict[str, Array]:
    """Flatten a copy of the optimizer's state, one array per parameter and moment."""
    state: dict[str, Any] = optimizer.state_dict()["state"]
    flat = {
        f"optimizer.{index}.{name}": np.asarray(value.cpu()).copy()
        for index, part in state.items()
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
    """Load the last whole epoch into network and optimizer; return the history and the best epoch's figures."""
    now = stage.meta(epoch=0, history=[], best={})
    before = read_checkpoint_meta(last_path)
    if (
        before.stage != now.stage
        or before.config_digest != now.config_digest
        or before.data_digest != now.data_digest
    ):
        changed = [
            key
            for key in now.config
            if key not in NOT_IN_DIGEST and before.config.get(key) != now.config[key]
        ]
        what = f"other options ({', '.join(changed)})" if changed else "other data"
        message = (
            f"{str(last_path.parent)!r} holds a run with {what}; choose another --save-dir, "
            "or start again here with --overwrite"
        )
        raise OutputExistsError(message)
    meta, tensors = read_checkpoint(last_path, stage=stage.name)
    weights = {
        name[len("network.") :]: torch.from_numpy(v)
        for name, v in tensors.items()
        if name.startswith("network.")
    }
    network.load_state_dict(weights)
    state = optimizer.state_dict()
    state["state"] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = torch.from_numpy(value)
    optimizer.load_state_dict(state)
    kept = {
        name[len("scaler.") :]: value.item() for name, value in tensors.items() if name.startswith("scaler.")
    }
    if kept:
        scaler.load_state_dict(kept)
    return meta.history, meta.best
