"""What a report shows of a prediction, or of a benchmark: texts, tables and values for `render_page`."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from spam.schemas.tile_spec import TileFlag, flag_column
from spam.typing import Array, Bool

from .expression_maps import SectionView
from .gene_viewer import PackedGene, pack, palette_stops, viewer_maps
from .report_page import curve
from .score_charts import UNIT
from .score_tables import HEADLINE_SET, HEST_SET, NO_LEVEL, RIVAL, board_rows, short_rows, shown

NEEDED = (
    *("section", "n_spots", "n_genes", "n_unlike", "is_mostly_unlike", "n_predictable", "coverage", "depth"),
    *("training_section", "in_words", "notes", "provenance", "inputs", "training", "config", "model"),
)
"""Entries of ``metrics.json`` that the page of a prediction shows."""
_WARNING = "WARNING: "
_FOOTER = "Made by spam {}. Everything is inside this file; nothing is loaded from elsewhere."
# Least held-out Pearson r of a gene that is predicted better than by chance, the word for it, and how it is shown.
_TRUST = ((0.5, "good", "good"), (0.3, "fair", "fair"), (-1.0, "weak", "weak"))
_NOT, _UNKNOWN = "not predictable", "unknown"
_COLUMNS = {
    "heldout_r": ("r", "heldout_pearson", "Pearson r on held-out spots of training"),
    "section_r": ("r here", "section_pearson", "Pearson r on this section"),
}
_CURVES = {
    "val_pearson": "Pearson r on held-out spots",
    "val_nll": "Negative log-likelihood on held-out spots",
    "loss": "Training loss",
}


_READING = (
    ("Trust", "Accuracy of a gene on spots of sections that were left out of training. Good: r of .5 or more; fair: .3 or more; "
     "weak: less, but better than chance; not predictable: no better than chance (false-discovery rate above 5 %)."),
    ("r", "Pearson correlation of predicted and measured expression over the spots of a section: 1 is perfect, 0 is chance."),
    ("log1p CP10k", "Natural logarithm of 1 + counts per 10,000 counts of the spot."),
    ("Interval", "Range that should hold the stated share of counts of a spot, if the tissue is like that of training."),
    ("Spots unlike training", "Their image is further from the training images than 99 % of spots of an unseen training section."),
    ("Values", "Maps and readings are rounded to 1/254 of the range of a gene. The exact values are in predictions.h5ad."),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownPrediction:
    """A prediction on its way into a page.

    Attributes
    ----------
    metrics
        ``metrics.json`` of `spam predict`.
    genes, spots
        ``var`` and ``obs`` of ``predictions.h5ad``.
    view
        Coordinates and image.
    packed
        Genes with maps: their values.
    layers
        Layers in these values: ``measured`` (if known), ``predicted``, ``lower`` and ``upper``.
    """

    metrics: Mapping[str, Any]
    genes: pd.DataFrame
    spots: pd.DataFrame
    view: SectionView
    packed: Mapping[str, PackedGene]
    layers: Sequence[str]

    @property
    def flags(self) -> dict[str, Bool[Array, " n_spots"]]:
        """Spots by tile flag; empty if quality was not measured."""
        columns = {flag: flag_column(flag) for flag in get_args(TileFlag)}
        return {
            flag: self.spots[name].to_numpy(dtype=bool)
            for flag, name in columns.items()
            if name in self.spots
        }


def prediction_content(prediction: ShownPrediction) -> dict[str, Any]:
    """Collect everything that the page of a prediction shows."""
    metrics, genes = prediction.metrics, prediction.genes
    packed = prediction.packed
    maps = viewer_maps(prediction.view, has_measured="measured" in prediction.layers)
    numbers = [key for key, (_, column, _) in _COLUMNS.items() if column in genes]
    n_left = len(genes) - len(packed)
    note = f"Maps of all {len(packed)} genes."
    if n_left:
        note = f"Maps of {len(packed)} genes: those asked for, and the best predicted on held-out spots. "
        note += f"The maps of {n_left} others were left out to keep the file small."
    titles = {"image": "H&E", "measured": "Measured", "predicted": "Predicted"}
    page = {**_page(prediction), "bokeh": maps, "numbers": numbers}
    return {
        "title": f"Section {metrics['section']}",
        "kind": "Predicted gene expression",
        "verdict": metrics["in_words"],
        "warnings": [n.removeprefix(_WARNING) for n in metrics["notes"] if n.startswith(_WARNING)],
        "notes": [n for n in metrics["notes"] if not n.startswith(_WARNING)],
        "facts": list(_facts(metrics)),
        "viewer": {
            "page": pack(json.dumps(page, allow_nan=False).encode()),
            "genes": [gene.values for gene in packed.values()],
        },
        "genes_note": note,
        "example": next(iter(packed)),
        "trust_words": [*(word for _, word, _ in _TRUST), _NOT, _UNKNOWN],
        "columns": [
            {"key": "gene", "title": "gene", "help": "name"},
            {"key": "trust", "title": "trust", "help": "accuracy on held-out spots of training, in words"},
            *(
                {"key": key, "title": _COLUMNS[key][0], "help": _COLUMNS[key][2], "is_number": True}
                for key in numbers
            ),
        ],
        "palette": palette_stops(),
        "unit": UNIT,
        "n_unlike": len(prediction.view.unlike),
        "maps": [{"id": root, "name": name, "title": titles[name]} for name, root in maps["maps"].items()],
        "scores": _scores(metrics),
        "curves": list(_curves(metrics)),
        "health": _health(metrics),
        "quality": _quality(prediction.flags),
        "inputs": list(_inputs(metrics)),
        "reading": _READING,
        "footer": _FOOTER.format(metrics["provenance"]["software"]["spam-st"]),
    }


def _page(prediction: ShownPrediction) -> dict[str, Any]:
    """Collect what ``report.js`` reads."""
    place = {gene: i for i, gene in enumerate(prediction.packed)}
    rows: list[dict[str, Any]] = []
    for row in _gene_rows(prediction.genes, prediction.metrics):
        gene = prediction.packed.get(row["gene"])
        limits = {} if gene is None else {"limits": gene.limits, "colours": gene.colours}
        rows.append({**row, **limits, "map": place.get(row["gene"]), "row": len(rows)})
    unit = prediction.view.mpp or 1.0
    x, y = np.round(prediction.view.xy_px.T * unit, 2).tolist()
    return {
        "coverage": f"{prediction.metrics['coverage']:.0%}",
        "genes": rows,
        "kinds": {word: kind for _, word, kind in _TRUST} | {_NOT: "", _UNKNOWN: ""},
        "layers": list(prediction.layers),
        "spots": {
            "ids": prediction.spots.index.astype(str).tolist(),
            "x": x,
            "y": y,
            "radius": prediction.view.diameter_px / 2 * unit,
            "unlike": prediction.view.unlike.tolist(),
            "flags": {name: np.flatnonzero(values).tolist() for name, values in prediction.flags.items()},
        },
        "unit": UNIT,
    }


def _gene_rows(genes: pd.DataFrame, metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Say of each gene how far to trust it, in words and numbers."""
    is_unlike = metrics["is_mostly_unlike"]
    for gene, row in genes.iterrows():
        r, q = (
            round(float(row["heldout_pearson"]), 2),
            float(row["heldout_q"]),
        )  # the words fit the r that is shown
        numbers = f"Held-out spots: r = {shown(r, digits=2)}"
        numbers += f", false-discovery rate {q:.2g}." if math.isfinite(q) else "."
        if is_unlike or not math.isfinite(r):
            word = _UNKNOWN
            why = (
                "Most spots are unlike the training sections." if is_unlike else "It was not measured there."
            )
        elif not row["is_predictable"]:
            word, why = _NOT, "No better than chance."
        else:
            word, why = next(word for least, word, _ in _TRUST if r >= least), "Better than chance."
        values = {key: _finite(row.get(column)) for key, (_, column, _) in _COLUMNS.items()}
        yield {"gene": str(gene), "trust": word, "why": f"{why} {numbers}", **values}


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _facts(metrics: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Choose the numbers under the verdict."""
    n_spots, unlike = metrics["n_spots"], metrics["n_unlike"]
    yield {"label": "spots", "value": f"{n_spots}"}
    yield {
        "label": "genes better than chance",
        "value": f"{metrics['n_predictable']} of {metrics['n_genes']}",
    }
    if unlike is not None:
        yield {"label": "spots unlike training", "value": f"{unlike} ({unlike / n_spots:.0%})"}
    if "scores" in metrics:
        _, ((_, pearson, _, coverage), *_) = short_rows(_score_table(metrics), metrics["model"])
        yield {"label": f"mean r of {HEADLINE_SET}", "value": pearson}
        yield {"label": f"counts inside the {metrics['coverage']:.0%} interval", "value": coverage}


def _score_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(metrics["scores"]).astype({"value": float})


def _scores(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay out the scores beside those of the baselines."""
    if "scores" not in metrics:
        return None
    table = _score_table(metrics)
    is_hest = table["gene_set"] == HEST_SET
    head, rows = short_rows(table, metrics["model"])
    return {
        "short": {"head": head, "rows": rows},
        "caption": f"The {HEADLINE_SET} genes vary most between spots of training; all scores are in scores.md",
        "note": f"{(metrics['verdict'] or {}).get('sentence') or 'No verdict: ' + metrics['no_verdict']}.",
        "full": [
            _full("All scores", f"log1p(CP10k), mean over genes. {NO_LEVEL}", table[~is_hest]),
            _full(
                "Scores as in HEST", "log1p(raw counts), which includes the depth of a spot", table[is_hest]
            ),
        ],
    }


def _full(title: str, caption: str, scores: pd.DataFrame, value: str = "value") -> dict[str, Any]:
    head, rows = board_rows(scores, value)
    return {"title": title, "caption": caption, "head": head, "rows": rows}


def _curves(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Lay out the curves of the run that chose the number of epochs."""
    history = metrics["training"].get("history", [])
    for name, title in _CURVES.items():
        points = [(int(epoch["epoch"]), epoch[name]) for epoch in history if epoch.get(name) is not None]
        if len(points) > 1:
            yield curve(title, points, kept=metrics["provenance"]["epoch"])


def _health(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay out the health check of stage 1."""
    health = metrics["training"].get("health")
    if health is None:
        return None
    head = ["image with", "loss", "at chance", "found among the first", "at chance", "effective rank"]
    rows = [
        [
            {"coord": "neighbourhood", "gene": "expression"}.get(pair["pair"], pair["pair"]),
            f"{pair['loss']:.2f}",
            f"{pair['ln_batch']:.2f}",
            f"{pair['recall']:.0%} (first {pair['k']})",
            f"{pair['chance']:.0%}",
            f"{pair['image_rank']:.0f} of {pair['dim']}",
        ]
        for pair in health["pairs"]
    ]
    verdict = health["verdict"][0].upper() + health["verdict"][1:]
    return {"verdict": f"{verdict}.", "has_worked": health["has_worked"], "head": head, "rows": rows}


def _quality(flags: Mapping[str, Bool[Array, " n_spots"]]) -> dict[str, Any] | None:
    """Count the spots with each flag; None if quality was not measured."""
    rows = [[name, f"{int(values.sum())}", f"{values.mean():.1%}"] for name, values in flags.items()]
    return {"head": ["tile", "spots", "share"], "rows": rows} if rows else None


def _inputs(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """List what went into the prediction."""
    of, made = metrics["inputs"], metrics["provenance"]
    unknown = "unknown"
    yield "Section", f"{metrics['section']}, donor {of['donor'] or unknown}"
    mpp = unknown if of["mpp"] is None else f"{of['mpp']:g} (from the {of['mpp_source']})"
    yield "µm per pixel of the slide", mpp
    yield "Licence of the section", of["licence"] or unknown
    yield "Files of the section", ", ".join(source["name"] for source in of["sources"]) or unknown
    features = (f"{key} (licence {licence or unknown})" for key, licence in of["feature_licences"].items())
    yield "Features", ", ".join(features)
    for name, weights in made["encoders"].items():
        yield "Encoder", f"{name}, weights {weights[:12]}"
    yield (
        "Checkpoint",
        f"{made['checkpoint_sha256'][:12]}, epoch {made['epoch']}, likelihood {made['likelihood']}",
    )
    yield "Trained on", ", ".join(made["trained_on"])
    yield "Accuracy measured on", ", ".join(made["validated_on"])
    yield (
        "Intervals",
        f"{metrics['coverage']:.0%} of counts of a spot of {metrics['depth']:.0f} counts",
    )
    yield "Options", _given(metrics["config"])
    yield "Software", ", ".join(f"{name} {version}" for name, version in made["software"].items())


def _given(config: Mapping[str, Any]) -> str:
    """List options by their flags, for a reader."""
    words = []
    for name, value in config.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None and value != []:
            words.append(f"--{option} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return ", ".join(words)


def benchmark_content(benchmark: Mapping[str, Any], chart: str | None) -> dict[str, Any]:
    """Collect everything that the page of a benchmark shows.

    Parameters
    ----------
    benchmark
        ``benchmark.json`` of `spam benchmark`.
    chart
        Address of the figure of the scores.
    """
    table = pd.DataFrame(benchmark["summaries"]).astype({"mean": float})
    is_model = ~table["is_reference"].astype(bool)
    best = table[is_model & (table["gene_set"] == HEADLINE_SET) & (table["score"] == "pearson")]
    model = str(best.sort_values("mean", ascending=False)["method"].iloc[0]) if len(best) else RIVAL
    head, rows = short_rows(table, model, value="mean")
    sets = [_full(f"All scores, {name}", NO_LEVEL, own, "mean") for name, own in table.groupby("gene_set")]
    unit, features = benchmark["unit"], benchmark["features"]
    failures = [f"{run['method']} failed in {run['fold']}: {run['failure']}" for run in benchmark["failures"]]
    folds = (f"{fold['name']} (trained on {', '.join(fold['train'])})" for fold in benchmark["folds"])
    return {
        "title": "Benchmark",
        "kind": "Cross-validation",
        "verdict": ". ".join([*benchmark["verdicts"], ""]).strip() or "No verdict: only baselines were run.",
        "warnings": failures,
        "notes": benchmark["leakage"],
        "facts": [
            {"label": "folds", "value": f"{len(benchmark['folds'])}"},
            {"label": "methods", "value": f"{table['method'].nunique()}"},
            {"label": "intervals over", "value": unit},
        ],
        "scores": {
            "short": {"head": head, "rows": rows},
            "caption": f"The {HEADLINE_SET} genes vary most between spots of training; mean over {unit}",
            "note": "All numbers are in benchmark.json, with intervals and paired differences in benchmark.md.",
            "full": sets,
        },
        "image": chart,
        "image_text": f"Mean Pearson r of each method, with its interval over {unit}; the same numbers are in the tables",
        "inputs": [
            ("Tested", "; ".join(folds)),
            ("Features", ", ".join(features["keys"])),
            ("Data", benchmark["data_sha256"][:12]),
            ("Options", _given(benchmark["config"])),
            ("Software", ", ".join(f"{name} {version}" for name, version in benchmark["software"].items())),
        ],
        "footer": _FOOTER.format(benchmark["software"]["spam-st"]),
    }
