"""A store of two sections, and predictions as `spam predict` writes them, of known values."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from cohorts import make_cohort

from spam.graphs import build_graphs
from spam.h5ad_output import write_h5ad
from spam.schemas.graph_config import GraphConfig

UNREADABLE = 4


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = make_cohort(tmp_path_factory.mktemp("export") / "s.zarr", 2)
    build_graphs(GraphConfig(store=store, sections=("S1",), k_spatial=5, k_features=3))
    return store


@pytest.fixture(scope="session")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Section P6: 23 spots x 29 genes, NaN at one spot, 0.5 µm per pixel, spots of 90 px; gene G7 is predicted best."""
    rng = np.random.default_rng(3)
    n, n_genes = 23, 29
    x = rng.gamma(2.0, 1.0, (n, n_genes)).astype(np.float32)
    x[UNREADABLE] = np.nan
    xy_px = np.stack(np.divmod(np.arange(n), 5), axis=1)[:, ::-1] * 200.0 + 130.25
    obs = {
        "label": np.array(["tumour", "", "stroma é"])[np.arange(n) % 3],
        "array_row": np.arange(n) // 5,
        "array_col": np.arange(n) % 5,
        "section": "P6",
        "library_id": pd.Categorical(["P6"] * n),
    }
    heldout = np.where(np.arange(n_genes) == 7, 0.9, np.linspace(0.3, -0.2, n_genes))
    heldout[0] = np.nan
    library = {
        "images": {"hires": rng.integers(0, 255, (61, 53, 3), dtype=np.uint8)},
        "scalefactors": {"tissue_hires_scalef": 0.05, "spot_diameter_fullres": 90.0},
    }
    adata = anndata.AnnData(
        X=x,
        obs=pd.DataFrame(obs, index=pd.Index([f"P6_{i}" for i in range(n)], name="spot_id")),
        var=pd.DataFrame({"heldout_pearson": heldout}, index=[f"G{i}" for i in range(n_genes)]),
        obsm={"spatial": xy_px, "spatial_um": xy_px * 0.5},
        uns={"spatial": {"P6": library}},
    )
    path = tmp_path_factory.mktemp("results") / "predictions.h5ad"
    write_h5ad(adata, path)
    return path
