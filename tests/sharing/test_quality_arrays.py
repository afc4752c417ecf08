"""The quality of tiles goes where the features go that were made from them, and no licence of an encoder concerns it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pushed import ADDRESS, shared
from quality_arrays import add_quality, good_measures

from spam.errors import StoreError
from spam.schemas.store_config import (
    DiffConfig,
    InfoConfig,
    MergeConfig,
    PackConfig,
    PullConfig,
    SelectConfig,
    ValidateConfig,
    VerifyConfig,
)
from spam.schemas.tile_spec import MEASURES
from spam.sharing.comparing import diff
from spam.sharing.describing import describe
from spam.sharing.merging import merge
from spam.sharing.packing import pack
from spam.sharing.pulling import pull
from spam.sharing.selecting import select
from spam.sharing.validating import validate
from spam.sharing.verifying import verify
from spam.store import create_store, open_store

SMALL, LARGE = "tiny_112um", "tiny_224um"
UNREADABLE = (4, 17)


def measures() -> np.ndarray:
    found = good_measures(29, UNREADABLE)
    found[[1, 2, 3], MEASURES.index("tissue")] = 0
    found[9, MEASURES.index("pen")] = 0.7
    return found


@pytest.fixture
def store(tmp_path, make_record, make_feature_meta) -> Path:
    """One section with features of two keys; the tiles of the first were measured, and two could not be read."""
    section = create_store(tmp_path / "cohort.zarr").add_section(make_record("C2"))
    for key in (SMALL, LARGE):
        rows = np.random.default_rng(1).normal(size=(29, 5)).astype(np.float32)
        rows[list(UNREADABLE)] = 0
        writer = section.feature_writer(make_feature_meta(key))
        for chunk in list(writer.pending):
            writer.write(chunk, rows[chunk])
        writer.finish()
    add_quality(section, SMALL, measures())
    return tmp_path / "cohort.zarr"


def faults_of(store: Path) -> str:
    return "\n".join(str(fault) for fault in validate(ValidateConfig(store=str(store))).faults)


def test_info_counts_the_flags(store):
    info = describe(InfoConfig(store=str(store)))
    small, large = info.sections[0].features
    assert (small.key, large.key) == (SMALL, LARGE)
    assert small.tiles == {"unreadable": 2, "blank": 3, "pen": 1, "blurred": 0}
    assert large.tiles is None
    assert f"{SMALL}: tiles 2 unreadable, 3 blank, 1 pen, 0 blurred of 29" in info.summary()
    assert f"{LARGE}: tiles" not in info.summary()
    assert "quality" not in info.names_only()


def test_a_store_with_quality_is_valid_and_whole(store):
    assert faults_of(store) == ""
    assert verify(VerifyConfig(store=str(store))).is_intact


@pytest.mark.parametrize("options", [{}, {"without_counts": True}, {"salted_ids": True}], ids=str)
def test_select_takes_it_along(store, tmp_path, options):
    select(SelectConfig(store=str(store), out=tmp_path / "a.zarr", features=(SMALL,), **options))
    section, original = (open_store(path).section("C2") for path in (tmp_path / "a.zarr", store))
    assert (section.feature_keys, section.quality_keys) == ((SMALL,), (f"{SMALL}_quality",))
    # Whatever the order of the spots is now: features that are all different say which is which.
    found = {
        tuple(row): tuple(of) for row, of in zip(section.features(SMALL), section.quality(SMALL), strict=True)
    }
    expected = {tuple(row): tuple(of) for row, of in zip(original.features(SMALL), measures(), strict=True)}
    assert found == expected
    assert faults_of(tmp_path / "a.zarr") == ""
    select(SelectConfig(store=str(store), out=tmp_path / "b.zarr", features=(LARGE,), **options))
    other = open_store(tmp_path / "b.zarr").section("C2")
    assert (other.feature_keys, other.quality_keys) == ((LARGE,), ())


def test_it_is_packed_and_merged(store, tmp_path, tree):
    packed = pack(PackConfig(store=store, out=tmp_path / "p.zip")).out
    np.testing.assert_array_equal(open_store(packed).section("C2").quality(SMALL), measures())
    for name, key in (("a", SMALL), ("b", LARGE)):
        select(SelectConfig(store=str(store), out=tmp_path / f"{name}.zarr", features=(key,)))
    merge(MergeConfig(out=tmp_path / "m.zarr", stores=(str(tmp_path / "b.zarr"), str(tmp_path / "a.zarr"))))
    assert tree(tmp_path / "m.zarr") == tree(store)


def test_push_and_pull_ask_no_licence_for_it(store, tmp_path, bucket):
    assert shared(store, ADDRESS).overridden == ()
    pull(PullConfig(store=ADDRESS, out=tmp_path / "own.zarr", features=(SMALL,)))
    section = open_store(tmp_path / "own.zarr").section("C2")
    np.testing.assert_array_equal(section.quality(SMALL), measures())
    assert section.feature_keys == (SMALL,)
    # It stays there where other features of the section are pushed, and asks for no licence then either.
    select(SelectConfig(store=str(store), out=tmp_path / "part.zarr", features=(LARGE,)))
    assert shared(tmp_path / "part.zarr", ADDRESS).overridden == ()
    np.testing.assert_array_equal(open_store(ADDRESS).section("C2").quality(SMALL), measures())


def test_a_push_that_replaces_features_takes_their_quality_away(
    store, tmp_path, bucket, make_record, add_features
):
    shared(store, ADDRESS)
    add_features(create_store(tmp_path / "new.zarr").add_section(make_record("C2")), SMALL, seed=9)
    with pytest.raises(
        StoreError, match=rf"features '{SMALL}_quality' of section 'C2': only there, and of what is replaced"
    ):
        shared(tmp_path / "new.zarr", ADDRESS)
    shared(tmp_path / "new.zarr", ADDRESS, overwrite=True)
    section = open_store(ADDRESS).section("C2")
    assert (section.feature_keys, section.quality(SMALL)) == ((SMALL, LARGE), None)


def test_diff_names_it(store, tmp_path):
    select(SelectConfig(store=str(store), out=tmp_path / "a.zarr"))
    section = open_store(tmp_path / "a.zarr", is_read_only=False).section("C2")
    changed = measures()
    changed[7] = (1, 0.3, 0.0, 0.2)
    add_quality(section, SMALL, changed, is_overwrite=True)
    report = diff(DiffConfig(a=str(store), b=str(tmp_path / "a.zarr")))
    assert not report.is_equal
    assert f"quality {SMALL}_quality" in report.summary()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m[:, :3].copy(), "4 columns of float32, not 3"),
        (lambda m: np.where(m == 1, 0.5, m).astype(np.float32), "'readable' must be 0 or 1"),
        (lambda m: m * np.float32([1, 2, 1, 1]), "shares must lie in"),
        (
            lambda m: np.where(np.arange(29)[:, None] == 6, 0, m).astype(np.float32),
            "could not be read must be zeros",
        ),
    ],
)
def test_what_no_measure_can_be_is_a_fault(store, change, words):
    section = open_store(store, is_read_only=False).section("C2")
    meta = dataclasses.replace(section.feature_meta(f"{SMALL}_quality"), dim=change(measures()).shape[1])
    writer = section.feature_writer(meta, is_overwrite=True)
    for chunk in list(writer.pending):
        writer.write(chunk, change(measures())[chunk])
    writer.finish()
    assert words in faults_of(store)


def test_features_cannot_be_asked_for_by_the_name_of_their_quality(store, tmp_path):
    with pytest.raises(StoreError, match=r"no section that is kept has features \['tiny_112um_quality'\]"):
        select(SelectConfig(store=str(store), out=tmp_path / "a.zarr", features=(f"{SMALL}_quality",)))
