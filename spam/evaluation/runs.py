"""Run methods on folds with seeds, score them, and keep each finished run as a file, so that a benchmark can resume."""

import dataclasses
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spam.atomic import claimed, write_text
from spam.errors import NotApplicableError, OutputExistsError, SectionError, SpamError
from spam.progress import SILENT, Progress
from spam.reports.score_tables import DEPTH_NULL, HEST_SET
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.typing import Array

from .boards import MethodPrediction, json_ready, score_genes, score_hest, score_set
from .fold_plan import Fold
from .folds import FoldData
from .methods import Method

ALL_GENES = "all"
_WAIT_S = 60.0
_LOG = logging.getLogger(__name__)
# Options that do not change a run's result: paths, and which runs there are. The record holds the folds themselves.
_NOT_IN_RECORD = (
    *("store", "out_dir", "overwrite", "report", "methods", "seeds", "shard"),
    *("by", "sections", "train_sections", "test_sections", "folds"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldScores:
    """Scores of one method on one fold.

    Attributes
    ----------
    sets
        Scores of the gene sets in each test section, see `score_set`, with the column ``section``. The HEST board pools
        the spots of all test sections: it stands under the first one.
    genes
        Scores of the honest board, one row per test section and measured gene, see `score_genes`.
    """

    sets: pd.DataFrame
    genes: pd.DataFrame


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A method on a fold with a seed; `method` is None for the depth null."""

    fold: Fold
    method: Method | None
    seed: int

    @property
    def name(self) -> str:
        """Name of the method in the tables."""
        return DEPTH_NULL if self.method is None else self.method.name

    @property
    def is_reference(self) -> bool:
        """Whether it is a baseline, which gets no verdict."""
        return self.method is None or self.method.is_reference

    def path(self, folder: Path) -> Path:
        """File of the result in the out dir."""
        return folder / "runs" / _file_name(self.fold.name) / _file_name(self.name) / f"seed-{self.seed}.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunResult:
    """Outcome of a run.

    Attributes
    ----------
    fold, method, seed, is_reference
        Which run.
    seconds
        Wall time of fitting and predicting.
    scores
        Scores, or None after a failure.
    prediction_sha256
        Checksum of all predicted values, or None after a failure.
    failure
        Error message, or None.
    does_not_apply
        Whether the failure is expected: the method needs data that the fold lacks.
    """

    fold: str
    method: str
    seed: int
    is_reference: bool
    seconds: float
    scores: FoldScores | None = None
    prediction_sha256: str | None = None
    failure: str | None = None
    does_not_apply: bool = False

    def sentence(self) -> str:
        """Describe the failure in one line."""
        verb = "does not apply to" if self.does_not_apply else "failed in"
        return f"{self.method} {verb} {self.fold} (seed {self.seed}): {self.failure}"


def list_runs(folds: Sequence[Fold], methods: Sequence[Method | None], *, n_seeds: int) -> list[PlannedRun]:
    """List all runs of a benchmark, fold by fold; methods without randomness get one seed."""
    seeds = [range(n_seeds if method is not None and method.is_seeded else 1) for method in methods]
    each = [(method, seed) for method, own in zip(methods, seeds, strict=True) for seed in own]
    return [PlannedRun(fold=fold, method=method, seed=seed) for fold in folds for method, seed in each]


def run_all(
    runs: Sequence[PlannedRun],
    build: Callable[[Fold], FoldData],
    folder: Path,
    *,
    progress: Progress = SILENT,
) -> int:
    """Execute the runs without a result in `folder`, write their results there, and return how many these were.

    A run that raises a `SpamError` is recorded as failed and repeated next time; the others continue.
    """
    results = [read_result(run.path(folder)) for run in runs]
    waiting = [run for run, result in zip(runs, results, strict=True) if result is None or result.failure]
    fold: Fold | None = None
    with progress.task("benchmark", len(runs)) as advance:
        advance(len(runs) - len(waiting))
        for run in waiting:
            if run.fold != fold:
                fold, data = run.fold, build(run.fold)
            result = _execute(run, data)
            write_result(run.path(folder), result)
            if result.failure is not None:
                level = logging.INFO if result.does_not_apply else logging.WARNING
                _LOG.log(level, "%s", result.sentence())
            advance(note=f"{run.fold.name}: {run.name}")
    return len(waiting)


def _execute(run: PlannedRun, data: FoldData) -> RunResult:
    """Fit, predict and score; the method sees the task alone, the depth null the measured depth."""
    start = time.perf_counter()
    outcome: dict[str, Any] = {}
    try:
        predictions = (
            depth_null(data) if run.method is None else run.method.fit_predict(data.task, seed=run.seed)
        )
        seconds = time.perf_counter() - start
        outcome["prediction_sha256"] = prediction_digest(predictions)
        outcome["scores"] = score_fold(data, run.name, predictions)
    except SpamError as error:
        seconds = time.perf_counter() - start
        outcome = {"failure": str(error), "does_not_apply": isinstance(error, NotApplicableError)}
    return RunResult(
        fold=run.fold.name,
        method=run.name,
        seed=run.seed,
        is_reference=run.is_reference,
        seconds=seconds,
        **outcome,
    )


def score_fold(data: FoldData, name: str, predictions: Mapping[str, MethodPrediction]) -> FoldScores:
    """Score the predictions of a method for the test sections of a fold.

    Raises
    ------
    SectionError
        If a test section is missing, predictions have the wrong shape or invalid values, or the test sections share no gene
        of the HEST board.
    """
    _check(data, name, predictions)
    genes = data.task.genes
    members = genes.sets[HEST_SET]
    honest = {**{k: v for k, v in genes.sets.items() if k != HEST_SET}, ALL_GENES: genes.genes}
    tables = {
        section: score_genes(truth, predictions[section], genes) for section, truth in data.truths.items()
    }
    pooled = score_hest(list(data.truths.values()), [predictions[section] for section in data.truths], genes)
    if not len(pooled):
        message = (
            f"The test sections share none of the {len(members)} genes of the HEST board. Use the same gene names in all "
            "sections, or test them in different folds."
        )
        raise SectionError(message)
    sets = [
        score_set(table, gene_set, names, method=name).assign(section=section)
        for section, table in tables.items()
        for gene_set, names in honest.items()
    ]
    sets.append(score_set(pooled, HEST_SET, members, method=name).assign(section=next(iter(tables))))
    return FoldScores(sets=pd.concat(sets, ignore_index=True), genes=pd.concat(tables, names=["section"]))


def depth_null(data: FoldData) -> dict[str, MethodPrediction]:
    """Predict log library size for every gene: the part of a score that is due to depth alone.

    Not a method, since it reads the measured library size of the test spots.
    """
    shape = (1, len(data.task.genes.genes))
    depth = {section: np.log1p(truth.totals).astype(np.float32) for section, truth in data.truths.items()}
    return {name: MethodPrediction(expression=np.tile(d[:, None], shape)) for name, d in depth.items()}


def prediction_digest(predictions: Mapping[str, MethodPrediction]) -> str:
    """Hash all predicted values: equal digests mean bitwise equal predictions."""
    digest = hashlib.sha256()
    for section, p in sorted(predictions.items()):
        counts = () if p.counts is None else [getattr(p.counts, f.name) for f in dataclasses.fields(p.counts)]
        for value in (section, p.expression, p.raw_scale, *counts):
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()


def _check(data: FoldData, name: str, predictions: Mapping[str, MethodPrediction]) -> None:
    """Refuse predictions of a user's method that cannot be scored."""
    if missing := [section for section in data.truths if section not in predictions]:
        message = f"{name!r} returned no prediction for test sections {', '.join(missing)}."
        raise SectionError(message)
    genes, tiny = data.task.genes, float(np.finfo(np.float32).tiny)
    for section, truth in data.truths.items():
        p, shape = predictions[section], (len(truth.totals), len(genes.genes))
        arrays: list[tuple[str, Array | None, tuple[int, ...], float]] = [
            ("expression", p.expression, shape, -np.inf),
            ("raw_scale", p.raw_scale, (shape[0], len(genes.sets[HEST_SET])), -np.inf),
        ]
        if p.counts is not None:
            c = p.counts
            arrays += [
                ("rate", c.rate, shape, tiny),
                ("theta", c.theta, shape[1:], tiny),
                ("pi", c.pi, shape, 0.0),
            ]
            if not 0 < c.lower < 0.5 < c.upper < 1:
                message = f"Interval quantiles {c.lower} and {c.upper} of {name!r} do not enclose 0.5."
                raise SectionError(message)
        for what, values, size, least in arrays:
            if values is None or (values.shape == size and (np.isfinite(values) & (values >= least)).all()):
                continue
            sign = "" if least < 0 else ", positive"
            message = f"{what} of {name!r} for {section} has shape {values.shape}; expected finite{sign} values of shape {size}."
            raise SectionError(message)


def write_result(path: Path, result: RunResult) -> None:
    """Write a result as one JSON file, atomically."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if result.scores is not None:
        genes = result.scores.genes.reset_index().to_dict("list")
        values["scores"] = {"sets": result.scores.sets, "genes": genes}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(json_ready(values), allow_nan=False))


def read_result(path: Path) -> RunResult | None:
    """Read a result, or None if there is none."""
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if scores := values["scores"]:
        values["scores"] = FoldScores(
            sets=pd.DataFrame(scores["sets"]).astype({"value": np.float64}),
            genes=pd.DataFrame(scores["genes"]).set_index(["section", "gene"]).astype(np.float64),
        )
    return RunResult(**values)


def _file_name(name: str) -> str:
    """Make a file name, with a hash that keeps names apart which differ in special characters only."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "unnamed"
    return f"{plain[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def open_folder(
    config: BenchmarkConfig, folds: Sequence[Fold], *, data_digest: str, software: Mapping[str, str]
) -> Path:
    """Create the out dir with a record of options, folds, data and versions (``run.json``); return it.

    Raises
    ------
    OutputExistsError
        If the folder holds a benchmark with another record and ``--overwrite`` is not given, or a folder ``runs`` without
        a record.
    """
    folder = config.out_dir
    assert folder is not None  # checked by BenchmarkConfig
    now = {name: value for name, value in config.to_mapping().items() if name not in _NOT_IN_RECORD}
    now = json_ready({**now, "folds": list(folds), "data_sha256": data_digest, "software": software})
    with claimed(folder, "--out-dir", wait_s=_WAIT_S):  # processes of several shards start at the same time
        _record(config, folder, now)
    return folder


def _record(config: BenchmarkConfig, folder: Path, now: dict[str, Any]) -> None:
    """Write the record of a benchmark; delete the runs of another one."""
    path, runs = folder / "run.json", folder / "runs"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if before is None and runs.exists():
        message = f"Folder {str(runs)!r} is not from spam benchmark. Choose another --out-dir."
        raise OutputExistsError(message)
    if before is not None and before != now:
        if not config.overwrite:
            other = ", ".join(name for name in now if before.get(name) != now[name])
            message = (
                f"{str(folder)!r} holds a benchmark with other {other} (see run.json). Choose another --out-dir, or "
                "replace it with --overwrite."
            )
            raise OutputExistsError(message)
        shutil.rmtree(runs, ignore_errors=True)
    write_text(path, json.dumps(now, indent=1))
