"""Maps and plots of a predicted section."""

from pathlib import Path

import numpy as np

from spam.evaluation import MODEL, BoardReport
from spam.models import log1p_cp10k
from spam.prediction import PredictedSection
from spam.reports import SectionView, plot_expression_maps, plot_pcc_histogram, plot_scatter
from spam.schemas.predict_config import PredictConfig
from spam.store import StoredSection

__all__ = ["draw"]

_N_DRAWN = 4


def draw(
    config: PredictConfig, section: StoredSection, predicted: PredictedSection, board: BoardReport | None
) -> list[Path]:
    """Draw maps, and with ground truth the histogram and the scatter plots."""
    assert config.out_dir is not None
    folder = config.out_dir / "plots"
    folder.mkdir(exist_ok=True)
    drawn = _choose_drawn(config, predicted, board)
    columns = [predicted.genes.index(gene) for gene in drawn]
    truth = None
    if board is not None:
        counts = section.counts()
        order = {str(gene): i for i, gene in enumerate(section.genes if section.genes is not None else ())}
        totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        measured = [gene for gene in drawn if gene in order]
        found = log1p_cp10k(counts[:, [order[gene] for gene in measured]], totals)
        truth = np.full(
            (section.n_spots, len(drawn)), np.nan, dtype=np.float32
        )  # unmeasured genes are drawn grey
        truth[:, [drawn.index(gene) for gene in measured]] = found
    overview = section.overview()
    view = SectionView(
        name=section.meta.name,
        xy_px=section.xy_px,
        mpp=section.meta.mpp,
        overview=None if overview is None else overview.image,
        overview_scale=1.0 if overview is None else overview.scale,
    )
    prediction = predicted.expression[:, columns]
    files = [plot_expression_maps(view, drawn, prediction, folder / "expression_maps.png", truth=truth)]
    if board is not None and truth is not None:
        table = board.gene_table()
        names = [column[: -len(".pearson")] for column in table.columns if column.endswith(".pearson")]
        files.append(
            plot_pcc_histogram(
                {name: table[f"{name}.pearson"].to_numpy() for name in names}, folder / "pcc_histogram.png"
            )
        )
        files.append(plot_scatter(truth, prediction, drawn, folder / "scatter.png"))
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
