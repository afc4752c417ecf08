"""`spam benchmark`: cross-validate all methods on the same features, folds and scores, and write a report."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from spam.atomic import claimed, write_text
from spam.errors import SpamError, counted
from spam.progress import SILENT, Progress, already_done
from spam.reports import PAGE, MethodScore, benchmark_content, data_url, plot_score_chart, render_page
from spam.reports.score_tables import HEADLINE_SET, RIVAL, shown
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.store import choose_sections, describe_losses, open_store
from spam.training.cohort import data_digest, read_spots
from spam.training.feature_choice import FeatureChoice, choose_shared_features
from spam.versions import software_versions

from .benchmark_page import benchmark_markdown
from .boards import PairedDifference, UnitKind, json_ready
from .fold_plan import Fold, plan_folds, read_folds
from .folds import (
    FoldData,
    build_fold,
    describe_leakage,
    refuse_adapted,
    refuse_duplicates,
    shared_donors,
    split_fold,
    tile_width,
)
from .methods import Method
from .runs import RunResult, list_runs, open_folder, read_result, run_all
from .spam_method import ALL_METHODS, choose_methods
from .summary import compare, score_table, summarise, unit_kind

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchmarkReport:
    """Outcome of `benchmark`.

    Attributes
    ----------
    config
        Options.
    features, folds, leakage
        Features, folds, and what their sides share (one sentence each).
    data_sha256
        Checksum of features, coordinates and counts.
    scores
        Every score, see `score_table`.
    unit
        Unit of the intervals.
    summaries, differences
        Means with their spread, and paired differences.
    seconds
        Mean wall time of one fit with its prediction, per method.
    failures
        Runs without scores.
    n_waiting, n_executed
        Runs that are left to other jobs (``--shard``) or methods, and runs that were executed now.
    software
        Versions.
    files
        All written files except the runs.
    """

    config: BenchmarkConfig
    features: FeatureChoice
    folds: Sequence[Fold]
    leakage: Sequence[str]
    data_sha256: str
    scores: pd.DataFrame
    unit: UnitKind
    summaries: pd.DataFrame
    differences: Sequence[PairedDifference]
    seconds: Mapping[str, float]
    failures: Sequence[RunResult]
    n_waiting: int
    n_executed: int
    software: Mapping[str, str]
    files: Sequence[Path]

    @property
    def is_complete(self) -> bool:
        """Whether no run failed, apart from methods that do not apply to a fold."""
        return all(result.does_not_apply for result in self.failures)

    @property
    def verdicts(self) -> list[str]:
        """One line per method that is not a baseline: whether it beats the tuned ridge.

        None if a test section has measured fewer than half of the headline genes.
        """
        scored = self.headline(self.scores)
        few = scored[scored["n_missing"] > scored["n_genes"]].drop_duplicates("section")
        if len(few) and not scored["is_reference"].all():
            each = (
                f"{row.section} has {row.n_genes} of {row.n_genes + row.n_missing}"
                for row in few.itertuples()
            )
            return [f"No verdict: of the genes of {HEADLINE_SET}, {', '.join(each)}"]
        return [
            d.sentence()
            for d in self.differences
            if (d.other, d.gene_set, d.score) == (RIVAL, HEADLINE_SET, "pearson")
        ]

    def find(self, method: str, gene_set: str, score: str) -> dict[str, Any] | None:
        """Find one row of `summaries`, or None if the method has no such score."""
        keys = {"method": method, "gene_set": gene_set, "score": score}
        rows = self.summaries.loc[(self.summaries[list(keys)] == pd.Series(keys)).all(axis=1)]
        return {str(k): v for k, v in rows.iloc[0].items()} if len(rows) else None

    def headline(self, table: pd.DataFrame | None = None) -> pd.DataFrame:
        """Rows of `summaries` (or another table) of the Pearson correlation on the headline genes."""
        s = self.summaries if table is None else table
        return s[(s["gene_set"] == HEADLINE_SET) & (s["score"] == "pearson")]

    def headline_by_part(self) -> "pd.Series[float]":
        """Pearson correlation on the headline genes per method and test section (or block), mean over seeds."""
        parts = self.headline(self.scores).groupby(["method", "part"], sort=False)
        return parts["value"].mean()

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-ready types; NaN becomes None."""
        names = {field.name for field in dataclasses.fields(self)} - {"n_executed"}
        values = {name: getattr(self, name) for name in names}
        mapping: dict[str, Any] = json_ready(
            {
                **values,
                "config": self.config.to_record(),
                "differences": [d.to_mapping() for d in self.differences],
                "verdicts": self.verdicts,
                "files": [path.name for path in self.files],
            }
        )
        return mapping

    def summary(self) -> str:
        """Show the headline scores, best last, the verdicts and the failures."""
        headline = self.headline().sort_values("mean", na_position="first", kind="stable")
        width = max((len(name) for name in headline["method"]), default=0)
        done = already_done(self.files[0].parent, "has the scores of all these runs", "run")
        lines = [] if self.n_executed else [done]
        lines.append(f"{HEADLINE_SET} Pearson within test sections, mean over {self.unit}:")
        lines += [f"  {row.method:<{width}}  {shown(row.mean)}" for row in headline.itertuples()]
        lines += self.verdicts
        lines += [result.sentence() for result in self.failures if not result.does_not_apply]
        lines += [f"not finished: {counted(self.n_waiting, 'run')} of other shards"] if self.n_waiting else []
        lines.append(f"written: {', '.join(str(path) for path in self.files)}")
        return "\n".join(lines)


