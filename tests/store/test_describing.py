"""`spam store info` and `ls` list the content of a store."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from shared_stores import make_store, tree

from spam.errors import StoreError
from spam.schemas.store_config import InfoConfig, SelectConfig
from spam.store import open_store
from spam.store.copying import select
from spam.store.describing import describe
from spam.store.packing import PackConfig, pack


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("info") / "s.zarr", "S1", "S2")


def test_sizes_digests_and_tiles(store):
    report = describe(InfoConfig(store=store))
    files = {name: data for name, data in tree(store).items() if not name.startswith("tables/")}
    n_bytes = sum(map(len, files.values())) - len(files["zarr.json"])
    assert (report.n_files, report.n_bytes) == (len(files), n_bytes)
    first, second = report.sections
    assert (first.name, first.n_spots, first.n_genes, first.donor, first.licence) == (
        "S1",
        23,
        17,
        "d1",
        None,
    )
    assert first.graphs == ("features_tiny_112um", "features_tiny_224um", "spatial")
    section = open_store(store).section("S1")
    features = first.features[0]
    assert (features.key, features.dim, features.dtype, features.encoder) == (
        "tiny_112um",
        11,
        "float16",
        "tiny",
    )
    assert section.index.digest.startswith(first.content)
    assert section.content_digest("obsm/tiny_112um").startswith(features.content)
    assert section.feature_identity("tiny_112um").startswith(features.identity)
    assert features.tiles["unreadable"] == 2
    assert second.features[0].tiles is None
    assert json.loads(json.dumps(report.to_mapping()))["sections"][0]["features"][0]["dim"] == 11
    text = report.summary()
    for words in ("S1: donor d1, 23 spots, 17 genes", "2 unreadable", "of 23", "licence unknown", "graphs: "):
        assert words in text
    assert len(report.names_only().splitlines()) == 3


def test_packed_redacted_and_unfinished(store, tmp_path):
    select(SelectConfig(store=store, out=tmp_path / "r.zarr", without_counts=True))
    text = describe(InfoConfig(store=pack(PackConfig(store=tmp_path / "r.zarr")).out)).summary()
    assert "no counts" in text
    assert "shared without original counts" in text
    shutil.copytree(store, tmp_path / "u.zarr")
    section = open_store(tmp_path / "u.zarr", is_read_only=False).section("S2")
    writer = section.feature_writer(section.feature_meta("tiny_112um"), is_overwrite=True)
    writer.write(writer.pending[0], np.ones((12, 11), np.float32))
    report = describe(InfoConfig(store=tmp_path / "u.zarr"))
    assert report.sections[1].unfinished == ("tiny_112um",)
    assert "tiny_112um (unfinished)" in report.names_only()


def test_damaged_index_is_refused(store, tmp_path):
    shutil.copytree(store, tmp_path / "d.zarr")
    index = tmp_path / "d.zarr/S1/zarr.json"
    index.write_bytes(index.read_bytes().replace(b'"n_spots": 23', b'"n_spots": 24'))
    with pytest.raises(StoreError, match="S1"):
        describe(InfoConfig(store=tmp_path / "d.zarr"))
    with pytest.raises(StoreError, match=r"gone\.zarr"):
        describe(InfoConfig(store=tmp_path / "gone.zarr"))
