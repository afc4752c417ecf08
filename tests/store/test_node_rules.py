"""What a stranger may write into an index: refused with a message, before anything is decoded or made large."""

import contextlib
import copy
import json
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spam.errors import StoreError
from spam.store import create_store, open_store
from spam.store.index import read_index
from spam.store.node_rules import FEATURES, STRINGS, TABLE, array_rule, chunk_names, node_faults
from spam.store.sealing import sealed, write_sealed

HUGE = 1 << 47


class Whole:
    """A store, and the document of the index of its one section."""

    def __init__(self, folder: Path, index: bytes) -> None:
        self.folder, self._index = folder, index

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self._index)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, make_record, make_feature_meta, make_graph, fill):
    store = create_store(tmp_path_factory.mktemp("rules") / "cohort.zarr")
    section = store.add_section(make_record())
    fill(section.feature_writer(make_feature_meta()), np.zeros((13, 5)))
    section.write_graph("spatial", make_graph())
    return Whole(store.folder, section.index.data)


def refused(whole, edit) -> str:
    """Let a stranger edit the index, with a digest that fits; return what opening it says."""
    folder, changed = whole.folder, whole.document
    edit(changed["consolidated_metadata"]["metadata"], changed["attributes"]["spam"]["files"])
    path = folder / "C2/zarr.json"
    before = path.read_bytes()
    try:
        write_sealed(path, changed)
        tracemalloc.start()
        begun = time.monotonic()
        with pytest.raises(StoreError) as raised:
            open_store(folder).section("C2")
        assert tracemalloc.get_traced_memory()[1] < 30e6
        assert time.monotonic() - begun < 5
    finally:
        tracemalloc.stop()
        path.write_bytes(before)
    message = str(raised.value)
    assert "cohort.zarr/C2' cannot be opened: " in message
    assert message.endswith("look at it with `spam store validate`, or take a fresh copy")
    return message


def codecs_of(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "configuration": {}} for name in names]


def table(name: str, **changes: Any):
    return lambda nodes, files: nodes[name].update(changes)


def chunked(name: str, *shape: int):
    return lambda nodes, files: nodes[name].update(
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": list(shape)}}
    )


def features(**changes: Any):
    def edit(nodes, files):
        nodes["obsm/tiny_112um"]["codecs"][0]["configuration"].update(changes)

    return edit


def bytes_codec(place: Any, endian: str):
    def edit(nodes, files):
        place(nodes)["configuration"] = {"endian": endian}

    return edit