def benchmark(
    config: BenchmarkConfig, *, known: Sequence[Method] = ALL_METHODS, progress: Progress = SILENT
) -> BenchmarkReport:
    """Cross-validate methods on the sections of a store, and write page, numbers and figure to the out dir.

    Each finished run (method, fold, seed) is a file in the folder ``runs`` of the out dir, so an interrupted benchmark
    resumes. With ``--shard i/n`` this job executes one part of the runs; the report covers all finished ones.

    Parameters
    ----------
    known
        Methods to choose from; add your own to compare it.

    Raises
    ------
    ConfigError
        If sections, folds or methods do not fit together, or the encoder was adapted on counts of a test section.
    StoreError
        If sections, features or genes cannot be chosen.
    OutputExistsError
        If the out dir holds another benchmark and ``--overwrite`` is not given, or another process does the same runs.
    SpamError
        If no run has scores.
    """
    assert config.out_dir is not None  # checked by BenchmarkConfig
    part, n_parts = config.shard_of
    with claimed(config.out_dir, "--out-dir", name=f".lock-{part}-of-{n_parts}"):
        return _benchmark(config, known, progress)


def _benchmark(config: BenchmarkConfig, known: Sequence[Method], progress: Progress) -> BenchmarkReport:
    assert config.store is not None  # checked by BenchmarkConfig
    methods = choose_methods(config.methods, known)
    store = open_store(config.store)
    tabled = () if config.folds is None else read_folds(config.folds)
    given = {
        "--train-sections": config.train_sections,
        "--test-sections": config.test_sections,
        "--folds": [name for fold in tabled for name in (*fold.train, *fold.test)],
    }
    named = [name for flag, names in given.items() if names for name in choose_sections(store, names, flag)]
    chosen = tuple(dict.fromkeys(named)) or choose_sections(store, config.sections)
    sections = [store.section(name) for name in chosen]
    folds = plan_folds([section.meta for section in sections], config)
    features = choose_shared_features(sections, config.enc_name, config.tile_um, is_averaged=config.dihedral)
    refuse_adapted(folds, features)
    spots = {section.meta.name: read_spots(section, features.keys, k=config.k) for section in sections}
    refuse_duplicates(tuple(spots.values()))
    has_blocks = any(fold.block is not None for fold in folds)
    widths = {s.meta.name: tile_width(s, features.keys) for s in sections} if has_blocks else {}
    sides = {fold: split_fold(fold, spots, k=config.k, tile_widths=widths) for fold in folds}
    gene_lists = {name: s.genes.tolist() for name, s in spots.items() if s.genes is not None}
    leakage, losses = describe_leakage(list(sides.values())), describe_losses(gene_lists)
    if losses[1]:
        for line in losses[0]:
            _LOG.warning("%s", line)
    buffers = describe_leakage(list(sides.values()), only_buffers=True)
    for line in leakage:
        _LOG.log(logging.INFO if line in buffers else logging.WARNING, "%s", line)

    def build(fold: Fold) -> FoldData:
        return build_fold(sides[fold], features, k=config.k, n_top=config.n_top_genes)

    digest, software = data_digest(list(spots.values())), software_versions()
    out = open_folder(config, folds, data_digest=digest, software=software)
    runs = list_runs(folds, methods, n_seeds=config.seeds)
    part, n_parts = config.shard_of
    share = runs[len(runs) * part // n_parts : len(runs) * (part + 1) // n_parts]
    if config.overwrite:
        for run in share:
            run.path(out).unlink(missing_ok=True)
    n_executed = run_all(share, build, out, progress=progress)
    found = [read_result(run.path(out)) for run in runs]
    results = [result for result in found if result is not None]
    scored = [result for result in results if result.scores is not None]
    if not scored:
        causes = dict.fromkeys(f"{result.method}: {result.failure}" for result in results)
        reason = "; ".join(causes) or f"--shard {config.shard} contains none of the {len(runs)} runs"
        message = f"No method has scores ({reason})."
        raise SpamError(message)
    scores = score_table(scored, folds, {name: s.donor for name, s in spots.items()})
    unit = unit_kind(scores, is_across_donors=not any(shared_donors(each) for each in sides.values()))
    seconds = pd.DataFrame([(r.method, r.seconds) for r in scored], columns=["method", "seconds"])
    names = ["benchmark.md", "benchmark.json", "genes.csv", "scores.png", *([PAGE] if config.report else [])]
    report = BenchmarkReport(
        config=config,
        features=features,
        folds=folds,
        leakage=leakage,
        data_sha256=digest,
        scores=scores,
        unit=unit,
        summaries=summarise(scores, unit),
        differences=compare(scores, unit),
        seconds=seconds.groupby("method")["seconds"].mean().to_dict(),
        failures=[result for result in results if result.failure is not None],
        n_waiting=len(runs) - len(results),
        n_executed=n_executed,
        software=software,
        files=[out / name for name in names],
    )
    write_text(out / "benchmark.md", benchmark_markdown(report))
    write_text(out / "benchmark.json", json.dumps(report.to_mapping(), indent=1, allow_nan=False))
    write_text(out / "genes.csv", _gene_table(scored).to_csv())
    _plot(report, out / "scores.png")
    (out / PAGE).unlink(missing_ok=True)  # of other scores
    if config.report:
        image = data_url("png", (out / "scores.png").read_bytes())
        write_text(out / PAGE, render_page(benchmark_content(report.to_mapping(), image)))
    return report


def _gene_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """Average the Pearson correlation of each gene over test sections and seeds: one column per method."""
    tables = [r.scores.genes.assign(method=r.method) for r in results if r.scores is not None]
    return pd.concat(tables).pivot_table("pearson", "gene", "method", dropna=False, sort=False)


def _plot(report: BenchmarkReport, path: Path) -> None:
    """Draw the headline score of each method with interval and test sections."""
    points = report.headline_by_part()
    drawn = [
        MethodScore(
            name=row.method,
            is_reference=row.is_reference,
            mean=row.mean,
            lower=row.lower,
            upper=row.upper,
            points=tuple(points[row.method]),
        )
        for row in report.headline().itertuples()
    ]
    part = "blocks" if any(fold.block is not None for fold in report.folds) else "sections"
    title = f"interval: 95 % bootstrap over {report.unit}; circles: test {part}"
    plot_score_chart(drawn, path, label=f"{HEADLINE_SET} Pearson within test sections", title=title)
