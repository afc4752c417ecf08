"""Features of other programs come into a section of a store, there or new, row by row at the right spot."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from cohorts import DIMS, make_cohort
from foreign_layouts import TRIDENT_COORDS, N, slide2vec, slide2vec_places, write_h5
from quality_arrays import add_quality, good_measures
from training_runs import SMALL_FINETUNE

from spam.errors import ConfigError, SectionError, StoreError
from spam.exports.exporting import export
from spam.predicting import predict
from spam.schemas.predict_config import PredictConfig
from spam.schemas.store_config import ExportConfig, ImportFeaturesConfig, VerifyConfig
from spam.schemas.store_format import Sampling
from spam.schemas.training_config import FinetuneConfig
from spam.store import open_store, readable_spots, verify
from spam.store.importing import import_features
from spam.training import finetune

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
    config = ImportFeaturesConfig(
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


def test_a_comma_in_the_name_of_an_encoder_is_refused(store, tmp_path):
    path, _ = write_trident(store, "S1", tmp_path)
    with pytest.raises(ConfigError, match=r"'my,enc' has a comma.*--enc-name"):
        import_features(ImportFeaturesConfig(store=store, file=path, section="S1", enc_name="my,enc"))


def test_every_option_is_honoured(store, tmp_path):
    path, expected = write_trident(store, "S1", tmp_path, shift=4.0)
    base = {"store": store, "file": path, "section": "S1", "enc_name": "uni_v1"}
    with pytest.raises(SectionError, match="S1_"):
        import_features(ImportFeaturesConfig(**base))
    loose = {**base, "tolerance_um": 5.0}  # 10 px
    for changes, key in (
        ({}, "uni_v1_100um"),
        ({"tile_um": 64.0}, "uni_v1_64um"),
        ({"tile_px": 150}, "uni_v1_150px"),
        ({"enc_name": "other"}, "other_100um"),
    ):
        assert import_features(ImportFeaturesConfig(**{**loose, **changes})).key == key
    again = import_features(ImportFeaturesConfig(**loose, dtype="float32", overwrite=True))
    section = open_store(store).section("S1")
    np.testing.assert_array_equal(section.features(again.key), expected)
    with pytest.raises(StoreError, match="dtype"):
        import_features(ImportFeaturesConfig(**loose, dtype="float16"))
    half = section.features("uni_v1_64um")
    np.testing.assert_array_equal(half, expected.astype(np.float16).astype(np.float32))
    with pytest.raises(ConfigError, match=r"S1, S2.*--section"):
        import_features(ImportFeaturesConfig(**{**loose, "section": None}))


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
    config = ImportFeaturesConfig(
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
        import_features(
            ImportFeaturesConfig(**base, file=tmp_path / "f.npy", coordinates=tmp_path / "ids.csv")
        )
    import_features(
        ImportFeaturesConfig(**base, file=tmp_path / "f.npy", coordinates=tmp_path / "ids.csv", tile_um=50.0)
    )
    adata = anndata.AnnData(obs=pd.DataFrame(index=section.ids[order].astype(str)))
    adata.obsm["emb"] = features[order]
    adata.write_h5ad(tmp_path / "f.h5ad")
    import_features(ImportFeaturesConfig(**base, file=tmp_path / "f.h5ad", key="emb", tile_um=60.0))
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
    first = import_features(ImportFeaturesConfig(**base, file=tmp_path / "f.h5ad", key="X_a"))
    again = import_features(ImportFeaturesConfig(**base, file=tmp_path / "f.h5ad", key="X_a"))
    assert (first.was_there, again.was_there) == (False, True)
    other = ImportFeaturesConfig(**base, file=tmp_path / "f.h5ad", key="X_b")
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
    config = ImportFeaturesConfig(store=store, file=path, section="S1")
    with pytest.raises(ConfigError, match="--enc-name"):
        import_features(config)


# Sections that are created for features: nothing was embedded, and there is no image.


def lab_h5ad(store: Path, name: str, path: Path, **changes: Any) -> Path:
    """Write a section of a store as a laboratory would."""
    section = open_store(store).section(name)
    adata = anndata.AnnData(
        X=section.counts().astype(np.float32),
        obs=pd.DataFrame({"patient": section.meta.donor, "layer": "a"}, index=section.ids.astype(str)),
        var=pd.DataFrame(index=section.genes.astype(str)),
        obsm={"spatial": section.xy_px} | {"X_tiny": section.features("tiny_112um")},
        uns={"spatial": {name: {"metadata": {"mpp": 0.5}, "scalefactors": {"spot_diameter_fullres": 90.0}}}},
    )
    for part, value in changes.items():
        setattr(adata, part, value)
    path.parent.mkdir(exist_ok=True)
    adata.write_h5ad(path)
    return path


def test_the_h5ad_creates_the_section(store, tmp_path):
    h5ad = lab_h5ad(store, "S1", tmp_path / "lab" / "S1.h5ad")
    path, expected = write_trident(store, "S1", tmp_path)
    new = tmp_path / "new.zarr"
    config = ImportFeaturesConfig(store=new, file=path, h5ad=h5ad, dtype="float32")
    report = import_features(config)
    assert (report.section, report.is_new, report.was_there, report.n_spots) == ("S1", True, False, 37)
    assert "S1 (new section)" in report.summary()
    section, lab = open_store(new).section("S1"), open_store(store).section("S1")
    np.testing.assert_array_equal(section.features("uni_v1_100um"), expected)
    for part in ("ids", "xy_px", "xy_um", "genes"):
        np.testing.assert_array_equal(getattr(section, part), getattr(lab, part))
    assert not (section.counts() != lab.counts()).nnz
    assert (section.meta.donor, section.meta.mpp, section.meta.mpp_source) == ("d1", 0.5, "h5ad")
    assert (section.obs["layer"] == "a").all()
    assert [source.role for source in section.meta.sources] == ["h5ad"]
    assert section.meta.slide_width_px is None
    assert section.spatial_library()["scalefactors"]["spot_diameter_fullres"] == 90
    assert verify(VerifyConfig(store=new)).is_intact
    before = {path: path.read_bytes() for path in new.rglob("*") if path.is_file()}
    again = import_features(config)
    assert (again.is_new, again.was_there) == (False, True)
    assert before == {path: path.read_bytes() for path in new.rglob("*") if path.is_file()}
    # The features of a second encoder, here those of the h5ad, join the section with or without the h5ad.
    second = {"store": new, "file": h5ad, "key": "X_tiny", "enc_name": "tiny", "dtype": "float32"}
    assert not import_features(ImportFeaturesConfig(**second, h5ad=h5ad, tile_um=112.0)).is_new
    import_features(ImportFeaturesConfig(**second, section="S1", tile_um=64.0))
    section.refresh()
    for key in ("tiny_112um", "tiny_64um"):
        np.testing.assert_array_equal(section.features(key), lab.features("tiny_112um"))


def test_options_of_a_new_section(store, tmp_path):
    """Each option changes the section; what contradicts the section of the store is refused."""
    lab, counts = open_store(store).section("S1"), open_store(store).section("S1").counts()
    h5ad = lab_h5ad(store, "S1", tmp_path / "S1.h5ad", layers={"umi": (counts * 2).astype(np.float32)})
    path, _ = write_trident(store, "S1", tmp_path)
    base = {"file": path, "h5ad": h5ad, "tile_um": 100.0}
    options = {"section": "other", "donor": "d9", "mpp": 0.55, "counts_layer": "umi"}
    import_features(ImportFeaturesConfig(**base, **options, store=tmp_path / "a.zarr"))
    section = open_store(tmp_path / "a.zarr").section("other")
    assert (section.meta.donor, section.meta.mpp, section.meta.mpp_source) == ("d9", 0.55, "option")
    np.testing.assert_array_equal(section.counts().toarray(), 2 * lab.counts().toarray())
    import_features(ImportFeaturesConfig(**base, store=tmp_path / "b.zarr"))
    for changes, wanted in (
        ({"donor": "d9"}, "donor was 'd1', is 'd9'"),
        ({"mpp": 0.55}, r"--mpp\) was 0.5, is 0.55"),
        ({"counts_layer": "umi"}, "counts differ"),
    ):
        with pytest.raises(StoreError, match=f"{wanted}.*--section"):
            import_features(ImportFeaturesConfig(**base, **changes, store=tmp_path / "b.zarr"))
    for changes, wanted in (
        ({"donor": "d9"}, "--donor is for a new section"),
        ({"mpp": 0.5}, "--mpp is for a new section; add --h5ad or --all-tiles"),
        ({"mpp": 0.5, "donor": "d9"}, "--donor, --mpp are for a new section"),
        ({"counts_layer": "umi"}, "--counts-layer belongs to --h5ad"),
        ({"h5ad": h5ad, "all_tiles": True}, "--all-tiles, not both"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            ImportFeaturesConfig(store=store, file=path, **changes)


def test_positions_of_the_features_stand_in_for_missing_ones(store, tmp_path):
    h5ad = lab_h5ad(store, "S2", tmp_path / "S2.h5ad", obsm={})
    lab = open_store(store).section("S2")
    order = np.random.default_rng(4).permutation(lab.n_spots)
    features = np.random.default_rng(3).normal(size=(lab.n_spots, DIM)).astype(np.float32)
    np.save(tmp_path / "f.npy", features[order])
    places = pd.DataFrame({"spot_id": lab.ids, "x": lab.xy_px[:, 0], "y": lab.xy_px[:, 1]}).iloc[order]
    places.to_csv(tmp_path / "t.csv", index=False)
    base = {"file": tmp_path / "f.npy", "h5ad": h5ad, "enc_name": "mine", "tile_um": 50.0, "dtype": "float32"}
    import_features(ImportFeaturesConfig(**base, store=tmp_path / "new.zarr", coordinates=tmp_path / "t.csv"))
    section = open_store(tmp_path / "new.zarr").section("S2")
    np.testing.assert_array_equal(section.features("mine_50um"), features)
    np.testing.assert_array_equal(section.xy_px, lab.xy_px)
    np.testing.assert_array_equal(section.ids, lab.ids)
    assert not (section.counts() != lab.counts()).nnz
    places[["spot_id"]].to_csv(tmp_path / "ids.csv", index=False)
    places.iloc[:, 0] = places.iloc[:, 0] + "-1"
    places.to_csv(tmp_path / "other.csv", index=False)
    for table, wanted in (
        ("ids", "obsm.*--coordinates"),
        ("other", "39 of 39 spots .*have no row with their id"),
    ):
        config = ImportFeaturesConfig(
            **base, store=tmp_path / "no.zarr", coordinates=tmp_path / f"{table}.csv"
        )
        with pytest.raises(SectionError, match=wanted):
            import_features(config)
    assert not (tmp_path / "no.zarr").exists()


def test_all_tiles_become_spots_without_counts(store, tmp_path):
    path, _ = write_trident(store, "S1", tmp_path)
    with h5py.File(path) as file:
        features, corners = file["features"][:], file["coords"][:]
    config = ImportFeaturesConfig(
        store=tmp_path / "new.zarr", file=path, all_tiles=True, mpp=0.5, donor="d3", dtype="float32"
    )
    assert import_features(config).section == "S1"  # the name of the file
    section = open_store(tmp_path / "new.zarr").section("S1")
    np.testing.assert_array_equal(section.features("uni_v1_100um"), features)
    np.testing.assert_array_equal(section.xy_px, corners + SIDE / 2)
    assert section.ids.tolist() == [f"tile{row}" for row in range(len(corners))]
    assert (section.meta.has_counts, section.meta.donor, section.meta.mpp) == (False, "d3", 0.5)
    with pytest.raises(
        StoreError, match=r"from --all-tiles: .*--mpp\) was 0\.5, is not given.*leave out --all"
    ):
        import_features(dataclasses.replace(config, mpp=None))
    slide = slide2vec(tmp_path)
    config = ImportFeaturesConfig(
        store=tmp_path / "s.zarr", file=slide, all_tiles=True, coordinates=slide2vec_places(tmp_path)
    )
    import_features(config)
    meta = open_store(tmp_path / "s.zarr").section("C2").meta
    assert (meta.mpp, meta.mpp_source, meta.n_spots) == (0.25, "slide", N)


def test_an_h5ad_of_several_sections_and_one_in_micrometres(store, tmp_path):
    parts = [anndata.read_h5ad(lab_h5ad(store, name, tmp_path / f"{name}.h5ad")) for name in ("S1", "S2")]
    both = anndata.concat(dict(zip(("S1", "S2"), parts, strict=True)), label="section")
    both.obs_names = [
        f"spot{i % 37}" if i < 37 else f"spot{i - 37}" for i in range(len(both))
    ]  # the same in both
    both.write_h5ad(tmp_path / "both.h5ad")
    path, expected = write_trident(store, "S2", tmp_path)
    base = {"store": tmp_path / "new.zarr", "file": path, "dtype": "float32"}
    with pytest.raises(SectionError, match=r"'S1', 'S2'.*--section"):
        import_features(ImportFeaturesConfig(**base, h5ad=tmp_path / "both.h5ad"))
    import_features(ImportFeaturesConfig(**base, h5ad=tmp_path / "both.h5ad", section="S2", mpp=0.5))
    section = open_store(tmp_path / "new.zarr").section("S2")
    np.testing.assert_array_equal(section.features("uni_v1_100um"), expected)
    np.testing.assert_array_equal(section.xy_px, open_store(store).section("S2").xy_px)
    # Without positions, only the spots of the chosen section need a tile.
    del both.obsm["spatial"]
    both.obs_names = [f"{name}-{i}" for i, name in enumerate(both.obs["section"])]
    both.write_h5ad(tmp_path / "both.h5ad")
    is_chosen = (both.obs["section"] == "S2").to_numpy()
    rows = np.arange(is_chosen.sum())
    np.save(tmp_path / "f.npy", np.ones((len(rows), DIM), dtype=np.float32))
    places = pd.DataFrame({"spot_id": both.obs_names[is_chosen], "x": rows * 10.0, "y": rows * 10.0})
    places.to_csv(tmp_path / "t.csv", index=False)
    import_features(
        ImportFeaturesConfig(
            store=tmp_path / "chosen.zarr", file=tmp_path / "f.npy", h5ad=tmp_path / "both.h5ad", section="S2",
            coordinates=tmp_path / "t.csv", enc_name="mine", tile_um=50.0, mpp=0.5,
        )
    )  # fmt: skip
    assert open_store(tmp_path / "chosen.zarr").section("S2").ids.tolist() == places["spot_id"].tolist()
    # `spam import` without an image writes positions in µm.
    uns = {"spatial": {"S2": {"metadata": {"unit": "um"}, "scalefactors": {}}}}
    um = lab_h5ad(store, "S2", tmp_path / "um.h5ad", obsm={"spatial": section.xy_px * 0.5}, uns=uns)
    base["store"] = tmp_path / "um.zarr"
    with pytest.raises(SectionError, match="--mpp"):
        import_features(ImportFeaturesConfig(**base, h5ad=um))
    import_features(ImportFeaturesConfig(**base, h5ad=um, mpp=0.5))
    found = open_store(tmp_path / "um.zarr").section("S2").xy_px
    np.testing.assert_allclose(found, section.xy_px, rtol=1e-15)


def test_nothing_is_left_if_features_do_not_fit(store, tmp_path):
    h5ad = lab_h5ad(store, "S1", tmp_path / "S1.h5ad")
    path, _ = write_trident(store, "S1", tmp_path, shift=40.0)
    new = tmp_path / "new.zarr"
    with pytest.raises(SectionError, match="would have a tile if all tiles moved"):
        import_features(ImportFeaturesConfig(store=new, file=path, h5ad=h5ad))
    with pytest.raises(ConfigError, match="--enc-name"):
        import_features(ImportFeaturesConfig(store=new, file=h5ad, key="X_tiny", h5ad=h5ad, tile_um=112.0))
    assert not new.exists()
    before = open_store(store).section_names
    with pytest.raises(SectionError, match="moved"):
        import_features(ImportFeaturesConfig(store=store, file=path, h5ad=h5ad, section="new"))
    assert open_store(store).section_names == before


def test_nearly_equal_tile_sizes_and_known_counts_are_reported(store, tmp_path, caplog):
    for name, mpp in (("S1", 0.5), ("S2", 0.502)):
        uns = {"spatial": {name: {"metadata": {"mpp": mpp}, "scalefactors": {}}}}
        h5ad = lab_h5ad(store, name, tmp_path / f"{name}.h5ad", uns=uns)
        path, _ = write_trident(store, name, tmp_path)
        import_features(ImportFeaturesConfig(store=tmp_path / "new.zarr", file=path, h5ad=h5ad))
        assert ("--tile-um 100" in caplog.text) == (name == "S2")
    caplog.clear()
    config = ImportFeaturesConfig(
        store=tmp_path / "new.zarr", file=path, h5ad=h5ad, section="S3", tile_um=100.0
    )
    import_features(config)
    assert "section S3 has the counts of section S2" in caplog.text
    assert "--tile-um" in caplog.text  # those of S2 have 100.4


@pytest.mark.slow
def test_predictions_from_imported_features_are_those_from_embedded_ones(tmp_path):
    """From h5ad and TRIDENT's files to predictions: no image, nothing embedded, and every number the same."""
    embedded, imported = make_cohort(tmp_path / "embedded.zarr", 3), tmp_path / "imported.zarr"
    for name in ("S1", "S2", "S3"):
        section = open_store(embedded).section(name)
        rows = np.random.default_rng(len(name)).permutation(section.n_spots)
        features = section.features("tiny_112um")[rows]
        corners = section.xy_px[rows] - 112.0
        coords = {**TRIDENT_COORDS, "patch_size_level0": 224}
        attributes = {"coords": coords, "features": {"encoder": "tiny"}}
        path = tmp_path / f"{name}.h5"
        write_h5(path, chunk=1, attributes=attributes, features=features, coords=corners)
        h5ad = lab_h5ad(embedded, name, tmp_path / f"{name}.h5ad")
        has_counts = {"h5ad": h5ad} if name != "S3" else {"all_tiles": True, "mpp": 0.5}
        import_features(ImportFeaturesConfig(store=imported, file=path, **has_counts))
    results = []
    for store in (embedded, imported):
        small = {**SMALL_FINETUNE, "attend": "none", "with_bank": False, "members": 1, "epochs": 1}
        training = FinetuneConfig(
            store=store, sections=("S1", "S2"), tile_um=(112.0,), save_dir=store.with_suffix(".run"), **small
        )
        checkpoint = finetune(training).run.best_path
        out = store.with_suffix(".out")
        is_imported = store == imported
        predict(PredictConfig(store=store, section="S3", ckpt=checkpoint, out_dir=out, plots=is_imported))
        results.append(anndata.read_h5ad(out / "predictions.h5ad"))
        assert (out / "plots" / "expression_maps.png").is_file() == is_imported
    one, two = results
    place = {tuple(xy): row for row, xy in enumerate(two.obsm["spatial"])}
    order = [place[tuple(xy)] for xy in one.obsm["spatial"]]
    assert one.var_names.tolist() == two.var_names.tolist()
    np.testing.assert_allclose(one.X, two.X[order], rtol=1e-5, atol=1e-5)  # spots are in another order
    assert np.ptp(one.X, axis=0).max() > 0.05
    export(ExportConfig(source=imported, out=tmp_path / "exported"))
    exported = anndata.read_h5ad(tmp_path / "exported" / "S1.h5ad")
    np.testing.assert_array_equal(exported.obsm["spatial"], open_store(embedded).section("S1").xy_px)
    assert (exported.uns["spatial"]["S1"]["images"]["hires"] == 255).all()
