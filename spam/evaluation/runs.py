"""Run methods on folds with seeds, score them, and keep each finished run as a file, so that a benchmark can resume."""

import dataclasses
import hashlib
import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from spam.atomic import write_text
from spam.errors import NotApplicableError, OutputExistsError, SectionError, SpamError
from spam.progress import SILENT, Progress
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.training.genes import GeneChoice

from .boards import HEST_SET, PredictedExpression, SectionTruth, SetScore, json_ready, score_section
from .folds import Fold, FoldData
from .methods import CountPrediction, Method, MethodPrediction
from .stored_truth import DEPTH_NULL, score_counts

ALL_GENES = "all"
_LOG = logging.getLogger(__name__)
# Options that do not change a run's result: paths, and which runs there are. The record holds the folds themselves.
_NOT_IN_RECORD = (
    *("store", "out_dir", "overwrite", "methods", "seeds", "shard"),
    *("by", "sections", "train_sections", "test_sections"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldScores:
    """Scores of one method on one fold.

    Attributes
    ----------
    sections
        Honest board of each test section, one score per gene set.
    hest
        HEST board: Pearson on log1p(raw counts) over the pooled spots of all test sections.
    genes
        Scores per gene of each test section, one row per measured gene.
    """

    sections: Mapping[str, Sequence[SetScore]]
    hest: SetScore
    genes: Mapping[str, pd.DataFrame]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
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


def list_runs(
    folds: Sequence[Fold], methods: Sequence[Method], *, n_seeds: int, has_depth_null: bool
) -> list[Run]:
    """List all runs of a benchmark, fold by fold; methods without randomness get one seed."""
    each: list[tuple[Method | None, int]] = [(None, 0)] if has_depth_null else []
    each += [(method, seed) for method in methods for seed in range(n_seeds if method.is_seeded else 1)]
    return [Run(fold=fold, method=method, seed=seed) for fold in folds for method, seed in each]


def run_all(
    runs: Sequence[Run], build: Callable[[Fold], FoldData], folder: Path, *, progress: Progress = SILENT
) -> None:
    """Execute the runs without a result in `folder`, and write their results there.

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
                verb = "does not apply" if result.does_not_apply else "failed"
                _LOG.log(level, "%s: %s %s: %s", run.fold.name, run.name, verb, result.failure)
            advance(note=f"{run.fold.name}: {run.name}")


def _execute(run: Run, data: FoldData) -> RunResult:
    """Fit, predict and score; the method sees the task alone, the depth null the measured depth."""
    start = time.perf_counter()
    outcome: dict[str, Any] = {}
    try:
        predictions = (
            depth_null(data) if run.method is None else run.method.fit_predict(data.task, seed=run.seed)
        )
        seconds = time.perf_counter() - start
        outcome["prediction_sha256"] = prediction_digest(predictions)
        outcome["scores"] = score_fold(data, run.name, predictions, is_reference=run.is_reference)
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


def score_fold(
    data: FoldData, name: str, predictions: Mapping[str, MethodPrediction], *, is_reference: bool
) -> FoldScores:
    """Score the predictions of a method for the test sections of a fold.

    Raises
    ------
    SectionError
        If a test section is missing, or predictions have the wrong shape or invalid values.
    """
    missing = [section for section in data.truths if section not in predictions]
    if missing:
        message = f"{name!r} returned no prediction for test sections {', '.join(missing)}."
        raise SectionError(message)
    genes = data.task.genes
    sets = {**{k: v for k, v in genes.sets.items() if k != HEST_SET}, ALL_GENES: list(genes.genes)}
    sections, tables, predicted = {}, {}, []
    for section, truth in data.truths.items():
        one = _board_entry(name, predictions[section], truth, genes, is_reference=is_reference)
        board = score_section(truth, [one], sets)
        sections[section] = board.honest
        own = board.genes[[column for column in board.genes if column.startswith(f"{name}.")]]
        tables[section] = own.rename(columns=lambda column: column.removeprefix(f"{name}."))
        predicted.append(one)
    hest = _score_pooled(list(data.truths.values()), predicted, genes.sets[HEST_SET])
    return FoldScores(sections=sections, hest=hest, genes=tables)


def depth_null(data: FoldData) -> dict[str, MethodPrediction]:
    """Predict log library size for every gene: the part of a score that is due to depth alone.

    Not a method, since it reads the measured library size of the test spots.
    """
    n_genes = len(data.task.genes.genes)
    return {
        section: MethodPrediction(
            expression=np.repeat(np.log1p(truth.totals)[:, None], n_genes, axis=1).astype(np.float32)
        )
        for section, truth in data.truths.items()
    }


def prediction_digest(predictions: Mapping[str, MethodPrediction]) -> str:
    """Hash all predicted values: equal digests mean bitwise equal predictions."""
    digest = hashlib.sha256()
    for section, p in sorted(predictions.items()):
        counts = () if p.counts is None else [getattr(p.counts, f.name) for f in dataclasses.fields(p.counts)]
        for value in (section, p.expression, p.raw_scale, *counts):
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()


def _board_entry(
    name: str, prediction: MethodPrediction, truth: SectionTruth, genes: GeneChoice, *, is_reference: bool
) -> PredictedExpression:
    """Convert a prediction for the boards, with likelihood and interval of its counts."""
    names = np.asarray(genes.genes)
    nll = lower = upper = None
    counts = prediction.counts
    if counts is not None:
        _check_counts(name, counts, shape=(len(truth.totals), len(names)))
        nll, lower, upper = score_counts(
            truth,
            names,
            counts.likelihood,
            rate=counts.rate,
            theta=counts.theta,
            pi=counts.pi,
            levels=(counts.lower, counts.upper),
        )
    return PredictedExpression(
        name=name,
        expression=prediction.expression,
        genes=names,
        is_reference=is_reference,
        nll=nll,
        lower=lower,
        upper=upper,
        raw_scale=prediction.raw_scale,
        raw_genes=None if prediction.raw_scale is None else np.asarray(genes.sets[HEST_SET]),
    )


def _check_counts(name: str, counts: CountPrediction, *, shape: tuple[int, int]) -> None:
    """Refuse invalid parameters of a distribution."""
    for what, values, size in (
        ("rate", counts.rate, shape),
        ("theta", counts.theta, shape[1:]),
        ("pi", counts.pi, shape),
    ):
        least = 0 if what == "pi" else np.finfo(np.float32).tiny
        if values is not None and not (
            values.shape == size and np.isfinite(values).all() and (values >= least).all()
        ):
            message = f"{what} of {name!r} must have shape {size} and finite, positive values."
            raise SectionError(message)
    if not 0 < counts.lower < 0.5 < counts.upper < 1:
        message = f"Interval quantiles {counts.lower} and {counts.upper} of {name!r} do not enclose 0.5."
        raise SectionError(message)


def _score_pooled(
    truths: Sequence[SectionTruth], predicted: Sequence[PredictedExpression], members: Sequence[str]
) -> SetScore:
    """Pool the spots of all test sections, on the genes of the HEST board that all of them have measured."""
    shared = [gene for gene in members if all(gene in truth.genes for truth in truths)]
    if not shared:
        message = (
            f"The test sections share none of the {len(members)} genes of the HEST board. Use the same gene names in all "
            "sections, or test them in different folds."
        )
        raise SectionError(message)
    first = predicted[0]
    columns, places = (pd.Index(names).get_indexer(shared) for names in (first.genes, members))
    raw = [p.raw_scale[:, places] for p in predicted if p.raw_scale is not None]
    pooled = PredictedExpression(
        name=first.name,
        expression=np.concatenate([p.expression[:, columns] for p in predicted]),
        genes=np.asarray(shared),
        is_reference=first.is_reference,
        raw_scale=np.concatenate(raw) if len(raw) == len(predicted) else None,
    )
    counts = [csr_matrix(truth.counts)[:, pd.Index(truth.genes).get_indexer(shared)] for truth in truths]
    truth = SectionTruth(
        counts=csr_matrix(vstack(counts)),
        genes=np.asarray(shared),
        totals=np.concatenate([truth.totals for truth in truths]),
    )
    (score,) = score_section(truth, [pooled], {HEST_SET: list(members)}).hest
    return score


def write_result(path: Path, result: RunResult) -> None:
    """Write a result as one JSON file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if result.scores is not None:
        values["scores"] = {
            "sections": {name: list(scores) for name, scores in result.scores.sections.items()},
            "hest": result.scores.hest,
            "genes": {name: t.reset_index().to_dict("list") for name, t in result.scores.genes.items()},
        }
    write_text(path, json.dumps(json_ready(values), allow_nan=False))


def read_result(path: Path) -> RunResult | None:
    """Read a result, or None if there is none."""
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    scores = values["scores"]
    if scores is not None:
        values["scores"] = FoldScores(
            sections={name: [_set_score(s) for s in each] for name, each in scores["sections"].items()},
            hest=_set_score(scores["hest"]),
            genes={
                name: pd.DataFrame(table).set_index("gene").astype(np.float64)
                for name, table in scores["genes"].items()
            },
        )
    return RunResult(**values)


def _set_score(values: dict[str, Any]) -> SetScore:
    means = {name: math.nan if value is None else value for name, value in values["means"].items()}
    return SetScore(**{**values, "means": means})


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
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(now, indent=1))
    return folder
