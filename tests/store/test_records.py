import dataclasses

import numpy as np
import pytest
from scipy import sparse

from spam.errors import StoreError
from spam.store import Graph, Overview

FAULTS = {
    "empty name": ({"name": ""}, "name is empty"),
    "slash in the name": ({"name": "a/b"}, r"'a/b' cannot name a folder.*rename"),
    "escape in the name": ({"name": "D\x1b[31mX"}, r"'D\\x1b\[31mX' cannot name a folder.*format characters"),
    "C1 escape in the name": ({"name": "D\x9b31mX"}, r"'D\\x9b31mX' cannot name a folder"),
    "reversed name": ({"name": "C\u202e2"}, r"'C\\u202e2' cannot name a folder"),
    "no character in the name": ({"name": "C\udc802"}, r"'C\\udc802' cannot name a folder"),
    "hidden name": ({"name": ".C2"}, r"'\.C2' cannot name a folder"),
    "no spots": ({"n_spots": 0}, "at least one spot"),
    "ids too few": ({"ids": np.array(["a", "b"])}, r"ids must have the shape \(13,\), not \(2,\)"),
    "ids not strings": ({"ids": np.arange(13)}, "ids must be strings, not int64"),
    "ids twice": ({"ids": np.array(["a"] * 2 + list("bcdefghijkl"))}, r"each occur once; 1 occur again.*'a'"),
    "xy of another shape": ({"xy_px": np.zeros((13, 3))}, r"xy_px must be floats of shape \(13, 2\)"),
    "xy not float": ({"xy_px": np.zeros((13, 2), dtype=int)}, "xy_px must be floats.*int64"),
    "xy not finite": (
        {"xy_um": np.diag([1.0] * 12 + [np.nan])[:, -2:]},
        "xy_um must be finite; 1 rows.*row 12",
    ),
    "genes missing": ({"genes": None}, "counts and genes go together.*genes missing"),
    "counts unannounced": ({"has_counts": False, "counts": sparse.csr_matrix((13, 7))}, "has_counts=False"),
    "genes without counts": ({"has_counts": False}, "n_genes is 7 without counts"),
    "genes twice": ({"genes": np.array(list("abcdeff"))}, "genes must each occur once"),
    "dense counts": ({"counts": np.zeros((13, 7), int)}, "counts must be a SciPy CSR matrix, not ndarray"),
    "other sparse counts": ({"counts": sparse.csc_matrix((13, 7), dtype=int)}, "CSR matrix, not csc_matrix"),
    "counts not whole": ({"counts": sparse.csr_matrix(np.full((13, 7), 0.5))}, "whole numbers, not float64"),
    "negative counts": ({"counts": sparse.csr_matrix(np.full((13, 7), -1))}, "not negative"),
    "counts of another shape": (
        {"counts": sparse.csr_matrix((13, 5), dtype=int)},
        r"\(13, 7\), not \(13, 5\)",
    ),
    "counts too large": (
        {"counts": sparse.csr_matrix(np.full((13, 7), 2**31))},
        "fit int32, not reach 2147483648",
    ),
    "column too short": ({"obs": {"label": np.zeros(3)}}, r"'label' must have the shape \(13,\)"),
    "column of missing values": (
        {"obs": {"label": np.array([None] * 13)}},
        "'label' must hold.*write '' for",
    ),
    "a lock's name": ({"name": "C2.lock"}, "'C2.lock' cannot name a folder.*end with '.lock'"),
    "column name": ({"obs": {"_index": np.zeros(13)}}, "'_index' is a name that the store uses"),
}


@pytest.mark.parametrize(("changes", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(make_record, changes, message):
    with pytest.raises(StoreError, match=message):
        make_record(**changes)


def test_all_faults_are_reported_at_once(make_record):
    with pytest.raises(
        StoreError, match=r"section 'C2' cannot be stored: ids .*; xy_px .*; counts .*; obs column"
    ):
        make_record(ids=np.array(["a"]), xy_px=np.zeros((2, 2)), counts=np.zeros(3), obs={"q": np.zeros(1)})


@pytest.mark.parametrize(
    ("image", "scale", "message"),
    [
        (np.zeros((5, 3), np.uint8), 0.5, r"image must be uint8 \(height, width, 3\)"),
        (np.zeros((5, 7, 4), np.uint8), 0.5, r"\(5, 7, 4\)"),
        (np.zeros((5, 7, 3)), 0.5, "float64"),
        (np.zeros((0, 7, 3), np.uint8), 0.5, r"\(0, 7, 3\)"),
        (np.zeros((5, 7, 3), np.uint8), 0.0, "scale must be a positive number"),
        (np.zeros((5, 7, 3), np.uint8), np.nan, "scale must be a positive number"),
        (np.zeros((5, 7)), -1.0, "image.*; the scale"),
    ],
)
def test_an_overview_is_an_image_with_a_scale(image, scale, message):
    with pytest.raises(StoreError, match=message):
        Overview(image=image, scale=scale)


@pytest.mark.parametrize(
    ("connectivities", "distances", "message"),
    [
        (np.eye(3), sparse.csr_matrix(np.eye(3)), "connectivities must be a SciPy CSR matrix"),
        (sparse.csr_matrix(np.eye(3)), sparse.csr_matrix(np.eye(5)), "differ in shape"),
        (
            sparse.csr_matrix((3, 5)),
            sparse.csr_matrix((3, 5)),
            "connectivities must be square.*distances must be",
        ),
        (
            sparse.csr_matrix(np.full((3, 3), np.inf)),
            sparse.csr_matrix(np.eye(3)),
            "connectivities must be finite",
        ),
        (
            sparse.csr_matrix(np.eye(3)),
            sparse.csr_matrix(-np.eye(3)),
            "distances must be finite and not negative",
        ),
    ],
)
def test_a_graph_is_two_square_matrices(make_graph, connectivities, distances, message):
    with pytest.raises(StoreError, match=message):
        Graph(connectivities=connectivities, distances=distances, meta=make_graph().meta)


def test_records_cannot_be_changed(make_record, make_graph):
    for record, field in ((make_record(), "ids"), (make_graph(), "meta"), (make_record().overview, "scale")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, None)
