"""Maps and plots of a predicted section."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spam.evaluation import MODEL, BoardReport
from spam.models import log1p_cp10k
from spam.prediction import Context, PredictedSection
from spam.reports import (
    GivenEntries,
    SectionView,
    plot_expression_maps,
    plot_pcc_histogram,
    plot_scatter,
)
from spam.schemas.predict_config import PredictConfig
from spam.store import StoredSection
from spam.typing import Array, Float32

__all__ = ["draw"]

_N_DRAWN = 4


def draw(
    config: PredictConfig,
    section: StoredSection,
    predicted: PredictedSection,
    board: BoardReport | None,
    context: Context | None = None,
) -> list[Path]:
    """Draw maps, and with ground truth the histogram and the scatter plots, which show what is scored.

    Entries that `context` has given are outlined on the maps.
    """
    assert config.out_dir is not None
    folder = config.out_dir / "plots"
    folder.mkdir(exist_ok=True)
    drawn = _choose_drawn(config, predicted, board)
    columns = [predicted.genes.index(gene) for gene in drawn]
    prediction = predicted.expression[:, columns]
    truth = None if board is None else _measured(section, drawn)
    maps = plot_expression_maps(
        _view_of(section),
        drawn,
        prediction,
        folder / "expression_maps.png",
        truth=truth,
        given=_given_entries(context, columns, has_scores=board is not None)
        if context is not None and context.is_given_spot.any()
        else None,
    )
    if board is None or truth is None:
        return [maps]
    table = board.gene_table()
    names = [column[: -len(".pearson")] for column in table.columns if column.endswith(".pearson")]
    scores = {name: table[f"{name}.pearson"].to_numpy() for name in names}
    files = [maps, plot_pcc_histogram(scores, folder / "pcc_histogram.png")]
    spots, genes = np.arange(section.n_spots), np.arange(len(drawn))
    if context is not None:
        spots, genes = np.flatnonzero(context.is_scored_spot), np.flatnonzero(context.is_scored_gene[columns])
    if len(genes):
        entries = np.ix_(spots, genes)
        shown = [drawn[gene] for gene in genes]
        files.append(plot_scatter(truth[entries], prediction[entries], shown, folder / "scatter.png"))
    return files


def _choose_drawn(config: PredictConfig, predicted: PredictedSection, board: BoardReport | None) -> list[str]:
    """Take the genes asked for, else the best predicted ones, else those predicted to vary most."""
    if config.plot_genes:
        return list(config.plot_genes)
    if board is not None:
        best = board.gene_table()[f"{MODEL}.pearson"].sort_values(ascending=False, kind="stable")
        return [str(gene) for gene in best.index[:_N_DRAWN]]
    order = np.argsort(-np.nanstd(predicted.expression, axis=0), kind="stable")
    return [predicted.genes[i] for i in order[:_N_DRAWN]]


def _measured(section: StoredSection, genes: Sequence[str]) -> Float32[Array, "n_spots n_genes"]:
    """Log1p(CP10k) of some genes; NaN for those that the section has not measured, which are drawn grey."""
    counts = section.counts()
    order = {str(gene): i for i, gene in enumerate(section.genes if section.genes is not None else ())}
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    known = [gene for gene in genes if gene in order]
    measured = np.full((section.n_spots, len(genes)), np.nan, dtype=np.float32)
    measured[:, [genes.index(gene) for gene in known]] = log1p_cp10k(
        counts[:, [order[gene] for gene in known]], totals
    )
    return measured


def _view_of(section: StoredSection) -> SectionView:
    """Take what maps show beside values."""
    overview = section.overview()
    return SectionView(
        name=section.meta.name,
        xy_px=section.xy_px,
        mpp=section.meta.mpp,
        overview=None if overview is None else overview.image,
        overview_scale=1.0 if overview is None else overview.scale,
    )


def _given_entries(context: Context, columns: Sequence[int], *, has_scores: bool) -> GivenEntries:
    """Mark what was given of the drawn genes, and what of them is scored."""
    is_given = np.outer(context.is_given_spot, context.is_given_gene[columns])
    is_scored = np.outer(context.is_scored_spot, context.is_scored_gene[columns])
    note = "outlined: given" if is_given.any() else "counts of other genes were given"
    note += " (--context-h5ad)"
    if has_scores and context.scores_spots:
        note += "; r of spots that were not given"
    return GivenEntries(is_given=is_given, is_scored=is_scored, note=note)
