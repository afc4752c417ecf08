"""Features of other programs come into a section, row by row at the right spot,."""

import dataclasses
import hashlib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from cohorts import DIMS, make_cohort
from foreign_layouts import TRIDENT_COORDS, write_h5
from quality_arrays import add_quality, good_measures

from spam.errors import ConfigError, SectionError, StoreError
from spam.schemas.store_config import ImportConfig
from spam.schemas.store_format import Sampling
from spam.store import open_store, readable_spots
from spam.store.importing import import_features

SIDE = 200  # px at level 0
DIM = 17


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_cohort(tmp_path / "s.zarr", 2)


def write_trident(store: Path, name: str, folder: Path, *, shift: float = 0.0) -> tuple[Path, np.ndarray]:
    """Write tiles around the spots, in another order, with two more that have no spot."""
    section = open_store(store).section(name)
    rng = np.random.default_rng(len(name))
    order = rng.permutation(section.n_spots)
    corners = np.rint(section.xy_px[order] - SIDE / 2 + shift).astype(np.int64)
    corners = np.concatenate([corners, [[9000, 9000], [9400, 9000]]])
    features = rng.normal(size=(len(corners), DIM)).astype(np.float32)
    attributes = {
        "coords": {**TRIDENT_COORDS, "patch_size": 224, "patch_size_level0": SIDE},
        "features": {"encoder": "uni_v1"},
    }
    path = write_h5(folder / f"{name}.h5", chunk=1, attributes=attributes, features=features, coords=corners)
    expected = np.empty((section.n_spots, DIM), np.float32)
    expected[order] = features[: section.n_spots]
    return path, expected


def test_rows_stand_at_their_spots(store, tmp_path):
    path, expected = write_trident(store, "S1", tmp_path)
    config = ImportConfig(
        store=store, file=path, section="S1", enc_name="uni_v1", licence="MIT", dtype="float32"
    )
    report = import_features(config)
    section = open_store(store).section("S1")
    assert (report.key, report.kind, report.n_tiles) == ("uni_v1_100um", "trident", section.n_spots + 2)
    np.testing.assert_array_equal(section.features(report.key), expected)
    meta = section.feature_meta(report.key)
    assert (meta.origin, meta.weights_sha256, meta.sampling) == ("import:trident", None, None)
    assert (meta.encoder["name"], meta.encoder["licence"]) == ("uni_v1", "MIT")
    assert meta.tile["tile_um"] == SIDE * 0.5
    assert str(tmp_path) not in str(meta.to_mapping())


def test_every_option_is_honoured(store, tmp_path):
    path, expected = write_trident(store, "S1", tmp_path, shift=4.0)
    base = {"store": store, "file": path, "section": "S1", "enc_name": "uni_v1"}
    with pytest.raises(SectionError, match="S1_"):
        import_features(ImportConfig(**base))
    loose = {**base, "tolerance_um": 5.0}  # 10 px
    for changes, key in (
        ({}, "uni_v1_100um"),
        ({"tile_um": 64.0}, "uni_v1_64um"),
        ({"tile_px": 150}, "uni_v1_150px"),
        ({"enc_name": "other", "kind": "trident"}, "other_100um"),
    ):
        assert import_features(ImportConfig(**{**loose, **changes})).key == key
    again = import_features(ImportConfig(**loose, dtype="float32", overwrite=True))
    section = open_store(store).section("S1")
    np.testing.assert_array_equal(section.features(again.key), expected)
    with pytest.raises(StoreError, match="dtype"):
        import_features(ImportConfig(**loose, dtype="float16"))
    half = section.features("uni_v1_64um")
    np.testing.assert_array_equal(half, expected.astype(np.float16).astype(np.float32))
    with pytest.raises(ConfigError, match=r"S1, S2.*--section"):
        import_features(ImportConfig(**{**loose, "section": None}))


