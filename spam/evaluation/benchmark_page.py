"""The report of a benchmark as a Markdown page."""

import dataclasses
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spam.errors import counted
from spam.reports.score_tables import (
    HEADLINE_SET,
    HEST_SET,
    NO_LEVEL,
    SCORE_HEADINGS,
    board_table,
    markdown_table,
    shown,
)
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.config import flag

from .boards import SCOPES
from .runs import ALL_GENES
from .summary import COMPARED

if TYPE_CHECKING:
    from .cross_validation import BenchmarkReport


def benchmark_markdown(report: "BenchmarkReport") -> str:
    """Write the page: verdicts, scores with intervals, both boards, paired differences, leakage, failures."""
    return "\n\n".join(
        [
            "# Benchmark",
            *_introduction(report),
            "## Verdicts",
            "\n".join(f"- {line}." for line in report.verdicts) or "No verdict: only baselines were run.",
            "## Scores",
            _headline(report),
            "HEST board: Pearson on log1p(raw counts), spots of all test sections of a fold pooled; includes depth. NLL: "
            "negative log-likelihood per spot and gene in nats; coverage: fraction of counts in the predicted 90 % "
            "interval; both over all predicted genes. Seconds: wall time of one fit with its prediction.",
            "![Scores](scores.png)",
            *_boards(report),
            "## Paired differences",
            _differences(report),
            f"## {HEADLINE_SET} Pearson by test section",
            _by_section(report),
            "## What the two sides of a fold share",
            "\n".join(f"- {line}." for line in report.leakage)
            or "- No donor is on both sides of a fold, and no test spot has nearly the features of a training spot.",
            *_failures(report),
            "",
        ]
    )


def _introduction(report: "BenchmarkReport") -> list[str]:
    sizes = [
        f"{tile['tile_um']:g} µm" if tile["tile_um"] else f"{tile['tile_px']} px"
        for tile in report.features.tiles
    ]
    encoders = [str(encoder["name"]) for encoder in report.features.encoders]
    folds = "; ".join(
        f"{fold.name} (trained on {'the rest of it' if fold.block is not None else ', '.join(fold.train)})"
        for fold in report.folds
    )
    return [
        f"```bash\n{_command(report.config)}\n```",
        f"Features of {' and '.join(dict.fromkeys(encoders))}, tiles of {' and '.join(dict.fromkeys(sizes))}. "
        f"Tested: {folds}. Genes are chosen and models are fitted on the training side of "
        "each fold alone. Scores are of log1p(CP10k), per gene within a test section, averaged "
        f"over genes, seeds, sections and donors, in this order. Intervals: 95 % bootstrap over {report.unit}"
        f"{SCOPES[report.unit]}.",
        f"Versions: {', '.join(f'{k} {v}' for k, v in report.software.items())}; data {report.data_sha256[:12]}.",
    ]


def _command(config: BenchmarkConfig) -> str:
    """Write the command of this page, without paths of this machine."""
    words = ["spam", "benchmark", "--store", str(config.store).rstrip("/").rsplit("/", 1)[-1]]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("store", "out_dir", "overwrite", "shard", "report") or value == field.default:
            continue
        if isinstance(value, tuple):
            value = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
        value = value.name if isinstance(value, Path) else value
        words += [flag(field.name)] if value is True else [flag(field.name), str(value)]
    return shlex.join([*words, "--out-dir", "results"])


def _headline(report: "BenchmarkReport") -> str:
    others = (("HVG-250", "pearson"), (HEST_SET, "pearson"), (ALL_GENES, "nll"), (ALL_GENES, "coverage"))
    head = [
        *("method", f"{HEADLINE_SET} ↑", "95 % interval", f"± {report.unit}", "± seeds", "HVG-250 ↑"),
        *("HEST board ↑", "NLL ↓", "coverage", "s per fit"),
    ]
    means = report.summaries.set_index(["method", "gene_set", "score"])["mean"]
    n_parts = report.headline_by_part().groupby("method").size()
    rows = []
    for row in report.headline().itertuples():
        n = n_parts[row.method]
        # Marks means over fewer test sections, which are not comparable.
        missing = "" if n == n_parts.max() else f" ({n} of {n_parts.max()} tests)"
        rows.append(
            [
                (row.method if row.is_reference else f"**{row.method}**") + missing,
                shown(row.mean),
                f"{shown(row.lower)} to {shown(row.upper)}",
                shown(row.sd_units),
                shown(row.sd_seeds),
                *(shown(means.get((row.method, *other), math.nan)) for other in others),
                f"{report.seconds[row.method]:.1f}",
            ]
        )
    return markdown_table(head, rows)


def _boards(report: "BenchmarkReport") -> Iterator[str]:
    for gene_set, own in report.summaries.groupby("gene_set", sort=False):
        if gene_set == HEST_SET:
            continue
        yield f"## Honest board, {gene_set}"
        yield board_table(own, value="mean")
    yield (
        "Genes, and those without a Pearson correlation (constant truth or prediction), are means over test sections; "
        f"undefined scores are excluded from means. {NO_LEVEL}"
    )


def _differences(report: "BenchmarkReport") -> str:
    if not report.differences:
        return "None: only baselines were run."
    cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for d in report.differences:
        mean, lower, upper = (
            shown(x, "+") for x in (d.difference.mean, d.difference.lower, d.difference.upper)
        )
        mark = "**" if d.is_better else ""
        own = cells.setdefault((d.method, d.other), {})
        own[d.gene_set, d.score] = f"{mark}{mean}{mark} ({lower} to {upper})"
    rows = [[*pair, *(own.get(compared, "–") for compared in COMPARED)] for pair, own in cells.items()]
    head = ["method", "minus", *(f"{gene_set} {SCORE_HEADINGS[score]}" for gene_set, score in COMPARED)]
    note = f"Same test sections, seeds averaged; 95 % bootstrap over {report.unit}; bold: whole interval on the better side."
    return f"{markdown_table(head, rows)}\n\n{note}"


def _by_section(report: "BenchmarkReport") -> str:
    means = report.headline_by_part().unstack()
    rows = [[str(method), *map(shown, values)] for method, *values in means.itertuples()]
    return markdown_table(["method", *map(str, means.columns)], rows)


def _failures(report: "BenchmarkReport") -> Iterator[str]:
    if report.failures or report.n_waiting:
        yield "## Without scores"
        lines = [f"- {result.sentence()}" for result in report.failures]
        waiting = f"- Not finished: {counted(report.n_waiting, 'run')} of other shards."
        lines += [waiting] if report.n_waiting else []
        yield "\n".join(lines)
