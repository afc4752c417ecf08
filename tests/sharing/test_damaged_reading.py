"""A changed byte is never taken for data: readers give the numbers that were written, or a `StoreError`."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohorts import make_cohort
from scipy import sparse

from spam.errors import StoreError
from spam.schemas.training_config import PretrainConfig
from spam.store import StoredSection, open_store
from spam.training.training_set import TrainingSet, build_training_set


def plain(value: Any) -> list[np.ndarray]:
    """Give everything that a reader handed out as arrays."""
    if value is None:
        return []
    if sparse.issparse(value):
        return [value.data, value.indices, value.indptr, np.array(value.shape)]
    if isinstance(value, dict):
        return [np.array(list(value)), *(part for item in value.values() for part in plain(item))]
    return [np.asarray(value)]


def graph_of(key: str) -> Callable[[StoredSection], list[np.ndarray]]:
    def read(section: StoredSection) -> list[np.ndarray]:
        graph = section.graph(key)
        return [] if graph is None else [*plain(graph.connectivities), *plain(graph.distances)]

    return read


def overview_of(section: StoredSection) -> list[np.ndarray]:
    overview = section.overview()
    return [] if overview is None else [overview.image, np.array(overview.scale)]


KEYS = ("tiny_112um", "tiny_224um")
GRAPHS = ("spatial", *(f"features_{key}" for key in KEYS))
# Beginning of a file's path within the section -> all ways to read what it is a part of.
READERS: dict[str, list[Callable[[StoredSection], list[np.ndarray]]]] = {
    "obs/": [lambda s: plain(s.ids), lambda s: plain(s.obs)],
    "var/": [lambda s: plain(s.genes)],
    "X/": [lambda s: plain(s.counts()), lambda s: plain(s.counts(["GENE5", "GENE1", "GENE2"]))],
    "obsm/spatial/": [lambda s: plain(s.xy_px)],
    "obsm/spatial_um/": [lambda s: plain(s.xy_um)],
    **{
        f"obsm/{key}/": [
            lambda s, key=key: plain(s.features(key)),
            lambda s, key=key: plain(s.stored_features(key)),
        ]
        for key in KEYS
    },
    **{
        f"{folder}/{key}_": [graph_of(key)]
        for key in GRAPHS
        for folder in ("obsp", "uns")
    },
    "uns/spatial/": [overview_of],
}  # fmt: skip


def outcome(read: Callable[[StoredSection], list[np.ndarray]], untouched: StoredSection) -> Any:
    """Read as a section that was just opened does; give the arrays, or the class of the error."""
    try:
        return read(copy.copy(untouched))
    except StoreError:
        return StoreError


def is_same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


def test_a_section_gives_what_was_written_or_an_error(store_path):
    untouched = open_store(store_path).section("C2")  # its tables are read by copies of it alone
    expected = {read: outcome(read, untouched) for readers in READERS.values() for read in readers}
    assert StoreError not in expected.values()
    rng, n_read, n_refused = np.random.default_rng(37), 0, 0
    for path in sorted(untouched.index.files):
        readers = next((readers for start, readers in READERS.items() if path.startswith(start)), [])
        file, is_node = store_path / "C2" / path, path.endswith("zarr.json")
        whole = file.read_bytes()
        n_flips = (
            1 if is_node else 1 if path.startswith(("obsp", "uns")) else 16
        )  # graphs have many small files
        for _ in range(n_flips if readers else 0):
            changed = bytearray(whole)
            changed[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
            for read in readers:
                found = outcome(read, untouched)
                n_read += 1
                if found is StoreError:
                    n_refused += 1
                else:
                    assert is_same(found, expected[read]), path
                # A node's own metadata stand in the index too, which is what is read.
                assert not (is_node and found is StoreError), path
        file.write_bytes(whole)
    assert n_read > 200
    assert n_refused > 150


@pytest.mark.parametrize("key", KEYS)
def test_every_byte_of_every_shard_counts(store_path, key):
    """Of features each single byte is changed in turn: one random bit of it, then all eight."""
    section, rng = open_store(store_path).section("C2"), np.random.default_rng(47)
    expected, n_flips = section.features(key).tobytes(), 0
    for file in sorted(
        path for path in (store_path / "C2" / "obsm" / key / "c").rglob("*") if path.is_file()
    ):
        whole = file.read_bytes()
        for at in range(len(whole)):
            for mask in (1 << int(rng.integers(8)), 0xFF):
                file.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
                with pytest.raises(StoreError, match=rf"obsm/{key}.*rows \d+:\d+"):
                    section.features(key)
                n_flips += 1
        file.write_bytes(whole)
    assert n_flips > 500
    assert section.features(key).tobytes() == expected


def arrays_of(data: TrainingSet) -> list[np.ndarray]:
    parts = [data.inputs, data.counts, data.totals, data.expression, data.centred, data.weights]
    parts += [part for spots in data.spots for part in (spots.features, spots.xy, spots.graph.distances)]
    return [array for part in parts for array in plain(part)]


def test_training_reads_what_was_written_or_stops(tmp_path):
    store = make_cohort(tmp_path / "cohort.zarr", 2)
    config = PretrainConfig(store=store, save_dir=tmp_path / "out", k=5, n_top_genes=23)
    expected = arrays_of(build_training_set(config))
    rng, n_refused = np.random.default_rng(41), 0
    files = [path for path in (store / "S1").rglob("*") if path.is_file() and path.name != "zarr.json"]
    for file in sorted(files):
        whole = file.read_bytes()
        for _ in range(3):
            changed = bytearray(whole)
            changed[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
            try:
                found = arrays_of(build_training_set(config))
            except StoreError as error:
                n_refused += 1
                assert "S1" in str(error)  # noqa: PT017  both outcomes are right
            else:
                assert is_same(found, expected), file
                assert not {"X", "tiny_112um", "tiny_224um"} & {*file.relative_to(store).parts}
        file.write_bytes(whole)
    assert n_refused > 3 * 5


def test_a_missing_chunk_is_no_zeros(store_path: Path):
    section = open_store(store_path).section("C2")
    for path, read in [
        ("X/data/c/1", lambda: section.counts()),
        ("obsm/tiny_112um/c/1/0", lambda: section.features("tiny_112um")),
        ("obsp/spatial_distances/data/c/2", lambda: section.graph("spatial")),
        ("obsm/spatial/c/0/0", lambda: section.xy_px),
    ]:
        (store_path / "C2" / path).unlink()
        with pytest.raises(
            StoreError, match=rf"damaged at .*{path.split('/c/')[0].removesuffix('/data')}.*is not there"
        ):
            read()
