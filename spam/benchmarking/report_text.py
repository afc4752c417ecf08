"""A benchmark as a page of Markdown."""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Sequence

from spam.evaluation import HEADLINE_SET, HEST_SET, SCORE_HEADINGS
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.config import flag

from .leakage import describe_leakage
from .method_cost import tell_circumstances
from .report import BenchmarkReport
from .scoring import ALL_GENES
from .summary import COMPARED

__all__ = ["write_markdown"]

_UNIT_NOTES = {
    "donors": "",
    "sections": " Not all donors are known, or there is one: no interval says anything about other donors.",
    "blocks": " There is one section, so no interval says anything about other sections or donors.",
}


def write_markdown(report: BenchmarkReport) -> str:
    """Write the page: verdicts, scores with intervals and cost, both boards, paired differences, leakage, failures."""
    return "\n".join(
        [
            "# Benchmark\n",
            *_introduction(report),
            "## Verdicts\n",
            *([f"- {line}." for line in report.verdicts] or ["No verdict: no method beside the baselines."]),
            "",
            "## Scores and cost\n",
            *_headline(report),
            "![Scores](scores.png)\n\n![Scores against seconds](cost.png)\n",
            *_boards(report),
            "## Paired differences\n",
            *_differences(report),
            f"## {HEADLINE_SET} Pearson by test section\n",
            *_by_section(report),
            "## What the two sides of a fold share\n",
            *_leakage(report),
            *_failures(report),
        ]
    )


def _introduction(report: BenchmarkReport) -> list[str]:
    sizes = " and ".join(
        f"{tile['tile_um']:g} µm" if tile["tile_um"] else f"{tile['tile_px']} px"
        for tile in report.features.tiles
    )
    folds = "; ".join(
        f"{fold.name} (trained on {'the rest of it' if fold.block is not None else ', '.join(fold.train)})"
        for fold in report.folds
    )
    hardware = report.hardware
    return [
        f"```bash\n{_command(report.config)}\n```\n",
        f"Features of {report.features.encoder}, tiles of {sizes}. Tested: {folds}. Genes are chosen, and everything is "
        f"fitted, on the training side of each fold alone. Scores are of log1p(CP10k), per gene within a test section, "
        f"averaged over genes, seeds, sections and donors in this order. Intervals: 95 % bootstrap over {report.unit}."
        f"{_UNIT_NOTES[report.unit]}\n",
        f"Run on {hardware['system']} {hardware['machine']} with {hardware['cpus']} CPU cores, "
        f"{hardware['gpu'] or 'no GPU'}; {', '.join(f'{k} {v}' for k, v in report.software.items())}; data "
        f"{report.data_sha256[:12]}.\n",
    ]


def _command(config: BenchmarkConfig) -> str:
    """Write the command that makes this page, without folders of this machine."""
    words = ["spam", "benchmark", "--store", str(config.store).rstrip("/").rsplit("/", 1)[-1]]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("store", "out_dir", "overwrite") or value == field.default:
            continue
        if value is True:
            words.append(flag(field.name))
        else:
            text = (
                ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
                if isinstance(value, tuple)
                else value
            )
            words += [flag(field.name), str(text)]
    return shlex.join([*words, "--out-dir", "results"])


def _headline(report: BenchmarkReport) -> list[str]:
    head = [
        "method",
        f"{HEADLINE_SET} ↑",
        "95 % interval",
        f"± {report.unit}",
        "± seeds",
        "HVG-250 ↑",
        "HEST board ↑",
        "NLL ↓",
        "coverage",
        "s per fit",
        "peak MB",
    ]
    costs = {cost.method: cost for cost in report.costs}
    rows = []
    chosen = report.scores[
        (report.scores["gene_set"] == HEADLINE_SET) & (report.scores["score"] == "pearson")
    ]
    n_parts = chosen.groupby("method")["part"].nunique()
    for method in dict.fromkeys(summary.method for summary in report.summaries):
        top = report.find(method, HEADLINE_SET, "pearson")
        if top is None:
            continue
        # A mean over other sections than the rest must not pass for comparable.
        missing = "" if n_parts[method] == n_parts.max() else f" ({n_parts[method]} of {n_parts.max()} tests)"
        others = [
            report.find(method, gene_set, score)
            for gene_set, score in (
                ("HVG-250", "pearson"),
                (HEST_SET, "pearson"),
                (ALL_GENES, "nll"),
                (ALL_GENES, "coverage"),
            )
        ]
        cost = costs[method]
        rows.append(
            [
                (method if top.is_reference else f"**{method}**") + missing,
                _number(top.interval.mean),
                f"{_number(top.interval.lower)} to {_number(top.interval.upper)}",
                _number(top.sd_units),
                _number(top.sd_seeds),
                *(_number(math.nan if s is None else s.interval.mean) for s in others),
                f"{cost.seconds:.1f}",
                "–" if cost.peak_mb is None else f"{cost.peak_mb:.0f}",
            ]
        )
    notes = (
        "HEST board: Pearson on log1p(raw counts), the spots of all test sections of a fold pooled; depth leaks in. NLL: "
        "negative log-likelihood per spot and gene in nats; coverage: share of counts in the predicted interval that is "
        "meant to hold 90 %; both of all predicted genes. Seconds: wall time of one fit with "
        f"its prediction. Peak: the whole process. {tell_circumstances(report.costs)}\n"
    )
    return [*_table(head, rows), notes]


