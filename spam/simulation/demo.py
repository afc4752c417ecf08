"""`spam demo`: every step, from lab files to expression maps, in one folder."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from spam.embedding import embed
from spam.errors import ConfigError, OutputExistsError
from spam.evaluation import FinishedPrediction, PredictReport
from spam.predicting import predict
from spam.progress import SILENT, Progress
from spam.reports import PAGE
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.records import Record
from spam.schemas.simulate_config import DemoConfig, SimulateConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.training import finetune, pretrain

from .her2st import ADDRESS, SECTIONS, fetch_her2st
from .simulated_cohort import simulate

_UNFINISHED = ".unfinished-demo"  # in a folder whose demo has not ended


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport(Record):
    """Result of `demo`: the report of the held-out section, and summary and seconds of each step."""

    out_dir: Path
    prediction: PredictReport | FinishedPrediction
    steps: dict[str, str]
    seconds: dict[str, float]

    def summary(self) -> str:
        """Describe each step, and name the report."""
        lines = [f"[{name}, {self.seconds[name]:.0f} s] {text}" for name, text in self.steps.items()]
        (page,) = (path for path in self.prediction.files if path.name == PAGE)
        return "\n".join([*lines, self.prediction.summary(), f"open {page} in a browser"])


def demo(config: DemoConfig, *, progress: Progress = SILENT) -> DemoReport:
    """Simulate or fetch a cohort, embed it, train both stages, and predict a section that was not trained on.

    ``simulated`` draws four sections of two donors, offline, in under three minutes on two CPU cores. ``her2st`` uses
    five real sections of patient C of the HER2-positive breast cancer data.

    Raises
    ------
    OutputExistsError
        If `out_dir` is not empty and ``config.overwrite`` is not set. What an interrupted demo left is replaced.
    ConfigError
        If ``data`` is given for the simulated cohort.
    MissingInputError
        If files of the her2st repository cannot be fetched.
    """
    if config.data is not None and config.name != "her2st":
        message = f"--data {config.data} needs `spam demo her2st`; the simulated cohort reads no data"
        raise ConfigError(message)
    out = config.out_dir
    unfinished = out / _UNFINISHED
    is_overwrite = config.overwrite or unfinished.exists()
    if out.exists() and any(out.iterdir()) and not is_overwrite:
        message = f"{out} (--out-dir) is not empty; choose another folder, or add --overwrite"
        raise OutputExistsError(message)
    out.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    steps: dict[str, str] = {}
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def done(name: str, text: str) -> None:
        nonlocal start
        steps[name], seconds[name] = text, time.perf_counter() - start
        start = time.perf_counter()

    tile_um: tuple[float, ...]
    if config.name == "her2st":
        address = ADDRESS if config.data is None else config.data.resolve().as_uri()
        manifest = fetch_her2st(out / "cohort", address=address, progress=progress)
        # 224 and 448 px of these slides, as in docs/experiments-log.md
        sections, tile_um, epochs = SECTIONS, (155.0, 310.0), 30
    else:
        wanted = SimulateConfig(out_dir=out / "cohort", seed=config.seed, overwrite=is_overwrite)
        simulated = simulate(wanted, progress=progress)
        manifest, sections, tile_um, epochs = simulated.manifest, simulated.sections, (112.0,), 15
    *train, target = sections
    done("cohort", f"{len(sections)} sections: {', '.join(sections)}")
    store = out / "cohort.zarr"
    shared: dict[str, Any] = {"store": store, "device": config.device, "overwrite": is_overwrite}
    embedded = embed(EmbedConfig(manifest=manifest, tile_um=tile_um, **shared), progress=progress)
    n_tiles = sum(section.n_embedded for section in embedded.sections)
    done("embed", f"{n_tiles} tiles with {embedded.encoder} into {store}")
    training = {**shared, "sections": tuple(train), "seed": config.seed, "epochs": epochs}
    aligned = pretrain(PretrainConfig(save_dir=out / "pretrain", **training), progress=progress)
    done("pretrain", aligned.summary())
    tuned = finetune(
        FinetuneConfig(save_dir=out / "finetune", pretrained_ckpt=aligned.run.best_path, **training),
        progress=progress,
    )
    done("finetune", tuned.summary())
    predicted = predict(
        PredictConfig(
            section=target, ckpt=tuned.run.best_path, out_dir=out / "results", report=True, **shared
        ),
        progress=progress,
    )
    done("predict", f"section {target}, with the checkpoint of the other sections")
    unfinished.unlink()
    return DemoReport(out_dir=out, prediction=predicted, steps=steps, seconds=seconds)
