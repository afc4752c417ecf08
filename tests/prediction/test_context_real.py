"""What a panel, and measured spots, say of the rest on real sections; images are left out, so that nothing is trained."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy.spatial import cKDTree

from spam.models.expression import log1p_cp10k
from spam.models.linear import pearson_per_gene
from spam.prediction.kriging import krige
from spam.prediction.panel import Bank, normalised_panel, predict_from_panel

N_PANEL, N_GENES = 50, 300
Sections = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def sections(shared_data: Path) -> Sections:
    """Expression, counts and coordinates of C3 to C6: the genes most variable in C3 to C5, in random order."""
    read = [anndata.read_h5ad(shared_data / "her2st" / f"C{i}.h5ad") for i in (3, 4, 5, 6)]
    shared = sorted(set.intersection(*(set(adata.var_names) for adata in read)))
    totals = [np.asarray(adata.X.sum(axis=1), dtype=float).ravel() for adata in read]
    counts = [adata[:, shared].X for adata in read]
    expression = [log1p_cp10k(x, n) for x, n in zip(counts, totals, strict=True)]
    variable = np.argsort(-np.concatenate(expression[:3]).var(axis=0))[:N_GENES]
    chosen = np.random.default_rng(0).permutation(variable)
    return [
        (e[:, chosen], x[:, chosen].toarray(), adata.obsm["spatial"].astype(float))
        for e, x, adata in zip(expression, counts, read, strict=True)
    ]


def test_a_panel_tells_of_other_genes(sections: Sections) -> None:
    *known, (truth, counts, _) = sections
    means = np.stack([expression.mean(axis=0) for expression, _, _ in known])
    tensors = {
        "bank.section": np.repeat(np.arange(3, dtype=np.int32), [len(e) for e, _, _ in known]),
        "bank.inputs": np.random.default_rng(1).normal(size=(sum(len(e) for e, _, _ in known), 5)),
        "bank.expression": np.concatenate([e - m for (e, _, _), m in zip(known, means, strict=True)]),
        "path.gene_mean": means.mean(axis=0),
    }
    bank, panel = Bank.without(tensors, -1), np.arange(N_PANEL)
    given = normalised_panel(counts[:, :N_PANEL], bank.panel_sum(panel))
    level = np.broadcast_to(bank.gene_mean[N_PANEL:], truth[:, N_PANEL:].shape)
    found = predict_from_panel(given, level, bank, panel, is_normalised=True)
    assert np.nanmean(pearson_per_gene(found.expression, truth[:, N_PANEL:])) > 0.3
    error = ((found.expression - truth[:, N_PANEL:]) ** 2).mean()
    assert error < 0.95 * ((level - truth[:, N_PANEL:]) ** 2).mean()


def test_kriging_is_better_than_the_nearest_measured_spots(sections: Sections) -> None:
    truth, _, xy = sections[-1]
    level = sections[0][0].mean(axis=0)
    is_measured = np.random.default_rng(0).random(len(xy)) < 0.5
    rows = np.flatnonzero(is_measured)
    found, field = krige(truth[rows] - level, rows, xy)
    nearest = truth[rows][cKDTree(xy[rows]).query(xy, k=4)[1]].mean(axis=1)
    assert field.share > 0

    def error(predicted: np.ndarray) -> float:
        return float(((predicted - truth)[~is_measured] ** 2).mean())

    assert error(level + found) < 0.95 * min(error(nearest), error(np.broadcast_to(level, truth.shape)))
    correlation = np.nanmean(pearson_per_gene((level + found)[~is_measured], truth[~is_measured]))
    assert correlation > np.nanmean(pearson_per_gene(nearest[~is_measured], truth[~is_measured]))
