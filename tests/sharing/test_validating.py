"""Stores that keep the format, stores that break one clause of it, and stores made by hostile hands."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from spam.errors import SpamError, StoreError
from spam.schemas.store_config import InfoConfig, ValidateConfig, VerifyConfig
from spam.sharing.describing import describe
from spam.sharing.validating import ValidateReport, validate
from spam.sharing.verifying import verify
from spam.store import create_store, open_store
from spam.store.index import change_index


def validated(store: Path) -> ValidateReport:
    return validate(ValidateConfig(store=str(store)))


def faults_of(store: Path) -> list[str]:
    return [str(fault) for fault in validated(store).faults]


def test_a_whole_store_is_valid(pristine_store, tmp_path, pack_by_hand):
    report = validated(pristine_store)
    assert report.faults == ()
    assert report.is_valid
    assert report.sections == ("C2", "C3")
    assert "2 sections; all is as docs/format.md says" in report.summary()
    assert json.loads(json.dumps(report.to_mapping()))["is_valid"] is True
    assert validated(pack_by_hand(pristine_store, tmp_path / "c.zip")).faults == ()


def test_stores_at_the_borders_are_valid(tmp_path, make_record, add_features):
    store = create_store(tmp_path / "c.zarr")
    assert validated(store.folder).sections == ()
    assert faults_of(store.folder) == []
    section = store.add_section(make_record("one", n_spots=1, n_genes=1, obs={}))
    add_features(section, "tiny_112um", chunk_rows=1, dtype="float32")
    bare = {"xy_px": None, "xy_um": None, "has_coordinates": False, "spots_sha256": None, "overview": None}
    store.add_section(make_record("no genes", n_genes=0, **bare))
    assert faults_of(store.folder) == []


@pytest.fixture(scope="module")
def same_section(pristine_store, tmp_path_factory, reseal) -> Path:
    """A copy with C2 alone, of which only the index may be changed; see `one_index`."""
    store = tmp_path_factory.mktemp("same") / "one.zarr"
    shutil.copytree(pristine_store / "C2", store / "C2")
    shutil.copy(pristine_store / "zarr.json", store)
    reseal(store, lambda root: root["attributes"]["spam"].update(sections=["C2"]))
    return store


@pytest.fixture
def one_index(same_section) -> Iterator[Path]:
    """A store with C2 alone, of which the index may be changed: it is put back."""
    whole = (same_section / "C2" / "zarr.json").read_bytes()
    yield same_section
    (same_section / "C2" / "zarr.json").write_bytes(whole)


@pytest.fixture
def one_section(same_section, tmp_path) -> Path:
    """A copy with C2 alone, to be changed."""
    return Path(shutil.copytree(same_section, tmp_path / "one.zarr"))


def meta_of(document: dict[str, Any]) -> dict[str, Any]:
    meta: dict[str, Any] = document["attributes"]["spam"]["meta"]
    return meta


def node_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    node: dict[str, Any] = document["consolidated_metadata"]["metadata"][name]
    return node


def change_meta(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: meta_of(document).update(changes)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change_meta(n_spots="29"), ["C2/zarr.json: meta.n_spots must be a whole number"]),
        (change_meta(colour="red"), ["C2/zarr.json: meta.colour is not part of the format"]),
        (lambda document: meta_of(document).pop("mpp"), ["C2/zarr.json: meta.mpp is missing"]),
        (change_meta(name="C7"), ["C2/zarr.json: it is named 'C7' in its own metadata"]),
        (change_meta(donor="someone else"), ["C2/obs: column 'donor' holds ['patient µ']", "'someone else'"]),
        (change_meta(mpp=-0.5), ["C2: mpp is -0.5"]),
        (change_meta(mpp=None), ["C2: obsm/spatial_um is there, but mpp is unknown"]),
        (change_meta(n_spots=28), ["C2/obs: ", "lengths than 28", "C2/obsm: ", "C2/obsm/tiny_112um: "]),
        (change_meta(n_genes=9), ["C2/var: ", "7 genes, expected 9", "C2/X: "]),
        (change_meta(has_counts=False, n_genes=0), ["C2: X is there, which its metadata deny", "C2/var: it names genes"]),
        (change_meta(has_coordinates=False), ["C2: obsm/spatial is there, which its metadata deny"]),
        (change_meta(spots_sha256="0" * 64), ["C2/obs: ids and coordinates have the digest", "000000000000…"]),
        (
            change_meta(sources=[{"role": "h5ad", "name": "/home/me/C2.h5ad", "n_bytes": 1, "sha256": "a"}]),
            ["C2: source '/home/me/C2.h5ad' has a folder in its name"],
        ),
        (
            lambda document: document["attributes"].update({"encoding-type": "dict"}),
            ["C2/zarr.json: its encoding is not"],
        ),
        (
            lambda document: document["consolidated_metadata"].update(must_understand=True),
            ["C2/zarr.json: its consolidated metadata are not Zarr's"],
        ),
        (
            lambda document: node_of(document, "X/data").update(fill_value=7),
            ["C2/X/data/zarr.json: it says something else than the index does"],
        ),
        (
            lambda document: node_of(document, "obs")["attributes"].update({"column-order": ["label"]}),
            ["C2/obs: its columns are ['_index', 'array_row'", "it names ['label']"],
        ),
        (
            lambda document: node_of(document, "X")["attributes"].update({"encoding-type": "csr_matrix"}),
            ["C2/X: its encoding is 'csr_matrix', expected 'csc_matrix'"],
        ),
        (
            lambda document: node_of(document, "uns")["attributes"].update({"encoding-version": "0.9"}),
            ["C2/uns: its encoding is 'dict' '0.9'"],
        ),
        (
            lambda document: node_of(document, "obsm/spatial")["attributes"].clear(),
            ["C2/obsm/spatial: its encoding is None None, expected 'array' 0.2.0 or"],
        ),
        (
            lambda document: node_of(document, "X/data").update(codecs=[{"name": "numcodecs.pickle"}]),
            ["C2/zarr.json: X/data: codecs [{'name': 'numcodecs.pickle'}] are none that a store has"],
        ),
        (
            lambda document: node_of(document, "obsm/tiny_112um")["attributes"]["spam"].update(identity="f" * 64),
            [
                "C2/obsm/tiny_112um: its identity is ffffffffffff…",
                "C2/uns/features_tiny_112um_neighbors: it is over features of the identity",
            ],
        ),
        (
            lambda document: node_of(document, "obsm/tiny_112um")["attributes"]["spam"]["meta"].update(dim="5"),
            ["C2/obsm/tiny_112um: dim must be a whole number, not '5'"],
        ),
        (
            lambda document: node_of(document, "obsm/tiny_112um")["attributes"]["spam"]["meta"].update(dim=6),
            ["C2/obsm/tiny_112um: ", "expected ((29, 6)"],
        ),
        (
            lambda document: node_of(document, "obsm/tiny_112um")["attributes"].pop("spam"),
            ["C2/obsm/tiny_112um: its attribute 'spam' is missing"],
        ),
        (
            lambda document: node_of(document, "obsm/tiny_112um").update(fill_value=0.0),
            ["C2/obsm/tiny_112um: its fill value is 0.0, expected 'NaN'"],
        ),
        (
            lambda document: node_of(document, "uns/features_tiny_112um_neighbors")["attributes"]["spam"]["meta"].update(
                features_key="tiny_224um"
            ),
            ["a graph of this kind is named 'features_tiny_224um'", "it is over features of the identity"],
        ),
        (
            lambda document: node_of(document, "uns/features_tiny_112um_neighbors")["attributes"]["spam"]["meta"].update(
                features_key="gone"
            ),
            ["it is over the features 'gone', which are not there"],
        ),
        (
            lambda document: node_of(document, "uns/spatial_neighbors")["attributes"]["spam"]["meta"].update(
                k=0, features_key="tiny_112um"
            ),
            ["C2/uns/spatial_neighbors: k=0", "C2/uns/spatial_neighbors: it is over coordinates, and names features"],
        ),
        (
            lambda document: node_of(document, "uns/spatial_neighbors")["attributes"]["spam"]["meta"].update(
                unit=3, kind="round"
            ),
            ["spatial_neighbors: kind must be 'spatial' or 'features', not 'round'", "spatial_neighbors: unit must be text"],
        ),
        (
            lambda document: node_of(document, "uns/spatial_neighbors")["attributes"].pop("spam"),
            ["C2/obsp/spatial_connectivities: it belongs to no graph", "C2/obsp/spatial_distances: it belongs"],
        ),
    ],
)  # fmt: skip
def test_each_clause_that_is_broken_is_named(one_index, reseal, edit, words):
    reseal(one_index / "C2", edit)
    found = faults_of(one_index)
    for word in words:
        assert any(word in fault for fault in found), found
    assert all(fault.startswith("C2") for fault in found)


def test_the_summary_says_where_the_format_is_described(store_path, reseal):
    reseal(store_path / "C2", change_meta(mpp=-1.0))
    summary = validated(store_path).summary()
    assert "C2: mpp is -1.0" in summary
    assert "2 sections; 1 faults: see docs/format.md" in summary
    assert not validated(store_path).is_valid


def rewrite(section: Path, name: str, values: np.ndarray) -> None:
    """Write an array of a section anew, with other values, by means of Zarr alone, and take it into the index."""
    old = zarr.open_array(section / name, mode="r")
    attributes, codecs = dict(old.attrs), old.metadata.codecs  # type: ignore[union-attr]
    is_sharded = type(codecs[0]).__name__ == "ShardingCodec"
    chunks, shards = old.chunks, old.shards
    shutil.rmtree(section / name)
    array = zarr.create_array(
        section / name,
        shape=values.shape,
        chunks=tuple(max(1, min(a, b)) for a, b in zip(chunks, values.shape, strict=True)),
        shards=shards if is_sharded else None,
        dtype=values.dtype,
        compressors=old.compressors,
        fill_value=old.fill_value,
        attributes=attributes,
        zarr_format=3,
        config={"write_empty_chunks": True},
    )
    array[...] = values
    change_index(section, add=(name,))


def text(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=np.dtypes.StringDType())


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("obs/_index", lambda ids: text([*ids[:-2].tolist(), ids[3], ids[3]]), "spot ids must each occur once; 1 occur"),
        ("var/_index", lambda genes: text([genes[1], *genes[1:].tolist()]), "gene names must each occur once; 1 occur"),
        ("obs/section", lambda column: text(["C9"] * column.size), "column 'section' holds ['C9'], the metadata say"),
        ("X/data", lambda counts: -counts, "C2/X: counts must be whole and not negative"),
        ("X/data", lambda counts: counts.astype(np.float32), "C2/X: counts are stored as float32, expected int32"),
        ("X/data", lambda counts: counts + 0.5, "C2/X: counts must be whole and not negative"),
        ("X/indices", lambda rows: rows + 29, "C2/X: "),
        ("X/indptr", lambda starts: starts[::-1].copy(), "C2/X: "),
        ("obsm/spatial", lambda xy: np.where(np.arange(29)[:, None] == 7, np.nan, xy), "spatial must be finite; 1 rows"),
        ("obsm/spatial_um", lambda xy: np.where(xy == xy[5], np.inf, xy), "the first is row 5"),
        ("obsm/spatial", lambda xy: xy.astype(np.float32), "C2/obsm: spatial is stored as float32, expected float64"),
        ("obsm/spatial", lambda xy: xy[:-1], "C2/obsm: "),
        ("obsm/tiny_112um", lambda rows: np.where(rows == rows[11], np.inf, rows).astype(np.float16), "C2/obsm/tiny_112um: "),
        ("obsp/spatial_distances/indices", lambda columns: columns + 29, "C2/uns/spatial_neighbors: "),
        ("obsp/spatial_distances/data", lambda data: -data, "C2/uns/spatial_neighbors: "),
        ("obsp/spatial_connectivities/data", lambda data: data * np.float32(np.nan), "C2/uns/spatial_neighbors: "),
        ("uns/spatial/C2/images/hires", lambda image: image[:, :, :2], "C2/uns/spatial: "),
        ("uns/spatial/C2/scalefactors/tissue_hires_scalef", lambda scale: -scale, "C2/uns/spatial: "),
    ],
)  # fmt: skip
def test_values_that_break_a_clause_are_named(one_section, name, change, words):
    section = one_section / "C2"
    values = zarr.open_array(section / name, mode="r")[...]
    rewrite(section, name, np.asarray(change(np.asarray(values))))
    found = faults_of(one_section)
    assert any(words in fault for fault in found), found


def test_rewriting_the_same_values_leaves_a_store_valid(store_path):
    """The control of the test above: what it finds comes from the values."""
    for name in ("obs/_index", "X/data", "obsm/spatial", "obsm/tiny_112um", "uns/spatial/C2/images/hires"):
        rewrite(store_path / "C2", name, zarr.open_array(store_path / "C2" / name, mode="r")[...])
    assert faults_of(store_path) == []


def test_nodes_that_have_no_place_are_named(one_section):
    section = one_section / "C2"
    zarr.create_group(
        section / "spam", zarr_format=3, attributes={"encoding-type": "dict", "encoding-version": "0.1.0"}
    )
    shutil.copytree(section / "obsm/spatial", section / "obsm/other")
    shutil.copytree(section / "obsp/spatial_distances", section / "obsp/lost_distances")
    change_index(section, add=("spam", "obsm/other", "obsp/lost_distances"))
    found = faults_of(one_section)
    assert any("C2/spam: " in fault and "no such element in a section" in fault for fault in found)
    assert any("C2/obsm/other: it is neither coordinates nor features" in fault for fault in found)
    assert any("C2/obsp/lost_distances: it belongs to no graph" in fault for fault in found)
    assert len(found) == 3


def test_parts_that_are_missing_are_named(store_path):
    section = store_path / "C2"
    change_index(section, drop=("obsp/spatial_distances", "obsm/spatial", "X/indptr"))
    found = "\n".join(faults_of(store_path))
    assert "C2/obsp/spatial_distances: it is missing; the graph needs it" in found
    assert "C2/X: it holds ['data', 'indices'], expected ['data', 'indices', 'indptr']" in found
    change_index(store_path / "C3", drop=("var", "obsm/spatial"))
    found = "\n".join(faults_of(store_path))
    assert "C3/var: it is missing; every section has it" in found


def test_the_roots_list_of_sections_must_be_complete(store_path, reseal):
    reseal(store_path, lambda root: root["attributes"]["spam"].update(sections=["C3", "C8"]))
    assert faults_of(store_path) == [
        "zarr.json: it does not name the section 'C2', which is there",
        "zarr.json: it names the section 'C8', which is not there",
    ]
    reseal(store_path, lambda root: root["attributes"].update(note="mine"))
    assert "zarr.json: note is not part of the format" in faults_of(store_path)


def test_damage_hides_no_other_section(store_path, reseal):
    data = (store_path / "C2" / "zarr.json").read_bytes()
    (store_path / "C2" / "zarr.json").write_bytes(data.replace(b'"n_spots": 29', b'"n_spots": 28'))
    reseal(store_path / "C3", change_meta(n_genes=4))
    (store_path / "zarr.json").write_text("{}")
    found = faults_of(store_path)
    assert [fault.split(":")[0] for fault in found] == ["zarr.json", "C2/zarr.json", "C3"]
    assert "its bytes have the digest" in found[1]
    assert "n_genes is 4 without counts, expected 0" in found[2]


def test_changed_bytes_are_faults_where_they_are_read(store_path):
    path = store_path / "C3/obsm/tiny_112um/c/0/0"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    (store_path / "C2/obs/zarr.json").write_text("{")
    found = faults_of(store_path)
    assert any("C3/obsm/tiny_112um: " in fault and "rows 0:" in fault for fault in found)
    assert any("C2/obs/zarr.json: it cannot be read" in fault for fault in found)
    assert len(found) == 2


def test_what_cannot_be_validated_at_all_is_an_error(tmp_path, store_path, reseal):
    with pytest.raises(StoreError, match="there is no store at"):
        validated(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="is no store"):
        validated(tmp_path / "empty")


# Hostile hands ------------------------------------------------------------------------------------------------------

N_STRANGE = 15
STRANGE = [
    None,
    True,
    -1,
    0,
    1 << 70,
    0.5,
    "",
    "x",
    "../../etc",
    "\ud800",
    [],
    {},
    [[]],
    {"a": {}},
    [None],
    "NaN",
    -(1 << 40),
]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON document, inner ones too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from leaves(item, (*path, key))


def mutate(document: dict[str, Any], rng: np.random.Generator) -> None:
    """Put something strange in the place of one value, take one away, or double it."""
    paths = [path for path in leaves(document) if path[-1] != "digest"]
    # Most of the time not among the hundreds of sizes and digests of files, which are all alike.
    area = rng.choice(["meta", "attributes", "metadata", "files"], p=[0.4, 0.2, 0.3, 0.1])
    paths = [path for path in paths if area in path] or paths
    *above, last = paths[rng.integers(len(paths))]
    holder: Any = document
    for key in above:
        holder = holder[key]
    kind = rng.integers(4)
    if kind == 0 and isinstance(holder, dict):
        del holder[last]
    elif kind == 1 and isinstance(holder, dict):
        holder[STRANGE[rng.integers(5, 10)] if rng.random() < 0.5 else f"{last}/x"] = copy.deepcopy(
            holder[last]
        )
    else:
        holder[last] = STRANGE[rng.integers(len(STRANGE))]


def sealed_by_hand(document: dict[str, Any]) -> bytes:
    """Seal a document as a stranger would: with zeros in the place of the digest, then the digest."""
    if isinstance(spam := document.get("attributes", {}).get("spam"), dict):
        spam["digest"] = "0" * 64
    data = json.dumps(document).encode()
    return data.replace(
        b'"digest": "' + b"0" * 64, b'"digest": "' + hashlib.sha256(data).hexdigest().encode()
    )


def read_all(store: Path) -> None:
    """Do everything with a store that reads it."""
    verify(VerifyConfig(store=str(store)))
    describe(InfoConfig(store=str(store))).summary()
    section = open_store(store).section("C2")
    section.counts()
    section.counts(["GENE1"])
    section.overview()
    assert section.xy_px is not None
    for key in section.feature_keys:
        section.features(key)
    for key in section.graph_keys:
        section.graph(key)


def test_whatever_stands_in_a_sealed_index_there_are_faults_and_no_crash(one_index):
    """Indexes with one to three strange values, each sealed as a stranger would who knows how."""
    index = one_index / "C2" / "zarr.json"
    whole, rng = json.loads(index.read_bytes()), np.random.default_rng(43)
    index.write_bytes(sealed_by_hand(copy.deepcopy(whole)))
    read_all(one_index)  # the control: sealed by hand it opens
    n_valid = n_opened = 0
    for _ in range(N_STRANGE):
        document = copy.deepcopy(whole)
        for _ in range(rng.integers(1, 4)):
            mutate(document, rng)
        index.write_bytes(sealed_by_hand(document))
        n_valid += validated(one_index).is_valid
        try:
            read_all(one_index)
            n_opened += 1
        except SpamError:
            pass
    # What a reader does not need may be strange and is still a fault.
    assert n_valid < 5
    assert n_opened > 0
