"""Annotations of the spots become plain arrays."""

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spam.errors import SectionError
from spam.sections.h5ad import annotations, read_h5ad, spatial_library


def test_text_numbers_and_booleans_become_plain_arrays(tmp_path):
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(["tumour", None, "stroma"]),
            "cluster": pd.Categorical([7, 3, 7]),
            "note": ["a", "", "c"],
            "row": np.array([2, 3, 5], dtype=np.int16),
            "score": [0.5, np.nan, -1.0],
            "is_edge": [True, False, True],
            "rank": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "section": ["S", "S", "S"],
            "patient": ["P", "P", "P"],
            "donor": ["P", "P", "P"],
        },
        index=["a", "b", "c"],
    )
    path = tmp_path / "x.h5ad"
    AnnData(obs=obs).write_h5ad(path)
    found = annotations(read_h5ad(path))
    expected = {
        "label": np.array(["tumour", "", "stroma"]),
        "cluster": np.array([7, 3, 7]),
        "note": np.array(["a", "", "c"]),
        "row": np.array([2, 3, 5], dtype=np.int16),
        "score": np.array([0.5, np.nan, -1.0]),
        "is_edge": np.array([True, False, True]),
        "rank": np.array([1.0, np.nan, 3.0]),
        "flag": np.array([1.0, np.nan, 0.0]),
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype.kind == values.dtype.kind, name


def test_a_column_of_anything_else_is_left_out():
    adata = AnnData(obs=pd.DataFrame({"mixed": ["a", 1], "kept": [2, 3]}, index=["a", "b"]))
    assert list(annotations(adata)) == ["kept"]


def test_a_spatial_entry_that_is_no_mapping_knows_nothing():
    assert spatial_library(AnnData(uns={"spatial": {"S": 1}}), "S") == {}
    assert spatial_library(AnnData(uns={"spatial": 3}), "S") == {}
    assert spatial_library(AnnData(), "S") == {}


@pytest.mark.filterwarnings("ignore:Element .* was written without encoding")
def test_an_hdf5_file_that_is_no_anndata(tmp_path):
    path = tmp_path / "other.h5ad"
    with h5py.File(path, "w") as file:
        file["values"] = np.arange(3)
    with pytest.raises(SectionError, match=r"other\.h5ad"):
        read_h5ad(path)


def test_a_truncated_file(lab):
    lab.write_h5ad()
    lab.h5ad.write_bytes(lab.h5ad.read_bytes()[:1003])
    with pytest.raises(SectionError, match="cannot be read as an AnnData file"):
        read_h5ad(lab.h5ad)


def test_no_spots(lab):
    lab.write_h5ad(ids=[], x=np.zeros((0, 3)))
    with pytest.raises(SectionError, match=r"holds no spots \(obs is empty\)"):
        read_h5ad(lab.h5ad)
