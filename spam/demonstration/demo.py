"""Runs every step, from lab files to an expression map, and keeps everything in one folder."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from spam.embedding import embed
from spam.errors import ConfigError, OutputExistsError
from spam.predicting import PredictReport, predict
from spam.progress import SILENT, Progress
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.simulate_config import DemoConfig, SimulateConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.simulation import simulate
from spam.training import finetune, pretrain

from .her2st import fetch_her2st

__all__ = ["DemoReport", "demo"]

_COHORT, _STORE, _RESULTS = "cohort", "cohort.zarr", "results"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """Outcome of `demo`.

    Attributes
    ----------
    out_dir
        Folder of everything.
    prediction
        Report of the section that was held out.
    steps
        What each step said, in order.
    seconds
        Time of each step.
    """

    out_dir: Path
    prediction: PredictReport
    steps: dict[str, str]
    seconds: dict[str, float]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "out_dir": str(self.out_dir),
            "prediction": self.prediction.to_mapping(),
            "seconds": self.seconds,
        }

    def summary(self) -> str:
        """Show what each step did, then the scores, then what to look at."""
        lines = [f"[{name}, {self.seconds[name]:.0f} s] {text}" for name, text in self.steps.items()]
        maps = [path for path in self.prediction.files if path.name == "expression_maps.png"]
        return "\n".join([*lines, *(f"look at {path}" for path in maps)])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What differs between the two demonstrations."""

    tile_um: tuple[float, ...]
    train: tuple[str, ...]
    target: str
    pretrain_epochs: int
    finetune_epochs: int


def demo(config: DemoConfig, *, progress: Progress = SILENT) -> DemoReport:
    """Make or fetch a cohort, embed it, train both stages and predict a section that was not trained on.

    ``simulated`` draws four sections of two donors, offline, in under three minutes on two CPU cores. ``her2st`` takes
    five real sections of patient C of the HER2-positive breast cancer data (Andersson et al., doi
    10.1038/s41467-021-26271-2): downloaded, or from a local copy of the repository.

    Raises
    ------
    OutputExistsError
        If `out_dir` holds something and overwriting was not asked for.
    ConfigError
        If ``data`` is given for the simulated cohort.
    MissingInputError
        If files of the her2st repository cannot be had.
    """
    if config.data is not None and config.name != "her2st":
        message = (
            f"--data {str(config.data)!r} goes with `spam demo her2st`; the simulated cohort needs no data"
        )
        raise ConfigError(message)
    out = config.out_dir
    if out.exists() and any(out.iterdir()) and not config.overwrite:
        message = (
            f"{str(out)!r} is not empty; choose another --out-dir, or run again into it with --overwrite"
        )
        raise OutputExistsError(message)
    steps: dict[str, str] = {}
    seconds: dict[str, float] = {}
    begun = time.perf_counter()

    def done(name: str, text: str) -> None:
        nonlocal begun
        steps[name], seconds[name] = text, time.perf_counter() - begun
        begun = time.perf_counter()

    manifest, plan = _cohort(config, progress)
    done("cohort", f"{len(plan.train) + 1} sections: {', '.join((*plan.train, plan.target))}")
    store = out / _STORE
    shared: dict[str, Any] = {"device": config.device, "overwrite": config.overwrite}
    embedded = embed(
        EmbedConfig(manifest=manifest, store=store, tile_um=plan.tile_um, **shared), progress=progress
    )
    n_tiles = sum(section.n_embedded for section in embedded.sections)
    done("embed", f"{n_tiles} tiles with {embedded.encoder} into {store}")
    training: dict[str, Any] = {"store": store, "sections": plan.train, "seed": config.seed, **shared}
    aligned = pretrain(
        PretrainConfig(save_dir=out / "pretrain", epochs=plan.pretrain_epochs, **training), progress=progress
    )
    done("pretrain", aligned.summary())
    tuned = finetune(
        FinetuneConfig(
            save_dir=out / "finetune",
            pretrained_ckpt=aligned.run.best_path,
            epochs=plan.finetune_epochs,
            **training,
        ),
        progress=progress,
    )
    done("finetune", tuned.summary())
    predicted = predict(
        PredictConfig(
            store=store, section=plan.target, ckpt=tuned.run.best_path, out_dir=out / _RESULTS, **shared
        ),
        progress=progress,
    )
    done("predict", predicted.summary())
    return DemoReport(out_dir=out, prediction=predicted, steps=steps, seconds=seconds)


def _cohort(config: DemoConfig, progress: Progress) -> tuple[Path, _Plan]:
    """Lay out the lab files; return their manifest and the plan for them."""
    folder = config.out_dir / _COHORT
    if config.name == "her2st":
        fetched = fetch_her2st(folder, copy=config.data, progress=progress)
        plan = _Plan(
            tile_um=(155.0, 310.0),  # 224 and 448 px of these slides, the scales of docs/experiments.md
            train=fetched.sections[:-1],
            target=fetched.sections[-1],
            pretrain_epochs=30,
            finetune_epochs=30,
        )
        return fetched.manifest, plan
    simulated = simulate(
        SimulateConfig(out_dir=folder, seed=config.seed, overwrite=config.overwrite), progress=progress
    )
    plan = _Plan(
        tile_um=(112.0,),
        train=simulated.sections[:-1],
        target=simulated.sections[-1],
        pretrain_epochs=15,
        finetune_epochs=15,
    )
    return simulated.manifest, plan
