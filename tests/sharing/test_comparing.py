"""Stores that are equal, and stores that differ in one known way."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from spam.errors import StoreError
from spam.schemas.store_config import DiffConfig
from spam.sharing.comparing import DiffReport, ElementDiff, MetaDiff, SpotsDiff, diff
from spam.store import StoredSection, create_store, open_store


def compared(a: Path, b: Path) -> DiffReport:
    return diff(DiffConfig(a=str(a), b=str(b)))


@pytest.fixture
def other_path(pristine_store, tmp_path) -> Path:
    """A second copy, to be changed."""
    return Path(shutil.copytree(pristine_store, tmp_path / "other.zarr"))


def writable(store: Path, name: str = "C2") -> StoredSection:
    return open_store(store, is_read_only=False).section(name)


def test_copies_are_equal(pristine_store, other_path, tmp_path, pack_by_hand):
    for b in (other_path, pack_by_hand(other_path, tmp_path / "c.zip")):
        report = compared(pristine_store, b)
        assert report.is_equal
        assert report.n_equal == 2
        assert report.summary() == "equal: 2 sections, every byte of them"
        assert json.loads(json.dumps(report.to_mapping()))["is_equal"] is True


def test_empty_stores_are_equal(tmp_path):
    create_store(tmp_path / "a.zarr")
    create_store(tmp_path / "b.zarr")
    assert compared(tmp_path / "a.zarr", tmp_path / "b.zarr").is_equal


def test_sections_that_one_store_has_are_named(pristine_store, other_path, make_record):
    open_store(other_path, is_read_only=False).add_section(make_record("D1", n_spots=5))
    shutil.rmtree(other_path / "C3")
    report = compared(pristine_store, other_path)
    assert (report.only_in_a, report.only_in_b, report.n_equal) == (("C3",), ("D1",), 1)
    assert not report.is_equal
    assert "C3: only in A" in report.summary()
    assert "D1: only in B" in report.summary()
    turned = compared(other_path, pristine_store)
    assert (turned.only_in_a, turned.only_in_b) == (("D1",), ("C3",))


# The graph goes with the features that are replaced.
GRAPH_OF_REPLACED = ElementDiff(name="graph features_tiny_112um", change="only in A")


def test_features_of_other_bytes_are_measured(pristine_store, other_path, add_features):
    section = writable(other_path)
    changed = add_features(section, seed=3, is_overwrite=True)
    whole = open_store(pristine_store).section("C2").features("tiny_112um")
    expected = np.abs(changed.astype(np.float16).astype(np.float64) - whole).max()
    (found,) = compared(pristine_store, other_path).sections
    assert (found.name, found.meta, found.spots) == ("C2", (), None)
    element, graph = found.elements
    assert graph == GRAPH_OF_REPLACED
    assert (element.name, element.change) == ("features tiny_112um", "other content")
    assert element.largest_difference == pytest.approx(expected, rel=1e-6)
    summary = compared(pristine_store, other_path).summary()
    assert f"features tiny_112um: other content, values differ by up to {expected:.3g}" in summary
    assert "1 sections differ, 1 are equal" in summary


def test_features_that_were_made_in_another_way_are_not_measured(pristine_store, other_path, add_features):
    add_features(writable(other_path), weights_sha256="ef" * 32, is_overwrite=True)
    (found,) = compared(pristine_store, other_path).sections
    assert found.elements == (
        ElementDiff(name="features tiny_112um", change="other identity"),
        GRAPH_OF_REPLACED,
    )


def test_features_and_graphs_that_one_store_has_are_named(
    pristine_store, other_path, add_features, make_graph
):
    add_features(writable(other_path), "tiny_56um")
    writable(other_path).write_graph("spatial", make_graph(29, k=5))
    (found,) = compared(pristine_store, other_path).sections
    assert found.elements == (
        ElementDiff(name="features tiny_56um", change="only in B"),
        ElementDiff(name="graph spatial", change="other content"),
    )
    (turned,) = compared(other_path, pristine_store).sections
    assert turned.elements[0].change == "only in A"


def test_tables_and_metadata_that_differ_are_named(tmp_path, make_record):
    record = make_record("C2")
    xy = record.xy_px + 1.0
    changes = {
        "counts": ({"counts": record.counts * 2}, {"counts"}),
        "genes": ({"genes": np.array([f"X{i}" for i in range(7)])}, {"var"}),
        "coordinates": ({"xy_px": xy, "xy_um": xy * 0.69}, {"coordinates"}),
        "column": ({"obs": {}}, {"obs"}),
        "no overview": ({"overview": None}, {"overview"}),
    }
    create_store(tmp_path / "a.zarr").add_section(record)
    for name, (change, expected) in changes.items():
        create_store(tmp_path / name).add_section(dataclasses.replace(record, **change))
        (found,) = compared(tmp_path / "a.zarr", tmp_path / name).sections
        assert {element.name for element in found.elements} == expected
        assert (found.meta, found.spots) == ((), None)
    meta = dataclasses.replace(record.meta, licence="CC0-1.0", mpp_source=None)
    create_store(tmp_path / "meta").add_section(dataclasses.replace(record, meta=meta))
    (found,) = compared(tmp_path / "a.zarr", tmp_path / "meta").sections
    assert found.meta == (
        MetaDiff(entry="mpp_source", a="h5ad", b=None),
        MetaDiff(entry="licence", a="CC-BY-4.0", b="CC0-1.0"),
    )
    assert found.elements == ()
    assert (
        "licence: 'CC-BY-4.0' in A, 'CC0-1.0' in B"
        in compared(tmp_path / "a.zarr", tmp_path / "meta").summary()
    )


def test_spots_are_compared_by_their_ids(tmp_path, make_record):
    """Five of A's 29 spots get other names, two more trade places."""
    record = make_record("C2")
    ids = record.ids.copy()
    ids[:5] = ["a", "b", "c", "d", "e"]
    ids[[7, 11]] = ids[[11, 7]]
    create_store(tmp_path / "a.zarr").add_section(record)
    create_store(tmp_path / "b.zarr").add_section(dataclasses.replace(record, ids=ids))
    report = compared(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert report.sections[0].spots == SpotsDiff(n_only_a=5, n_only_b=5, n_moved=2)
    assert "spots: 5 only in A, 5 only in B, 2 in another row" in report.summary()


def test_what_no_part_has_a_name_for_is_other(pristine_store, other_path, reseal):
    reseal(other_path / "C3", lambda document: document["attributes"].update(note="mine"))
    (found,) = compared(pristine_store, other_path).sections
    assert found.elements == (ElementDiff(name="other", change="other content"),)


def test_what_is_no_store_is_an_error(pristine_store, tmp_path):
    with pytest.raises(StoreError, match="there is no store at"):
        compared(pristine_store, tmp_path / "missing")
    with pytest.raises(StoreError, match="there is no store at"):
        compared(tmp_path / "missing", pristine_store)
