"""Copies equal the selected part byte by byte; merges do not depend on order and reject differences."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from shared_stores import change_feature, make_store, tree

from spam.errors import ConfigError, MissingInputError, OutputExistsError, StoreError
from spam.schemas.store_config import MergeConfig, PullConfig, SelectConfig, VerifyConfig
from spam.store import StoredSection, create_store, open_store
from spam.store.copying import select
from spam.store.destinations import Destination
from spam.store.merging import merge
from spam.store.publishing import pull
from spam.store.verifying import verify
from spam.store.writing import locked, write_elements, write_section

KEYS = ("tiny_112um", "tiny_224um")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("copy") / "s.zarr", "S1", "S2")


def copied(store: Path, out: Path, name: str = "S1", **options) -> StoredSection:
    report = select(SelectConfig(store=store, out=out, **options))
    assert not verify(VerifyConfig(store=out)).faults
    assert report.sections == open_store(out).section_names
    return open_store(out).section(name)


def test_whole_copy_is_identical(store, tmp_path):
    copied(store, tmp_path / "a.zarr")
    assert tree(tmp_path / "a.zarr") == tree(store)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    with pytest.raises(OutputExistsError, match=r"a\.zarr"):
        select(SelectConfig(store=store, out=tmp_path / "a.zarr"))


def test_chosen_sections_and_features(store, tmp_path):
    copy = copied(store, tmp_path / "a.zarr", sections=("S1",), features=("tiny_224um",))
    own = open_store(store).section("S1")
    assert open_store(tmp_path / "a.zarr").section_names == ("S1",)
    assert copy.feature_keys == ("tiny_224um",)
    assert copy.quality_keys == ("tiny_224um_quality",)
    assert copy.graph_keys == ("features_tiny_224um", "spatial")
    assert copy.content_digest("X", "obs", "obsm/tiny_224um") == own.content_digest(
        "X", "obs", "obsm/tiny_224um"
    )
    by_encoder = copied(store, tmp_path / "b.zarr", sections=("S1",), features=("tiny",))
    assert by_encoder.index.digest == own.index.digest


def test_chosen_genes(store, tmp_path):
    (tmp_path / "genes.txt").write_text("G5\n\nG3\n")
    own = open_store(store).section("S1")
    for number, options in enumerate(({"genes": ("G3", "G5")}, {"genes_file": tmp_path / "genes.txt"})):
        copy = copied(store, tmp_path / f"{number}.zarr", **options)
        assert copy.genes.tolist() == ["G3", "G5"]
        np.testing.assert_array_equal(copy.counts().toarray(), own.counts(["G3", "G5"]).toarray())
        assert copy.meta.redacted == ("genes",)
        assert copy.content_digest("obsm", "obsp") == own.content_digest("obsm", "obsp")
        np.testing.assert_array_equal(copy.overview().image, own.overview().image)


def test_copy_without_counts_has_no_trace_of_them(store, tmp_path):
    copy = copied(store, tmp_path / "a.zarr", without_counts=True)
    own = open_store(store).section("S1")
    assert (copy.meta.has_counts, copy.meta.n_genes, copy.genes, copy.meta.redacted) == (
        False,
        0,
        None,
        ("counts",),
    )
    files = tree(tmp_path / "a.zarr")
    assert not any(name.startswith("S1/X") for name in files)
    assert not any(b"G5" in data for data in files.values())
    assert copy.content_digest("obsm", "obsp") == own.content_digest("obsm", "obsp")
    assert copy.feature_identity("tiny_112um") == own.feature_identity("tiny_112um")


def test_copy_without_coordinates_has_features_alone(store, tmp_path):
    copy = copied(store, tmp_path / "a.zarr", without_coordinates=True)
    own = open_store(store).section("S1")
    assert (copy.meta.has_coordinates, copy.meta.redacted) == (False, ("coordinates", "ids"))
    assert (copy.xy_um, copy.overview(), copy.graph_keys, copy.meta.slide_width_px) == (None, None, (), None)
    assert copy.ids.tolist() == [f"spot{number}" for number in range(23)]
    assert not any(b"S1_7" in data for data in tree(tmp_path / "a.zarr").values())
    order = [own.features("tiny_112um").tolist().index(row) for row in copy.features("tiny_112um").tolist()]
    order = np.array(order)
    readable = np.flatnonzero(np.isin(order, [2, 5], invert=True))  # zeros are not unique
    assert order[readable].tolist() != sorted(order[readable])
    np.testing.assert_array_equal(
        copy.features("tiny_224um")[readable], own.features("tiny_224um")[order[readable]]
    )
    np.testing.assert_array_equal(copy.counts().toarray()[readable], own.counts().toarray()[order[readable]])
    assert sorted(copy.quality("tiny_112um")[:, 0]) == sorted(own.quality("tiny_112um")[:, 0])


@pytest.fixture
def annotated(tmp_path: Path, make_meta, make_tables) -> Path:
    """A section with columns of the array, of counts and of a pathologist."""
    folder = create_store(tmp_path / "annotated.zarr").folder
    meta = make_meta()
    tables = make_tables(meta)
    counts = tables["counts"].toarray()
    tables["obs"] = {
        "array_row": np.arange(13),
        "in_tissue": np.arange(13) % 2 == 0,
        "total_counts": counts.sum(axis=1),
        "log1p_n_genes_by_counts": np.log1p((counts > 0).sum(axis=1)),
        "leiden": np.array([str(i % 3) for i in range(13)]),
        "label": np.array([f"tumour {i}" for i in range(13)]),
    }
    with locked(folder, meta.name):
        write_section(folder, meta, **tables)
    return folder


def test_columns_that_may_come_from_counts_go_with_them(annotated: Path, tmp_path: Path) -> None:
    own = open_store(annotated).section("C2")
    report = select(SelectConfig(store=annotated, out=tmp_path / "a.zarr", without_counts=True))
    found = open_store(tmp_path / "a.zarr").section("C2").obs
    assert set(found) == {"array_row", "in_tissue", "section", "donor"}
    np.testing.assert_array_equal(found["array_row"], np.arange(13))
    line = "C2: obs columns label, leiden, log1p_n_genes_by_counts, total_counts (see --keep-obs)"
    assert line in report.left_out
    keep = {"keep_obs": ("label",)}
    select(SelectConfig(store=annotated, out=tmp_path / "b.zarr", without_counts=True, **keep))
    found = open_store(tmp_path / "b.zarr").section("C2").obs
    assert set(found) == {"array_row", "in_tissue", "section", "donor", "label"}
    assert found["label"].tolist() == own.obs["label"].tolist()
    # A copy without counts that still has such columns loses them, too.
    select(SelectConfig(store=tmp_path / "b.zarr", out=tmp_path / "c.zarr", without_counts=True))
    assert "label" not in open_store(tmp_path / "c.zarr").section("C2").obs
    assert not any(b"tumour" in data for data in tree(tmp_path / "c.zarr").values())


def test_kept_columns_are_shuffled_with_their_spots(annotated: Path, tmp_path: Path) -> None:
    own = open_store(annotated).section("C2")
    options = {"without_coordinates": True, "keep_obs": ("label", "total_counts")}
    select(SelectConfig(store=annotated, out=tmp_path / "a.zarr", **options))
    copy = open_store(tmp_path / "a.zarr").section("C2")
    order = [int(label.split()[1]) for label in copy.obs["label"]]
    assert sorted(order) == list(range(13))
    assert order != sorted(order)
    np.testing.assert_array_equal(copy.obs["total_counts"], own.obs["total_counts"][order])
    np.testing.assert_array_equal(copy.counts().toarray(), own.counts().toarray()[order])
    options["keep_obs"] = ("labels",)
    with pytest.raises(StoreError, match=r"labels \(--keep-obs\).*label"):
        select(SelectConfig(store=annotated, out=tmp_path / "b.zarr", **options))
    with pytest.raises(ConfigError, match="--keep-obs needs --without-counts"):
        SelectConfig(store=annotated, out=tmp_path / "b.zarr", keep_obs=("label",))


def test_copies_in_different_random_orders_are_not_merged(store, tmp_path):
    """Without counts nothing else tells the spots of one copy from those of another."""
    for key in KEYS:
        options = {"features": (key,), "without_coordinates": True, "without_counts": True}
        copied(store, tmp_path / f"{key}.zarr", **options)
    with pytest.raises(StoreError, match="section 'S1': different spots_sha256"):
        merge(MergeConfig(out=tmp_path / "x.zarr", stores=tuple(tmp_path / f"{key}.zarr" for key in KEYS)))


def test_graph_over_replaced_features_is_left_out(tmp_path):
    store = make_store(tmp_path / "s.zarr", "S1")
    section = open_store(store, is_read_only=False).section("S1")
    graph = section.graph("features_tiny_112um")
    object.__setattr__(graph.meta, "features_identity", "ab" * 32)
    section.write_graph("features_tiny_112um", graph)
    report = select(SelectConfig(store=store, out=tmp_path / "a.zarr"))
    assert open_store(tmp_path / "a.zarr").section("S1").graph_keys == ("features_tiny_224um", "spatial")
    assert any("features_tiny_112um" in line for line in report.left_out)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sections": ("S9",)}, StoreError, "S9"),
        ({"features": ("uni2",)}, StoreError, "uni2.*tiny_112um"),
        ({"genes": ("G5", "G55")}, StoreError, r"1 of 2 genes.*'G55'.*'G5'"),
        ({"genes_file": Path("gone.txt")}, MissingInputError, r"gone\.txt \(--genes-file\)"),
    ],
)
def test_unknown_names_are_refused(store, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        select(SelectConfig(store=store, out=tmp_path / "a.zarr", **options))
    assert not list(tmp_path.iterdir())


def test_empty_file_of_genes_is_refused(store, tmp_path):
    (tmp_path / "genes.txt").write_text("\n")
    with pytest.raises(ConfigError, match="--genes-file"):
        select(SelectConfig(store=store, out=tmp_path / "a.zarr", genes_file=tmp_path / "genes.txt"))


def test_damaged_file_is_not_copied(store, tmp_path):
    select(SelectConfig(store=store, out=tmp_path / "a.zarr"))
    chunk = tmp_path / "a.zarr/S1/obsm/tiny_112um/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    for run in (
        lambda: select(SelectConfig(store=tmp_path / "a.zarr", out=tmp_path / "b.zarr")),
        lambda: merge(MergeConfig(out=tmp_path / "c.zarr", stores=(tmp_path / "a.zarr",))),
    ):
        with pytest.raises(StoreError, match="tiny_112um/c/0/0"):
            run()
    assert not (tmp_path / "b.zarr").exists()
    assert open_store(tmp_path / "c.zarr").section_names == ()


# Merging: three stores that share a section and have parts of their own


@pytest.fixture(scope="module")
def three(store, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("three")
    parts = ({"features": KEYS[:1]}, {"features": KEYS[1:]}, {"sections": ("S2",)})
    for name, options in zip("abc", parts, strict=True):
        select(SelectConfig(store=store, out=folder / f"{name}.zarr", **options))
    return [folder / f"{name}.zarr" for name in "abc"]


def merged(out: Path, *stores: Path) -> Path:
    merge(MergeConfig(out=out, stores=stores))
    return out


def test_merge_is_associative_and_commutative(store, three, tmp_path):
    whole = tree(store)
    for number, order in enumerate(itertools.permutations(three)):
        assert tree(merged(tmp_path / f"{number}.zarr", *order)) == whole
    a, b, c = three
    assert tree(merged(tmp_path / "x.zarr", merged(tmp_path / "ab.zarr", a, b), c)) == whole
    assert tree(merged(tmp_path / "y.zarr", a, merged(tmp_path / "bc.zarr", b, c))) == whole


def test_merge_into_a_store_adds_what_it_lacks(store, three, tmp_path):
    out = merged(tmp_path / "x.zarr", three[0])
    report = merge(MergeConfig(out=out, stores=(three[1],)))
    assert report.sections == ()
    assert "S1: features 'tiny_224um'" in report.added
    before = tree(out)
    again = merge(MergeConfig(out=out, stores=(three[1], three[0])))
    assert (again.sections, again.added) == ((), ())
    assert again.n_equal > 0
    assert tree(out) == before == tree(store)
    assert not verify(VerifyConfig(store=out)).faults


def test_killed_merge_is_resumed(store, three, tmp_path):
    out = merged(tmp_path / "x.zarr", three[0])
    size = (store / "S1/obsm/tiny_224um/c/0/0").stat().st_size
    # Files of a copy that was killed: with other bytes, cut short, not in the source.
    for number, content in ((0, bytes(size)), (1, b"?"), (9, b"?")):
        folder = out / f"S1/obsm/tiny_224um/c/{number}"
        folder.mkdir(parents=True)
        (folder / "0").write_bytes(content)
    merged(out, three[1])
    assert not verify(VerifyConfig(store=out)).faults
    assert tree(out) == tree(store)


def test_files_of_others_stay_in_a_section_that_gets_features(store, three, tmp_path):
    out = merged(tmp_path / "x.zarr", three[0])
    paths = ["notes.txt", "uns/my_clusters/zarr.json", "layers/mine/c/0/0", "obsm/X_umap/zarr.json"]
    others = {f"S1/{path}": b"theirs" for path in paths}
    for path, data in others.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)
    merged(out, three[0])  # adds nothing
    merged(out, three[1])
    pull(PullConfig(store=store, out=out))
    assert tree(out) == {**tree(store), **others}


def test_a_section_that_was_changed_meanwhile_is_named_with_what_helps_every_command(store):
    with pytest.raises(StoreError, match=r"'S1' at .* was changed meanwhile\. Run the command again\."):
        Destination(str(store))._require_index("S1", b"")


def test_pull_killed_at_any_index_leaves_no_damage(store, tmp_path, monkeypatch):
    """A section that is copied without some of its features must never name their files."""
    config = {"store": store, "sections": ("S1",), "features": KEYS[:1]}
    pull(PullConfig(out=tmp_path / "whole.zarr", **config))
    out, real = tmp_path / "x.zarr", Destination.put
    create_store(out)

    def killed_after(self: Destination, path: str, *content: object) -> None:
        real(self, path, *content)
        if path == "S1/zarr.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(Destination, "put", killed_after)
    with pytest.raises(KeyboardInterrupt):
        pull(PullConfig(out=out, **config))
    monkeypatch.undo()
    assert not verify(VerifyConfig(store=out)).faults
    pull(PullConfig(out=out, **config))
    assert tree(out) == tree(tmp_path / "whole.zarr")


def test_merge_refuses_what_differs(store, tmp_path):
    other = make_store(tmp_path / "o.zarr", "S1", "S2", has_graphs=False)
    change_feature(other, "S1", "tiny_112um")
    counts = make_store(tmp_path / "g.zarr", "S0", "S2", has_graphs=False)
    part = tmp_path / "p.zarr"
    select(SelectConfig(store=counts, out=part, sections=("S2",), genes=("G1",)))
    before = tree(store)
    with pytest.raises(StoreError, match=r"S1: features 'tiny_112um'") as caught:
        merged(tmp_path / "x.zarr", store, other)
    assert "S2" not in str(caught.value)
    with pytest.raises(StoreError, match=r"section 'S2': different .*n_genes"):
        merged(tmp_path / "x.zarr", store, part)
    assert not (tmp_path / "x.zarr").exists()
    assert tree(store) == before


def test_equal_tables_with_other_bytes_are_equal(store, three, tmp_path):
    """Another version of zstd compresses the same table to other bytes."""
    other = make_store(tmp_path / "o.zarr", "S1", "S2", has_graphs=False)
    section = open_store(other, is_read_only=False).section("S1")
    assert section.content_digest("X") == open_store(store).section("S1").content_digest("X")
    xy = section.xy_um.copy()
    write_elements(other, "S1", {"obsm/spatial_um": xy}, attributes={"obsm/spatial_um": {"a": 1}})
    assert tree(other)["S1/zarr.json"] != tree(store)["S1/zarr.json"]
    report = merge(MergeConfig(out=tmp_path / "x.zarr", stores=(three[0], other)))
    assert "S1: features 'tiny_224um'" in report.added
    write_elements(other, "S1", {"obsm/spatial_um": xy + 1}, attributes={})
    with pytest.raises(StoreError, match="xy_um"):
        merge(MergeConfig(out=tmp_path / "x.zarr", stores=(other,)))