def _boards(report: BenchmarkReport) -> Iterator[str]:
    for gene_set in dict.fromkeys(s.gene_set for s in report.summaries if s.gene_set != HEST_SET):
        own = {(s.method, s.score): s for s in report.summaries if s.gene_set == gene_set}
        scores = [score for score in SCORE_HEADINGS if any(key[1] == score for key in own)]
        rows = []
        for method in dict.fromkeys(method for method, _ in own):
            pearson = own[method, "pearson"]
            found = [own.get((method, score)) for score in scores]
            rows.append(
                [
                    method,
                    f"{pearson.n_genes:g}",
                    f"{pearson.n_undefined:g}",
                    *(_number(math.nan if s is None else s.interval.mean) for s in found),
                ]
            )
        yield f"## Honest board, {gene_set}\n"
        yield from _table(
            ["method", "genes", "undefined", *(SCORE_HEADINGS[score] for score in scores)], rows
        )
    yield (
        "Genes, and those of them without a Pearson correlation (constant on either side), are means over test sections; "
        "undefined scores are in no mean.\n"
    )


def _differences(report: BenchmarkReport) -> list[str]:
    if not report.differences:
        return ["None: no method beside the baselines.\n"]
    found = {(d.method, d.other, d.gene_set, d.score): d for d in report.differences}
    rows = []
    for method, other in dict.fromkeys((d.method, d.other) for d in report.differences):
        cells = []
        for gene_set, score in COMPARED:
            d = found.get((method, other, gene_set, score))
            mark = "**" if d is not None and d.is_better else ""
            cells.append(
                "–"
                if d is None
                else f"{mark}{_number(d.difference.mean, sign='+')}{mark} ({_number(d.difference.lower, sign='+')} to "
                f"{_number(d.difference.upper, sign='+')})"
            )
        rows.append([method, other, *cells])
    head = ["method", "minus", *(f"{gene_set} {SCORE_HEADINGS[score]}" for gene_set, score in COMPARED)]
    note = (
        f"Same test sections, seeds averaged; 95 % bootstrap over {report.unit}; bold where the whole interval is on the "
        "better side.\n"
    )
    return [*_table(head, rows), note]


def _by_section(report: BenchmarkReport) -> list[str]:
    scores = report.scores
    chosen = scores[(scores["gene_set"] == HEADLINE_SET) & (scores["score"] == "pearson")]
    means = chosen.groupby(["method", "part"], sort=False)["value"].mean().unstack()
    rows = [
        [str(method), *map(_number, row)] for method, row in zip(means.index, means.to_numpy(), strict=True)
    ]
    return _table(["method", *map(str, means.columns)], rows)


def _leakage(report: BenchmarkReport) -> list[str]:
    lines = [f"- {line}." for line in describe_leakage(report.leakage)]
    return [
        *(lines or ["- No donor is on both sides of a fold, and no test spot looks like a training spot."]),
        "",
    ]


def _failures(report: BenchmarkReport) -> Iterator[str]:
    if not report.failures:
        return
    yield "## Without scores\n"
    for cell in report.failures:
        if cell.failure is not None:
            what = "does not apply" if cell.failure.is_expected else "failed"
            yield f"- {cell.method} {what} in {cell.fold} (seed {cell.seed}): {cell.failure.message}"
    yield ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a Markdown table, the first column to the left."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return [*(f"| {' | '.join(cell.replace('|', '¦') for cell in line)} |" for line in lines), ""]


def _number(value: float, sign: str = "") -> str:
    """Write a score; adding 0 turns the -0.0 of a rounded one into 0."""
    return "–" if math.isnan(value) else f"{round(value, 3) + 0.0:{sign}.3f}"
