"""`spam benchmark`: folds, every method on them, scores, and a page that says what came out."""

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from spam.atomic import write_text
from spam.errors import SpamError
from spam.evaluation import HEADLINE_SET
from spam.progress import SILENT, Progress
from spam.reports import MethodScore, plot_score_chart
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.store import open_store
from spam.training.cohort import choose_features, data_digest, read_spots
from spam.versions import software_versions

from .cells import Cell, cell_path, read_gene_tables
from .fold_data import build_one_of
from .fold_sides import split_fold, tile_width
from .folds import chosen_sections, plan_folds
from .leakage import describe_leakage, find_leakage, refuse_adapted
from .method_cost import method_costs
from .methods import ALL_METHODS, choose_methods
from .report import BenchmarkReport, describe_hardware
from .report_text import write_markdown
from .run_record import open_folder
from .running import Piece, list_pieces, run_pieces
from .summary import compare, score_table, summarise, unit_kind
from .task import Method

__all__ = ["benchmark"]

_LOG = logging.getLogger(__name__)


def benchmark(
    config: BenchmarkConfig, *, known: Sequence[Method] = ALL_METHODS, progress: Progress = SILENT
) -> BenchmarkReport:
    """Cross-validate methods on the sections of a store, and write page, numbers and figures to the out dir.

    A benchmark that was stopped goes on: every finished method, fold and seed is a file in the folder ``cells`` of the
    out dir.

    Parameters
    ----------
    known
        Methods to choose among; add your own to compare it.

    Raises
    ------
    ConfigError
        If sections, folds or methods do not fit together, or the encoder has seen counts of a test section.
    StoreError
        If features or genes cannot be chosen.
    OutputExistsError
        If the out dir holds another benchmark and overwriting was not asked for.
    SpamError
        If no method gave scores.
    """
    assert config.store is not None  # held by BenchmarkConfig
    methods, has_depth_null = choose_methods(config.methods, known)
    store = open_store(config.store)
    sections = [store.section(name) for name in chosen_sections(store.section_names, config, store.address)]
    folds = plan_folds([section.meta for section in sections], config)
    features = choose_features(
        sections, config.enc_name, config.tile_um, is_averaged=config.dihedral
    )
    refuse_adapted(folds, features)
    spots = {section.meta.name: read_spots(section, features.keys, k=config.k) for section in sections}
    has_blocks = any(fold.block is not None for fold in folds)
    widths = {s.meta.name: tile_width(s, features.keys) for s in sections} if has_blocks else {}
    sides = {fold: split_fold(fold, spots, k=config.k, tile_widths=widths) for fold in folds}
    leakage = [find_leakage(each) for each in sides.values()]
    for line in describe_leakage(leakage):
        _LOG.warning("%s", line)

    build = partial(build_one_of, sides, features=features, k=config.k, n_top=config.n_top_genes)
    software = software_versions()
    digest = data_digest(list(spots.values()))
    out = open_folder(config, folds, data_digest=digest, software=software)
    pieces = list_pieces(folds, methods, n_seeds=config.seeds, has_depth_null=has_depth_null)
    if config.overwrite:
        for piece in pieces:
            _path(out, piece).unlink(missing_ok=True)
    cells = run_pieces(pieces, build, out, jobs=config.jobs, progress=progress)
    scored = [cell for cell in cells if cell.failure is None]
    if not scored:
        told = dict.fromkeys(
            f"{cell.method}: {cell.failure.message}" for cell in cells if cell.failure is not None
        )
        message = f"no method gave scores ({'; '.join(told)})"
        raise SpamError(message)
    scores = score_table(cells, folds, {name: s.donor for name, s in spots.items()})
    unit = unit_kind(scores)
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
        costs=method_costs(cells),
        failures=[cell for cell in cells if cell.failure is not None],
        software=software,
        hardware=describe_hardware(),
        files=[
            out / name for name in ("benchmark.md", "benchmark.json", "genes.csv", "scores.png", "cost.png")
        ],
    )
    _write(report, pieces, cells, out)
    return report


def _write(report: BenchmarkReport, pieces: Sequence[Piece], cells: Sequence[Cell], out: Path) -> None:
    """Write all files of a report."""
    write_text(out / "benchmark.md", write_markdown(report))
    write_text(out / "benchmark.json", json.dumps(report.to_mapping(), indent=1, allow_nan=False))
    paths = [_path(out, piece) for piece, cell in zip(pieces, cells, strict=True) if cell.failure is None]
    methods = [cell.method for cell in cells if cell.failure is None]
    write_text(out / "genes.csv", _gene_table(methods, paths).to_csv())
    drawn = _method_scores(report)
    label = f"{HEADLINE_SET} Pearson within test sections"
    interval = f"interval: 95 % bootstrap over {report.unit}; circles: test {_part(report)}"
    plot_score_chart(drawn, out / "scores.png", label=label, title=interval)


def _gene_table(methods: Sequence[str], paths: Sequence[Path]) -> pd.DataFrame:
    """Average the Pearson correlation of each gene over test sections and seeds: one column per method."""
    columns = [
        table["pearson"].rename(method)
        for method, path in zip(methods, paths, strict=True)
        for table in read_gene_tables(path).values()
    ]
    wide = pd.concat(columns, axis=1)
    return wide.T.groupby(level=0, sort=False).mean().T.rename_axis("gene")


def _method_scores(report: BenchmarkReport) -> list[MethodScore]:
    """Take what the charts show from the report."""
    scores = report.scores
    chosen = scores[(scores["gene_set"] == HEADLINE_SET) & (scores["score"] == "pearson")]
    points = chosen.groupby(["method", "part"])["value"].mean()
    return [
        MethodScore(
            name=s.method,
            is_reference=s.is_reference,
            mean=s.interval.mean,
            lower=s.interval.lower,
            upper=s.interval.upper,
            points=tuple(points[s.method]),
        )
        for s in report.summaries
        if (s.gene_set, s.score) == (HEADLINE_SET, "pearson")
    ]


def _part(report: BenchmarkReport) -> str:
    return "blocks" if any(fold.block is not None for fold in report.folds) else "sections"


def _path(out: Path, piece: Piece) -> Path:
    return cell_path(out, piece.fold.name, piece.name, piece.seed)
