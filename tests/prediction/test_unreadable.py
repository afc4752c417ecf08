"""Prediction of a section with tiles that could not be read."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from cohorts import add_section
from quality_arrays import add_quality, good_measures

from spam.predicting import predict
from spam.prediction import Predictor
from spam.schemas.predict_config import PredictConfig
from spam.schemas.tile_spec import MEASURES
from spam.store import open_store

UNREADABLE = (2, 19, 42)
KEPT = np.delete(np.arange(43), UNREADABLE)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """S4 with three tiles that could not be read, and without their spots."""
    folder = tmp_path_factory.mktemp("stores")
    add_section(folder / "whole.zarr", "S4", seed=3, n_spots=43, unreadable=UNREADABLE)
    add_section(folder / "partial.zarr", "S4", seed=3, n_spots=43, order=KEPT)
    return {"whole": folder / "whole.zarr", "partial": folder / "partial.zarr"}


@pytest.fixture(scope="module")
def results(
    stores: dict[str, Path], checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("results")
    for name, store in stores.items():
        report = predict(PredictConfig(store=store, ckpt=checkpoint, out_dir=out / name, formats=("csv",)))
        assert report.n_unreadable == (3 if name == "whole" else 0)
        says_so = "tiles of 3 of these spots could not be read" in report.summary()
        assert says_so == (name == "whole")
    return {name: out / name for name in stores}


def test_other_spots_get_what_they_get_without_them(stores: dict[str, Path], checkpoint: Path) -> None:
    predictor = Predictor.load(checkpoint, torch.device("cpu"))
    whole, partial = (predictor.predict(open_store(store).section("S4")) for store in stores.values())
    assert whole.ids.tolist() == [f"S4_{i}" for i in range(43)]
    assert np.flatnonzero(~whole.is_predicted).tolist() == list(UNREADABLE)
    for name in ("expression", "mu", "pi", "lower", "upper"):
        assert np.isnan(getattr(whole, name)[list(UNREADABLE)]).all(), name
        np.testing.assert_array_equal(getattr(whole, name)[KEPT], getattr(partial, name), err_msg=name)
    for name, values in whole.baselines.items():
        np.testing.assert_array_equal(values[KEPT], partial.baselines[name], err_msg=name)
    np.testing.assert_array_equal(whole.bank_distance[KEPT], partial.bank_distance)
    assert not whole.is_out_of_distribution[list(UNREADABLE)].any()
    rest = whole.of_spots(whole.is_predicted)
    np.testing.assert_array_equal(rest.bank_distance, partial.bank_distance)
    np.testing.assert_array_equal(rest.ids, partial.ids)
    np.testing.assert_array_equal(rest.xy_px, partial.xy_px)
    assert {name: values.any() for name, values in rest.flags.items()} == dict.fromkeys(whole.flags, False)


def test_files_say_which_spots_these_are(results: dict[str, Path]) -> None:
    found = anndata.read_h5ad(results["whole"] / "predictions.h5ad")
    columns = ["tile_unreadable", "tile_blank", "tile_pen", "tile_blurred"]
    reliability = ["bank_distance", "is_out_of_distribution"]
    assert list(found.obs.columns) == ["section", "donor", *columns, *reliability]
    assert np.flatnonzero(np.isnan(found.obs["bank_distance"])).tolist() == list(UNREADABLE)
    assert np.flatnonzero(found.obs["tile_unreadable"]).tolist() == list(UNREADABLE)
    assert np.flatnonzero(np.isnan(found.X).all(axis=1)).tolist() == list(UNREADABLE)
    table = pd.read_csv(results["whole"] / "predictions.csv", index_col=0)
    assert list(table.columns) == [*found.var_names, *reliability, *columns]
    assert table["tile_unreadable"].dtype == bool
    assert np.flatnonzero(table[found.var_names].isna().all(axis=1)).tolist() == list(UNREADABLE)
    partial = anndata.read_h5ad(results["partial"] / "predictions.h5ad")
    assert list(partial.obs.columns) == ["section", "donor", *reliability]


def test_scores_are_those_of_the_other_spots(results: dict[str, Path]) -> None:
    whole, partial = (
        json.loads((results[name] / "metrics.json").read_text()) for name in ("whole", "partial")
    )
    assert (whole["n_unreadable"], partial["n_unreadable"]) == (3, 0)
    assert whole["honest"] == partial["honest"]
    assert whole["hest"] == partial["hest"]
    genes = [(results[name] / "genes.csv").read_text() for name in ("whole", "partial")]
    assert genes[0] == genes[1]
    for plot in ("pcc_histogram.png", "scatter.png"):
        a, b = ((results[name] / "plots" / plot).read_bytes() for name in ("whole", "partial"))
        assert a == b, plot


def test_flags_other_than_unreadable_change_no_prediction(
    stores: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    add_section(tmp_path / "a.zarr", "S4", seed=3, n_spots=43)
    add_section(tmp_path / "b.zarr", "S4", seed=3, n_spots=43)
    section = open_store(tmp_path / "b.zarr", is_read_only=False).section("S4")
    measures = good_measures(43)
    measures[5, MEASURES.index("pen")] = 0.9
    add_quality(section, "tiny_112um", measures)
    predictor = Predictor.load(checkpoint, torch.device("cpu"))
    a, b = (predictor.predict(open_store(tmp_path / f"{name}.zarr").section("S4")) for name in "ab")
    np.testing.assert_array_equal(a.expression, b.expression)
    assert not a.flags
    assert np.flatnonzero(b.flags["pen"]).tolist() == [5]