REFUSED = {
    "gzip": (table("X/data", codecs=codecs_of("bytes", "gzip", "crc32c")), r"X/data: codecs .*gzip.* none that a"),
    "blosc": (table("X/data", codecs=codecs_of("bytes", "blosc", "crc32c")), "X/data: codecs .*blosc"),
    "pickle": (table("obs/label", codecs=codecs_of("numcodecs.pickle", "crc32c")), "obs/label: .*numcodecs.pickle"),
    "no checksum": (table("X/data", codecs=codecs_of("bytes", "zstd")), "X/data: codecs"),
    "no codecs": (table("X/data", codecs=[]), r"X/data: codecs \[\]"),
    "codecs that are none": (table("X/data", codecs=5), "X/data: codecs 5 are none"),
    "shards in shards": (
        features(codecs=codecs_of("sharding_indexed", "crc32c")),
        "obsm/tiny_112um: (codecs|its metadata)",
    ),
    "big-endian table": (bytes_codec(lambda n: n["X/data"]["codecs"][0], "big"), "X/data: its numbers are not little"),
    "big-endian features": (
        bytes_codec(lambda n: n["obsm/tiny_112um"]["codecs"][0]["configuration"]["codecs"][0], "big"),
        "obsm/tiny_112um: its shards are not little-endian",
    ),
    "big-endian shard index": (
        bytes_codec(lambda n: n["obsm/tiny_112um"]["codecs"][0]["configuration"]["index_codecs"][0], "big"),
        "obsm/tiny_112um: its shards are not little-endian",
    ),
    "index at the start": (features(index_location="start"), "with the index at the end"),
    "objects": (table("X/data", data_type="object"), "X/data: data type 'object'"),
    "strings as a table": (table("X/data", data_type="string"), "X/data: data type 'string' with codecs of table"),
    "numbers as strings": (table("obs/label", data_type="int32"), "obs/label: data type 'int32' with codecs of str"),
    "a data type that is none": (table("X/data", data_type={"name": "x"}), "X/data: (data type|its metadata)"),
    "huge shape": (table("X/data", shape=[HUGE]), "X/data: .* chunks .* are more than a store has"),
    "huge shape in one chunk": (
        lambda n, f: (table("X/data", shape=[HUGE])(n, f), chunked("X/data", HUGE)(n, f)),
        "X/data: 1 chunks of .* are more than a store has",
    ),
    "large shape in one chunk": (
        lambda n, f: (table("X/data", shape=[1 << 27])(n, f), chunked("X/data", 1 << 27)(n, f)),
        r"X/data: shape \[134217728\] of int32 takes 536870912 bytes, its files have",
    ),
    "a million chunks": (
        lambda n, f: (table("X/data", shape=[1 << 22])(n, f), chunked("X/data", 1)(n, f)),
        "X/data: .* takes 4194304 files, the index names",
    ),
    "a million chunks beside an axis of none": (
        lambda n, f: (table("obsm/spatial", shape=[0, 1 << 21])(n, f), chunked("obsm/spatial", 1, 1)(n, f)),
        "obsm/spatial: .* takes 2097152 files, the index names",
    ),
    "larger than any number": (table("X/data", shape=[10**400]), "X/data: .* are no sizes"),
    "strings": (
        lambda n, f: (table("obs/label", shape=[1 << 31])(n, f), chunked("obs/label", 1 << 31)(n, f)),
        "obs/label: 1 chunks of .* are more than a store has",
    ),
    "negative shape": (table("X/data", shape=[-3]), r"X/data: shape \[-3\] .* are no sizes"),
    "shape that is no number": (table("X/data", shape=["3"]), r"X/data: shape \['3'\] .* are no sizes"),
    "shape of another rank": (table("X/data", shape=[3, 3]), "X/data: .* are no sizes"),
    "true for one": (table("X/data", shape=[True]), r"X/data: shape \[True\]"),
    "no chunk": (chunked("X/data", 0), r"X/data: chunks \[0\] cannot be"),
    "negative chunk": (chunked("X/data", -5), "X/data: .* are no sizes"),
    "half a chunk": (chunked("X/data", 1.5), "X/data: .* are no sizes"),
    "other chunk names": (
        table("X/data", chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}),
        "X/data: its chunks are not cut or named",
    ),
    "storage transformers": (table("X/data", storage_transformers=[{"name": "x"}]), "X/data: chunks .* cannot be"),
    "features that claim more than there is": (
        lambda n, f: table("obsm/tiny_112um", shape=[1 << 20, 5])(n, f),
        "obsm/tiny_112um: ",
    ),
    "chunks that do not fill a shard": (features(chunk_shape=[2, 5]), "chunks .* do not fill shards"),
    "chunks of columns": (features(chunk_shape=[3, 1]), "chunks .* do not fill shards"),
    "no rows in a chunk": (features(chunk_shape=[0, 5]), "chunks .* do not fill shards"),
    "half a row in a chunk": (features(chunk_shape=[1.5, 5]), "chunks .* do not fill shards"),
    "a node that is no mapping": (lambda n, f: n.update({"X/data": 7}), "X/data: its metadata do not fit Zarr v3"),
    "a node without a type": (lambda n, f: n["X/data"].pop("node_type"), "X/data: its metadata do not fit Zarr v3"),
    "a node of another type": (table("X/data", node_type="link"), "X/data: it is no group and no array"),
    "attributes that are none": (table("obsm", attributes=[1]), "obsm: its attributes are no mapping"),
    "another format of Zarr": (table("X", zarr_format=2), "X: it is no group and no array of Zarr v3"),
    "a lost chunk": (lambda n, f: f.pop("X/data/c/0"), "X/data/c/0: no such file in the index"),
    "a chunk of no array": (
        lambda n, f: f.update({"X/data/c/9": f["X/data/c/0"]}),
        "X/data/c/9: it belongs to no array",
    ),
    "a file of no node": (lambda n, f: f.update({"evil.py": f["X/data/c/0"]}), "evil.py: it belongs to no array"),
}  # fmt: skip
PATHS = [
    "../x",
    "/etc/passwd",
    "X/../../x",
    "X//data",
    "./X",
    "X/.",
    "",
    "X\\data",
    "X\n",
    "X/\0",
    "zarr.json",
]


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_stranger_wrote_is_refused(whole, edit, message):
    assert re.search(message, refused(whole, edit))


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_leads_outside_is_refused(whole, path):
    found = refused(whole, lambda nodes, files: files.update({path: files["X/data/c/0"]}))
    assert f"{path!r} is no path inside a section" in found