def test_features_that_replace_embedded_ones_have_no_quality(store, tmp_path):
    """Spots whose tiles could not be read when they were embedded have features now, and are trained on."""
    section = open_store(store, is_read_only=False).section("S1")
    key = section.feature_keys[0]
    sampling = Sampling(mpp=0.5, native_px=224.0, level=0, padding="edge", interpolation="bicubic")
    embedded = dataclasses.replace(section.feature_meta(key), sampling=sampling)
    writer = section.feature_writer(embedded, is_overwrite=True)
    for chunk in writer.pending:
        writer.write(chunk, np.ones((chunk.stop - chunk.start, embedded.dim), np.float32))
    writer.finish()
    add_quality(section, key, good_measures(section.n_spots, [2]))
    assert not readable_spots(open_store(store).section("S1"), [key])[2]
    path, expected = write_trident(store, "S1", tmp_path)
    encoder, _, tile = key.rpartition("_")
    config = ImportConfig(
        store=store,
        file=path,
        section="S1",
        enc_name=encoder,
        tile_um=float(tile.removesuffix("um")),
        overwrite=True,
    )
    assert import_features(config).key == key
    section = open_store(store).section("S1")
    np.testing.assert_array_equal(section.features(key), expected.astype(np.float16).astype(np.float32))
    assert section.quality(key) is None
    assert readable_spots(section, [key]).all()


def test_arrays_and_anndata_come_in_by_id(store, tmp_path):
    section = open_store(store).section("S2")
    features = np.random.default_rng(3).normal(size=(section.n_spots, DIM)).astype(np.float32)
    order = np.random.default_rng(4).permutation(section.n_spots)
    np.save(tmp_path / "f.npy", features[order])
    pd.DataFrame({"spot_id": section.ids[order]}).to_csv(tmp_path / "ids.csv", index=False)
    base = {"store": store, "section": "S2", "enc_name": "mine", "dtype": "float32"}
    with pytest.raises(ConfigError, match=r"--tile-um"):
        import_features(ImportConfig(**base, file=tmp_path / "f.npy", coordinates=tmp_path / "ids.csv"))
    import_features(
        ImportConfig(**base, file=tmp_path / "f.npy", coordinates=tmp_path / "ids.csv", tile_um=50.0)
    )
    adata = anndata.AnnData(obs=pd.DataFrame(index=section.ids[order].astype(str)))
    adata.obsm["emb"] = features[order]
    adata.write_h5ad(tmp_path / "f.h5ad")
    import_features(ImportConfig(**base, file=tmp_path / "f.h5ad", key="emb", tile_um=60.0))
    section.refresh()
    for key in ("mine_50um", "mine_60um"):
        np.testing.assert_array_equal(section.features(key), features)
    assert set(section.feature_keys) >= {f"tiny_{um:g}um" for um in DIMS}


def test_another_array_of_the_same_file_is_not_the_same_features(store, tmp_path):
    section = open_store(store).section("S2")
    rng = np.random.default_rng(5)
    adata = anndata.AnnData(obs=pd.DataFrame(index=section.ids.astype(str)))
    adata.obsm.update(
        {key: rng.normal(size=(section.n_spots, DIM)).astype(np.float32) for key in ("X_a", "X_b")}
    )
    adata.write_h5ad(tmp_path / "f.h5ad")
    base = {"store": store, "section": "S2", "enc_name": "mine", "dtype": "float32", "tile_um": 60.0}
    first = import_features(ImportConfig(**base, file=tmp_path / "f.h5ad", key="X_a"))
    again = import_features(ImportConfig(**base, file=tmp_path / "f.h5ad", key="X_a"))
    assert (first.was_there, again.was_there) == (False, True)
    other = ImportConfig(**base, file=tmp_path / "f.h5ad", key="X_b")
    with pytest.raises(StoreError, match="source"):
        import_features(other)
    section.refresh()
    np.testing.assert_array_equal(section.features(first.key), adata.obsm["X_a"])
    import_features(dataclasses.replace(other, overwrite=True))
    section.refresh()
    np.testing.assert_array_equal(section.features(first.key), adata.obsm["X_b"])
    source = section.feature_meta(first.key).encoder["source"]
    assert source == f"file:{hashlib.sha256(adata.obsm['X_b'].tobytes()).hexdigest()}"


def test_unnamed_encoder_is_refused(store, tmp_path):
    path, _ = write_trident(store, "S1", tmp_path)
    with h5py.File(path, "a") as file:
        del file["features"].attrs["encoder"]
    config = ImportConfig(store=store, file=path, section="S1")
    with pytest.raises(ConfigError, match="--enc-name"):
        import_features(config)
