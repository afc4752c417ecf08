"""`spam report`: a folder of results -> one HTML file with verdict, scores, maps of the genes, and what went in."""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from spam.atomic import write_text
from spam.errors import ConfigError, MissingInputError, SectionError
from spam.exports.exported_section import ExportedSection
from spam.progress import SILENT, Progress
from spam.reports import (
    NEEDED,
    PAGE,
    SEEN,
    GivenEntries,
    SectionView,
    ShownPrediction,
    benchmark_content,
    data_url,
    pack_genes,
    plot_expression_maps,
    prediction_content,
    render_page,
)
from spam.schemas.records import Record
from spam.schemas.report_config import PlotConfig, ReportConfig
from spam.typing import Array, Float32

_LAYERS = ("measured", "predicted", "lower", "upper")
_WHITE = 255
_MOST_CHARACTERS = 80  # of the name of a figure
_ROWS_AT_ONCE = 8192  # of a matrix of predictions; some of its columns are kept


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport(Record):
    """What `report` wrote: the page, its verdict, and a note on the genes that it shows."""

    file: Path
    verdict: str
    note: str

    def summary(self) -> str:
        """Return the verdict, and where the page is."""
        return f"{self.verdict}\n{self.note}\nreport: {self.file} ({self.file.stat().st_size / 1e6:.1f} MB)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPlot(Record):
    """The figure that `plot` wrote, and its genes."""

    file: Path
    genes: tuple[str, ...]

    def summary(self) -> str:
        """Say what was drawn, and where."""
        return f"maps of {', '.join(self.genes)}: {self.file}"


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

    def given(self, genes: Sequence[str]) -> GivenEntries | None:
        """Mark what was given with ``--context-h5ad``, and what is scored; None if no context was."""
        context = self.metrics["context"]
        if context is None:
            return None
        spot = self.section.adata.obs["is_given"].to_numpy(dtype=bool)
        gene = self.genes.loc[list(genes), "is_given"].to_numpy(dtype=bool)
        shape = (len(spot), len(gene))
        is_scored = np.broadcast_to(~spot[:, None] if context["scored"] == "spots" else ~gene, shape)
        return GivenEntries(
            is_given=np.outer(spot, gene), is_scored=is_scored, note="outlined: given (--context-h5ad)"
        )


def view_of(section: ExportedSection) -> SectionView:
    """Describe a section for maps; only predictions know which spots are unlike the training sections."""
    overview, is_unlike = section.overview, section.adata.obs.get("is_out_of_distribution")
    if overview is not None and (overview[0] == _WHITE).all():  # a store without an image holds a white one
        overview = None
    return SectionView(
        name=section.name,
        xy_px=section.xy_px,
        mpp=section.mpp,
        overview=None if overview is None else overview[0],
        overview_scale=1.0 if overview is None else overview[1],
        is_unlike=None if is_unlike is None else is_unlike.to_numpy(dtype=bool),
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
        for key in NEEDED:
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
    """Write the results of `spam predict` or `spam benchmark` as one HTML file, without computing them again.

    Where the file cannot hold the maps of all genes, it holds ``config.genes`` and then those with the highest accuracy on
    held-out spots of training.

    Raises
    ------
    MissingInputError, SectionError
        If the folder does not hold results.
    ConfigError
        If a gene is not among the predicted ones.
    """
    folder = config.results
    assert folder is not None  # checked by ReportConfig
    if (folder / "benchmark.json").is_file():
        chart = folder / "scores.png"
        image = data_url("png", chart.read_bytes()) if chart.is_file() else None
        if config.genes:
            message = (
                f"--genes shows maps of a prediction, but {str(folder)!r} holds a benchmark. Leave it out."
            )
            raise ConfigError(message)
        try:
            content = benchmark_content(
                json.loads((folder / "benchmark.json").read_text(encoding="utf-8")), image
            )
        except (KeyError, ValueError, TypeError) as error:
            message = f"{str(folder)!r} does not hold results of this version of spam benchmark ({error}). Run it again."
            raise SectionError(message) from error
        note = "scores of all methods"
    else:
        saved = read_prediction(folder)
        check_genes(config.genes, saved.genes.index, "--genes")
        order = np.argsort(-saved.genes["heldout_pearson"].to_numpy(), kind="stable")  # NaN last
        ranked = list(dict.fromkeys([*config.genes, *saved.genes.index[order]]))
        packed = pack_genes(saved.values, ranked, len(set(config.genes)))
        content = prediction_content(
            ShownPrediction(
                metrics=saved.metrics,
                genes=saved.genes,
                spots=saved.section.adata.obs,
                view=view_of(saved.section),
                packed=packed,
                layers=saved.layers,
            )
        )
        note = f"maps of {len(packed)} of {len(saved.genes)} genes"
    path = config.out or folder / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_page(content))
    return WrittenReport(file=path, verdict=content["verdict"], note=note)


def plot(config: PlotConfig, *, progress: Progress = SILENT) -> WrittenPlot:
    """Draw genes of a prediction over the H&E as a PNG, measured and predicted, without predicting again.

    Raises
    ------
    MissingInputError, SectionError
        If the folder does not hold results.
    ConfigError
        If a gene is not among the predicted ones.
    """
    assert config.results is not None  # checked by PlotConfig
    saved = read_prediction(config.results)
    check_genes(config.gene, saved.genes.index, "--gene")
    genes = tuple(dict.fromkeys(config.gene))
    values = saved.values(genes)
    whole = "-".join(genes)
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", whole)[:_MOST_CHARACTERS]
    if name != whole:  # other genes may have the same name after this
        name += f"-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    path = config.out or config.results / "plots" / "genes" / f"{name}.png"
    plot_expression_maps(
        view_of(saved.section),
        genes,
        values["predicted"],
        values.get("measured"),
        saved.given(config.gene),
        path=path,
        choice="" if saved.metrics["training_section"] is None else SEEN,
    )
    return WrittenPlot(file=path, genes=genes)


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
