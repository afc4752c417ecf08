"""`spam report`: a folder of results -> one HTML file with verdict, scores, maps of the genes, and what went in."""

import dataclasses
import difflib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from spam.atomic import replacing
from spam.errors import ConfigError, MissingInputError, SectionError
from spam.evaluation.boards import HEADLINE_SET, HEST_SET, NO_LEVEL, board_rows, short_rows, shown
from spam.exports.exported_section import ExportedSection
from spam.progress import SILENT, Progress
from spam.reports import SectionView
from spam.reports.gene_viewer import n_genes_that_fit, pack, pack_gene, palette_stops, viewer_maps
from spam.reports.report_page import curve, render_page
from spam.reports.score_charts import UNIT
from spam.schemas.config import Record
from spam.schemas.report_config import ReportConfig
from spam.schemas.tile_spec import TileFlag, flag_column
from spam.typing import Array, Float32

PAGE = "report.html"
_WARNING = "WARNING: "
_LAYERS = ("measured", "predicted", "lower", "upper")
_ROWS_AT_ONCE = 8192  # of a matrix of predictions; some of its columns are kept
# Least held-out Pearson r of a gene that is predicted better than by chance, the word for it, and how it is shown.
_TRUST = ((0.5, "good", "good"), (0.3, "fair", "fair"), (-1.0, "weak", "weak"))
_NOT, _UNKNOWN = "not predictable", "unknown"
_COLUMNS = {
    "heldout_r": ("r", "heldout_pearson", "Pearson r on held-out spots of training"),
    "section_r": ("r here", "section_pearson", "Pearson r on this section"),
}
_FLAGS = tuple(flag_column(flag) for flag in get_args(TileFlag))
_CURVES = {
    "val_pearson": "Pearson r on held-out spots",
    "val_nll": "Negative log-likelihood on held-out spots",
    "loss": "Training loss",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport(Record):
    """What `report` wrote.

    Attributes
    ----------
    file
        The page.
    verdict
        Its first sentence.
    n_shown, n_genes
        Genes with maps in the page, and all of them.
    """

    file: Path
    verdict: str
    n_shown: int
    n_genes: int

    def summary(self) -> str:
        """Return the verdict, and where the page is."""
        size = f"{self.file.stat().st_size / 1e6:.1f} MB"
        return f"{self.verdict}\nreport: {self.file} ({size}, maps of {self.n_shown} of {self.n_genes} genes)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SavedPrediction:
    """The results of `spam predict`, read from their folder.

    Attributes
    ----------
    path
        ``predictions.h5ad``.
    section
        Spots, genes, coordinates and image, without values.
    metrics
        ``metrics.json``.
    layers
        Which of ``measured``, ``predicted``, ``lower`` and ``upper`` there are.
    """

    path: Path
    section: ExportedSection
    metrics: Mapping[str, Any]
    layers: tuple[str, ...]

    @property
    def genes(self) -> pd.DataFrame:
        """One row per gene: ``heldout_pearson``, ``is_predictable`` and, with counts, its scores on this section."""
        return self.section.adata.var

    def values(self, genes: Sequence[str]) -> dict[str, Float32[Array, "n_spots n_genes"]]:
        """Read some genes of every layer."""
        columns = self.genes.index.get_indexer(list(genes))
        order, back = np.unique(columns, return_inverse=True)
        found: dict[str, Array] = {}
        with h5py.File(self.path) as file:
            for layer in self.layers:
                matrix = file["X" if layer == "predicted" else f"layers/{layer}"]
                starts = range(0, matrix.shape[0], _ROWS_AT_ONCE)
                parts = [matrix[start : start + _ROWS_AT_ONCE][:, order] for start in starts]
                found[layer] = np.concatenate(parts)[:, back]
        return found

    def view(self) -> SectionView:
        """Describe the section for maps."""
        overview = self.section.overview
        return SectionView(
            name=self.section.name,
            xy_px=self.section.xy_px,
            mpp=self.section.mpp,
            overview=None if overview is None else overview[0],
            overview_scale=1.0 if overview is None else overview[1],
        )


def read_prediction(folder: Path) -> SavedPrediction:
    """Read a folder of `spam predict`; the values of genes stay in the file.

    Raises
    ------
    MissingInputError
        If the folder lacks ``predictions.h5ad`` or ``metrics.json``.
    SectionError
        If these are not files of `spam predict`.
    """
    path, about = folder / "predictions.h5ad", folder / "metrics.json"
    if missing := [file.name for file in (path, about) if not file.is_file()]:
        message = f"{str(folder)!r} has no {' and no '.join(missing)}. Write it with: spam predict --out-dir {folder} ..."
        raise MissingInputError(message)
    try:
        metrics = json.loads(about.read_text(encoding="utf-8"))
        with h5py.File(path) as file:
            parts = {name: read_elem(file[name]) for name in ("obs", "var", "obsm", "uns")}
            known = {"predicted", *(name for name in _LAYERS if name in file["layers"])}
        adata = anndata.AnnData(**parts)
        section = ExportedSection(name=str(metrics["section"]), adata=adata)
        for key in ("notes", "in_words", "provenance", "inputs", "training"):
            metrics[key]
        section.xy_px  # noqa: B018  refuses a file without coordinates here
    except (KeyError, ValueError, TypeError, OSError) as error:
        message = (
            f"{str(folder)!r} does not hold results of this version of spam predict ({error}). Predict again."
        )
        raise SectionError(message) from error
    return SavedPrediction(
        path=path, section=section, metrics=metrics, layers=tuple(name for name in _LAYERS if name in known)
    )


def report(config: ReportConfig, *, progress: Progress = SILENT) -> WrittenReport:
    """Write a folder of results as one HTML file, without predicting again.

    Where the file cannot hold the maps of all genes, it holds ``config.genes`` and then those with the highest accuracy on
    held-out spots of training.

    Raises
    ------
    MissingInputError, SectionError
        If the folder does not hold results.
    ConfigError
        If a gene is not among the predicted ones.
    """
    assert config.results is not None  # checked by ReportConfig
    saved = read_prediction(config.results)
    genes = choose_genes(saved, config.genes)
    content = _page(saved, genes, progress)
    path = config.out or config.results / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(render_page(content), encoding="utf-8")
    return WrittenReport(
        file=path, verdict=saved.metrics["in_words"], n_shown=len(genes), n_genes=len(saved.genes)
    )


def check_genes(wanted: Sequence[str], known: Collection[str], flag: str) -> None:
    """Refuse genes that were not predicted, with the most similar names that were.

    Raises
    ------
    ConfigError
        If there is one.
    """
    if absent := [gene for gene in wanted if gene not in known]:
        upper = {name.upper(): name for name in known}
        near = difflib.get_close_matches(absent[0].upper(), upper, n=3)
        similar = f" Did you mean {', '.join(upper[name] for name in near)}?" if near else ""
        message = f"{flag} {','.join(absent)}: not among the {len(known)} predicted genes.{similar}"
        raise ConfigError(message)


def choose_genes(saved: SavedPrediction, wanted: Sequence[str]) -> list[str]:
    """Choose the genes that fit into a page: the wanted ones, then the best predicted on held-out spots."""
    check_genes(wanted, saved.genes.index, "--genes")
    order = np.argsort(-saved.genes["heldout_pearson"].to_numpy(), kind="stable")  # NaN last
    ranked = dict.fromkeys([*wanted, *saved.genes.index[order]])
    return list(ranked)[: max(len(wanted), n_genes_that_fit(saved.section.adata.n_obs, len(saved.layers)))]


def _page(saved: SavedPrediction, genes: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Collect everything that a page shows."""
    metrics, view = saved.metrics, saved.view()
    diameter_px = view.spot_diameter_px()
    maps = viewer_maps(view, diameter_px, has_measured="measured" in saved.layers)
    packed: list[str] = []
    shown_of: dict[str, dict[str, Any]] = {}
    values = saved.values(genes)
    with progress.task("report", len(genes)) as advance:
        for column, gene in enumerate(genes):
            one = pack_gene({layer: values[layer][:, column] for layer in saved.layers})
            shown_of[gene] = {"map": len(packed), "limits": one.limits, "colours": one.colours}
            packed.append(one.values)
            advance()
    unit = view.mpp or 1.0
    spots = saved.section.adata.obs
    is_unlike = spots["is_out_of_distribution"].to_numpy(dtype=bool)
    flags = {name.removeprefix("tile_"): spots[name].to_numpy(dtype=bool) for name in spots if name in _FLAGS}
    rows = [
        {**row, **shown_of.get(row["gene"], {"map": None}), "row": i}
        for i, row in enumerate(_gene_rows(saved))
    ]
    numbers = [key for key, (_, column, _) in _COLUMNS.items() if column in saved.genes]
    coverage = f"{float(saved.section.adata.uns['spam']['coverage']):.0%}"
    page = {
        "bokeh": maps,
        "coverage": coverage,
        "genes": rows,
        "kinds": {word: kind for _, word, kind in _TRUST} | {_NOT: "", _UNKNOWN: ""},
        "layers": saved.layers,
        "numbers": numbers,
        "spots": {
            "ids": spots.index.astype(str).tolist(),
            "x": np.round(saved.section.xy_px[:, 0] * unit, 2).tolist(),
            "y": np.round(saved.section.xy_px[:, 1] * unit, 2).tolist(),
            "radius": diameter_px / 2 * unit,
            "unlike": np.flatnonzero(is_unlike).tolist(),
            "flags": {name: np.flatnonzero(values).tolist() for name, values in flags.items()},
        },
        "unit": UNIT,
    }
    titles = {"image": "H&E", "measured": "Measured", "predicted": "Predicted"}
    n_left = len(saved.genes) - len(genes)
    left = f" The maps of {n_left} others were left out to keep the file small." if n_left else ""
    columns = [
        {"key": "gene", "title": "gene", "help": "name"},
        {"key": "trust", "title": "trust", "help": "accuracy on held-out spots of training, in words"},
        *(
            {"key": key, "title": _COLUMNS[key][0], "help": _COLUMNS[key][2], "is_number": True}
            for key in numbers
        ),
    ]
    return {
        "title": f"Section {saved.section.name}",
        "kind": "Predicted gene expression",
        "verdict": metrics["in_words"],
        "warnings": [n.removeprefix(_WARNING) for n in metrics["notes"] if n.startswith(_WARNING)],
        "notes": [n for n in metrics["notes"] if not n.startswith(_WARNING)],
        "facts": list(_facts(saved)),
        "viewer": {"page": pack(json.dumps(page, allow_nan=False).encode()), "genes": packed},
        "genes_note": f"Maps of {len(genes)} genes, the best predicted on held-out spots first.{left}",
        "example": genes[0],
        "trust_words": [*(word for _, word, _ in _TRUST), _NOT, _UNKNOWN],
        "columns": columns,
        "palette": palette_stops(),
        "unit": UNIT,
        "n_unlike": int(is_unlike.sum()),
        "maps": [{"id": root, "name": name, "title": titles[name]} for name, root in maps["maps"].items()],
        "scores": _scores(metrics),
        "curves": list(_curves(metrics)),
        "health": _health(metrics),
        "quality": _quality(flags, len(spots)),
        "inputs": list(_inputs(saved)),
        "reading": _READING,
        "footer": f"Made by spam {metrics['provenance']['software'].get('spam-st', '')} from predictions.h5ad and metrics.json.",
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


def _gene_rows(saved: SavedPrediction) -> Iterator[dict[str, Any]]:
    """Say of each gene how far to trust it, in words and numbers."""
    genes, is_unlike = saved.genes, _is_mostly_unlike(saved.metrics)
    for gene, row in genes.iterrows():
        r, q = float(row["heldout_pearson"]), float(row["heldout_q"])
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


def _is_mostly_unlike(metrics: Mapping[str, Any]) -> bool:
    return 2 * (metrics["n_unlike"] or 0) > metrics["n_spots"] - metrics["n_unreadable"]


def _facts(saved: SavedPrediction) -> Iterator[dict[str, str]]:
    """Choose the numbers under the verdict."""
    metrics = saved.metrics
    n_spots, unlike = saved.section.adata.n_obs, metrics["n_unlike"]
    yield {"label": "spots", "value": f"{n_spots}"}
    yield {"label": "genes better than chance", "value": f"{metrics['n_predictable']} of {len(saved.genes)}"}
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


def _full(title: str, caption: str, scores: pd.DataFrame) -> dict[str, Any]:
    head, rows = board_rows(scores)
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


def _quality(flags: Mapping[str, Array], n_spots: int) -> dict[str, Any] | None:
    """Count the spots with each flag; None if quality was not measured."""
    rows = [[name, f"{int(values.sum())}", f"{values.mean():.1%}"] for name, values in flags.items()]
    return {"head": ["tile", "spots", f"of {n_spots}"], "rows": rows} if rows else None


def _inputs(saved: SavedPrediction) -> Iterator[tuple[str, str]]:
    """List what went into the prediction."""
    metrics, adata = saved.metrics, saved.section.adata
    of, made = metrics["inputs"], metrics["provenance"]
    unknown = "unknown"
    yield "Section", f"{saved.section.name}, donor {of['donor'] or unknown}"
    mpp = unknown if of["mpp"] is None else f"{of['mpp']:g} (from the {of['mpp_source']})"
    yield "µm per pixel of the slide", mpp
    yield "Licence of the section", of["licence"] or unknown
    yield "Files of the section", ", ".join(source["name"] for source in of["sources"]) or unknown
    features = (f"{key} (licence {licence or unknown})" for key, licence in of["feature_licences"].items())
    yield "Features", ", ".join(features)
    yield "Encoder", f"{made['encoder']}, weights {made['weights_sha256'][:12]}"
    yield (
        "Checkpoint",
        f"{made['checkpoint_sha256'][:12]}, epoch {made['epoch']}, likelihood {made['likelihood']}",
    )
    yield "Trained on", ", ".join(made["trained_on"])
    yield "Accuracy measured on", ", ".join(made["validated_on"])
    yield (
        "Intervals",
        f"{metrics['coverage']:.0%} of counts of a spot of {adata.uns['spam']['depth']:.0f} counts",
    )
    yield "Options", ", ".join(f"{name} {value}" for name, value in _given(metrics["config"]))
    yield "Software", ", ".join(f"{name} {version}" for name, version in made["software"].items())


def _given(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if value not in (None, [], False):
            yield (
                f"--{name.replace('_', '-')}",
                ",".join(map(str, value)) if isinstance(value, list) else value,
            )