def test_all_faults_are_told_at_once(whole):
    def edit(nodes, files):
        for name in (
            "X/data",
            "X/indices",
            "X/indptr",
            "obs/label",
            "obs/quality",
            "obs/array_row",
            "obsm/spatial",
        ):
            nodes[name]["codecs"] = codecs_of("gzip")

    found = refused(whole, edit)
    assert found.count("none that a store has") == 5
    assert "and 2 more" in found


def test_a_section_that_calls_itself_another(store, section, reseal):
    reseal(store.folder / "C2/zarr.json", lambda d: d["attributes"]["spam"]["meta"].update(name="C3"))
    with pytest.raises(
        StoreError, match=r"C2' cannot be opened: it is named 'C3' in its own metadata.*validate"
    ):
        store.section("C2")


def test_what_spam_writes_has_no_faults_and_its_kind(whole):
    index = read_index((whole.folder / "C2/zarr.json").read_bytes(), "here")
    assert node_faults(index) == []
    kinds = {name: array_rule(node) for name, node in index.nodes.items() if node["node_type"] == "array"}
    assert kinds["obsm/tiny_112um"] == FEATURES
    assert {name for name, kind in kinds.items() if kind == STRINGS} == {
        "obs/_index", "obs/label", "obs/section", "obs/donor", "var/_index",
        "uns/spatial_neighbors/connectivities_key", "uns/spatial_neighbors/distances_key",
        "uns/spatial_neighbors/params/metric", "uns/spatial_neighbors/params/unit",
    }  # fmt: skip
    assert set(kinds.values()) == {FEATURES, STRINGS, TABLE}


def test_chunks_are_named_as_zarr_names_them():
    def node(*sizes: tuple[int, int]) -> dict[str, Any]:
        shape, chunk = zip(*sizes, strict=True) if sizes else ((), ())
        return {"shape": list(shape), "chunk_grid": {"configuration": {"chunk_shape": list(chunk)}}}

    assert list(chunk_names("a", node((7, 3), (2, 2)))) == ["a/c/0/0", "a/c/1/0", "a/c/2/0"]
    assert list(chunk_names("a", node((3, 3)))) == ["a/c/0"]
    assert list(chunk_names("a", node())) == ["a/c"]
    assert list(chunk_names("a", node((0, 3)))) == []
    assert list(chunk_names("a", node((1 << 47, 1), (0, 1)))) == []


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List where every value of nested JSON stands."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*found, *(leaf for key, child in items for leaf in leaves(child, (*path, key)))]


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3),
    st.sampled_from([[], {}, [[]], [{}], "bytes", "string", "float16", "regular", "default", -1, 0, 2**31, "../x"]),
)  # fmt: skip


@given(where=st.integers(0, 10**6), is_lost=st.booleans(), value=ODD)
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_no_value_anywhere_makes_anything_but_a_store_error(whole, where, is_lost, value):
    """Any value of the index may be another, or lacking; all that can be read is read, or refused."""
    folder, changed = whole.folder, whole.document
    places = leaves(changed)
    *path, last = places[where % len(places)]
    place = changed
    for key in path:
        place = place[key]
    if is_lost:
        del place[last]
    else:
        place[last] = copy.deepcopy(value)
    index = folder / "C2/zarr.json"
    before = index.read_bytes()
    try:
        with contextlib.suppress(KeyError, TypeError):  # there is no place for a digest
            index.write_bytes(sealed(changed)[0])
        with contextlib.suppress(StoreError):
            read_everything(folder)
    finally:
        index.write_bytes(before)


def read_everything(folder) -> None:
    section = open_store(folder).section("C2")
    _ = section.ids, section.obs, section.genes, section.xy_px, section.xy_um, section.overview()
    if section.meta.has_counts:
        section.counts()
        section.counts(["GENE3"])
    for key in section.feature_keys:
        section.feature_meta(key)
        section.features(key)
    for key in section.graph_keys:
        section.graph(key)
