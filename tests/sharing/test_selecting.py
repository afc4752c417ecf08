"""Selecting: what is kept is what was there, and nothing of what was left out can be found in any byte of the copy."""

import hashlib
import hmac
import json
import re
from pathlib import Path

import anndata
import numpy as np
import pytest

from spam.errors import ConfigError, MissingInputError, OutputExistsError, StoreError
from spam.schemas.store_config import MergeConfig, PackConfig, SelectConfig, ValidateConfig
from spam.sharing.merging import merge
from spam.sharing.packing import pack
from spam.sharing.redacting import Redaction
from spam.sharing.selecting import SelectReport, select
from spam.sharing.validating import validate
from spam.store import StoredSection, create_store, open_store, spots_digest
from spam.store.store import write_root


def selected(store: Path, out: Path, **options) -> SelectReport:
    return select(SelectConfig(store=str(store), out=out, **options))


def section_of(path: Path, name: str = "C2") -> StoredSection:
    return open_store(path).section(name)


def order_of(copy: StoredSection, original: StoredSection) -> np.ndarray:
    """For each spot of the copy its place in the original, found by its features, which are all different."""
    one, two = copy.stored_features("tiny_112um"), original.stored_features("tiny_112um")
    place = (one[:, None] == two[None]).all(axis=2)
    assert (place.sum(axis=1) == 1).all()
    return place.argmax(axis=1)


class TestWhole:
    def test_all_is_a_copy(self, pristine_store, tmp_path, tree):
        report = selected(pristine_store, tmp_path / "out")
        assert tree(tmp_path / "out") == tree(pristine_store)
        assert {path.name for path in tmp_path.iterdir()} == {"out"}
        assert [section.left_out for section in report.sections] == [(), ()]

    def test_of_a_packed_store(self, pristine_store, tmp_path, tree):
        path = pack(PackConfig(store=pristine_store, out=tmp_path / "p.zip")).out
        selected(path, tmp_path / "out")
        assert tree(tmp_path / "out") == tree(pristine_store)

    def test_sections(self, pristine_store, tmp_path, tree):
        selected(pristine_store, tmp_path / "out", sections=("C3",))
        expected = {name: data for name, data in tree(pristine_store).items() if name.startswith("C3/")}
        found = tree(tmp_path / "out")
        root = json.loads(found.pop("zarr.json"))
        assert found == expected
        assert root["attributes"]["spam"]["sections"] == ["C3"]

    def test_features_by_key_with_their_graphs(self, tmp_path, tree, make_record, add_features, add_graphs):
        """The copy is the store to which the other features were never added."""
        for name, keys in (("all", ("tiny_112um", "tiny_224um")), ("one", ("tiny_112um",))):
            section = create_store(tmp_path / name).add_section(make_record())
            for key in keys:
                add_features(section, key)
            add_graphs(section)
        report = selected(tmp_path / "all", tmp_path / "out", features=("tiny_112um",))
        assert tree(tmp_path / "out") == tree(tmp_path / "one")
        left_out = ("features 'tiny_224um'", "graph 'features_tiny_224um'")
        assert report.sections[0].left_out == left_out

    @pytest.mark.parametrize("options", [{}, {"genes": ("GENE1",)}, {"salted_ids": True}])
    def test_a_graph_over_features_that_were_replaced_stays_behind(
        self, store_path, tmp_path, reseal, options
    ):
        def age(document):
            node = document["consolidated_metadata"]["metadata"]["uns/features_tiny_112um_neighbors"]
            node["attributes"]["spam"]["meta"]["features_identity"] = "ab" * 32

        reseal(store_path / "C2", age)
        report = selected(store_path, tmp_path / "out", sections=("C2",), **options)
        assert section_of(tmp_path / "out").graph_keys == ("features_tiny_224um", "spatial")
        assert report.sections[0].stale == ("graph 'features_tiny_112um'",)
        assert "graph 'features_tiny_112um' of C2 was left out" in report.summary()

    def test_features_by_encoder(self, tmp_path, make_record, add_features):
        section = create_store(tmp_path / "s").add_section(make_record())
        add_features(section, "tiny_112um")
        add_features(section, "huge_112um", encoder={"name": "huge"})
        selected(tmp_path / "s", tmp_path / "out", features=("huge",))
        assert section_of(tmp_path / "out").feature_keys == ("huge_112um",)

    def test_what_was_overridden_is_kept(self, store_path, tmp_path):
        words = {"licence": None, "clause": None, "message": "x"}
        about = ("features 'tiny_112um'", "section 'C3'", "section 'C2'", "features 'gone_1um'")
        said = [{"what": what} | words for what in about]
        write_root(store_path, entries={"shared": {"overridden": said}})
        selected(store_path, tmp_path / "out", sections=("C3",), salted_ids=True)
        root = json.loads((tmp_path / "out" / "zarr.json").read_text())
        assert root["attributes"]["spam"]["shared"] == {"overridden": said[:2]}

    def test_parts_merge_to_the_whole(self, pristine_store, tmp_path, tree):
        selected(pristine_store, tmp_path / "a", features=("tiny_112um",))
        selected(pristine_store, tmp_path / "b", features=("tiny_224um",), sections=("C2",))
        selected(pristine_store, tmp_path / "c", sections=("C3",))
        merge(MergeConfig(out=tmp_path / "all", stores=tuple(str(tmp_path / name) for name in "abc")))
        assert tree(tmp_path / "all") == tree(pristine_store)


class TestGenes:
    def test_only_the_counts_change(self, pristine_store, tmp_path, tree):
        report = selected(pristine_store, tmp_path / "out", genes=("GENE5", "GENE1", "GENE2"))
        one, two = section_of(tmp_path / "out"), section_of(pristine_store)
        assert one.genes.tolist() == ["GENE1", "GENE2", "GENE5"]
        np.testing.assert_array_equal(one.counts().toarray(), two.counts().toarray()[:, [1, 2, 5]])
        assert (one.meta.n_genes, one.meta.redacted) == (3, ("genes",))
        found, expected = tree(tmp_path / "out"), tree(pristine_store)
        changed = {name for name in expected if found.get(name) != expected[name]}
        assert {name for name in changed if not name.startswith(("C2/X/", "C2/var/"))} == {"C2/zarr.json"}
        assert one.graph_keys == two.graph_keys
        assert one.feature_identity("tiny_112um") == two.feature_identity("tiny_112um")
        assert report.sections[0].n_genes == 3
        assert "3 genes" in report.summary()
        assert "without genes" in report.summary()

    def test_all_genes_are_no_redaction(self, pristine_store, tmp_path, tree):
        selected(pristine_store, tmp_path / "out", genes=tuple(f"GENE{i}" for i in range(7)))
        assert tree(tmp_path / "out") == tree(pristine_store)

    def test_from_a_file(self, pristine_store, tmp_path):
        (tmp_path / "genes.txt").write_text("\ufeffGENE3\n\n GENE0 \n", encoding="utf-8")
        selected(pristine_store, tmp_path / "out", genes_file=tmp_path / "genes.txt")
        assert section_of(tmp_path / "out").genes.tolist() == ["GENE0", "GENE3"]

    def test_sections_keep_those_that_they_have(self, tmp_path, make_record):
        store = create_store(tmp_path / "s")
        store.add_section(make_record("A"))
        store.add_section(make_record("B", genes=np.array([f"GENE{i}" for i in range(5, 12)])))
        selected(tmp_path / "s", tmp_path / "out", genes=("GENE2", "GENE6", "GENE8"))
        assert section_of(tmp_path / "out", "A").genes.tolist() == ["GENE2", "GENE6"]
        assert section_of(tmp_path / "out", "B").genes.tolist() == ["GENE6", "GENE8"]


class TestWithoutCounts:
    def test_the_rest_stays(self, pristine_store, tmp_path):
        selected(pristine_store, tmp_path / "out", without_counts=True)
        one, two = section_of(tmp_path / "out"), section_of(pristine_store)
        assert (one.meta.has_counts, one.meta.n_genes, one.meta.redacted) == (False, 0, ("counts",))
        assert one.genes is None
        with pytest.raises(StoreError, match="has no counts"):
            one.counts()
        np.testing.assert_array_equal(one.xy_px, two.xy_px)
        assert one.obs.keys() == two.obs.keys()
        for key in two.feature_keys:
            assert one.content_digest(f"obsm/{key}") == two.content_digest(f"obsm/{key}")
        assert not any(name.startswith("X") for name in one.index.nodes)
        assert section_of(tmp_path / "out", "C3").meta.redacted == ()

    def test_no_gene_is_in_any_byte(self, pristine_store, tmp_path, tree):
        selected(pristine_store, tmp_path / "out", without_counts=True)
        assert not [name for name, data in tree(tmp_path / "out").items() if b"GENE" in data]


@pytest.fixture(
    params=[
        {"without_coordinates": True},
        {"salted_ids": True},
        {"without_coordinates": True, "salted_ids": True},
    ],
    ids=lambda options: "+".join(options),
    scope="module",
)
def hidden(request, pristine_store, tmp_path_factory):
    """Options, and the copy that they make."""
    out = tmp_path_factory.mktemp("hidden") / "out"
    selected(pristine_store, out, **request.param)
    return request.param, out


class TestHiddenSpots:
    def test_rows_stay_together(self, hidden, pristine_store):
        options, path = hidden
        one, two = section_of(path), section_of(pristine_store)
        order = order_of(one, two)
        assert sorted(order) == list(range(29))
        assert (order != np.arange(29)).sum() > 20
        np.testing.assert_array_equal(one.counts().toarray(), two.counts().toarray()[order])
        np.testing.assert_array_equal(one.features("tiny_224um"), two.features("tiny_224um")[order])
        if "without_coordinates" not in options:
            np.testing.assert_array_equal(one.xy_px, two.xy_px[order])
            np.testing.assert_array_equal(one.xy_um, two.xy_um[order])

    def test_graphs_join_the_same_spots(self, hidden, pristine_store):
        _, path = hidden
        one, two = section_of(path), section_of(pristine_store)
        order = order_of(one, two)
        for key in one.graph_keys:
            moved, graph = one.graph(key), two.graph(key)
            for name in ("connectivities", "distances"):
                found, expected = getattr(moved, name), getattr(graph, name)
                np.testing.assert_array_equal(found.toarray(), expected.toarray()[np.ix_(order, order)])
                assert found.nnz == expected.nnz  # a stored zero is a neighbour too
                assert found.has_sorted_indices

    def test_ids_are_random_and_in_order(self, hidden):
        ids = section_of(hidden[1]).ids.tolist()
        assert all(re.fullmatch(r"[0-9a-f]{16}", name) for name in ids)
        assert ids == sorted(set(ids))

    def test_what_is_gone(self, hidden, pristine_store):
        options, path = hidden
        section = section_of(path)
        meta = section.meta
        is_placed = "without_coordinates" not in options
        assert meta.redacted == (("ids",) if is_placed else ("coordinates", "ids"))
        assert meta.sources == ()
        assert (meta.donor == "patient µ") == ("salted_ids" not in options)
        assert set(section.obs) == {"section", "donor"}
        assert set(section.obs["donor"]) == {meta.donor}
        assert meta.has_coordinates is is_placed
        assert (section.overview() is not None) is is_placed
        assert (meta.slide_width_px, meta.slide_height_px) == ((1009, 907) if is_placed else (None, None))
        assert ("spatial" in section.graph_keys) is is_placed
        assert meta.spots_sha256 == (spots_digest(section.ids, section.xy_px) if is_placed else None)
        assert meta.licence == "CC-BY-4.0"
        if not is_placed:
            assert not [name for name in section.index.nodes if "spatial" in name]
            with pytest.raises(StoreError, match="shared without coordinates"):
                _ = section.xy_px

    def test_no_byte_tells(self, hidden, store_path, tmp_path, tree, add_features):
        """Of an imported array, and of what was overridden for a section that is not in the copy, neither."""
        options, _ = hidden
        imported, words = (
            hashlib.sha256(b"rows").hexdigest(),
            {"licence": None, "clause": None, "message": "x"},
        )
        encoder = {"name": "mine", "source": f"file:{imported}", "licence": "unknown", "dim": 5}
        section = open_store(store_path, is_read_only=False).section("C2")
        add_features(section, "mine_60um", origin="import:npy", encoder=encoder)
        overridden = [{"what": f"section {name!r}"} | words for name in ("C2", "C3")]
        write_root(store_path, entries={"shared": {"overridden": overridden}})
        path = tmp_path / "out"
        selected(store_path, path, sections=("C2",), **options)
        assert section_of(path).feature_meta("mine_60um").encoder == {**encoder, "source": "file"}
        two = section_of(store_path)
        sources = [text for source in two.meta.sources for text in (source.name, source.sha256)]
        secrets = [
            imported,
            *("'C3'", '"C3"'),  # with quotes, for two bytes alone occur by chance among numbers
            *two.ids,
            *sources,
            two.meta.spots_sha256,
            two.feature_identity("tiny_112um"),
            "tumour",
            "array_row",
        ]
        secrets += ["patient µ"] if "salted_ids" in options else []
        secrets += ['"slide_width_px": 1009'] if "without_coordinates" in options else []
        files = tree(path)
        assert not [(name, text) for name, data in files.items() for text in secrets if text.encode() in data]
        if "without_coordinates" in options:
            rows = {row.tobytes() for row in np.concatenate([two.xy_px, two.xy_um])}
            assert not [name for name, data in files.items() for row in rows if row in data]

    def test_identities_are_of_the_copy(self, hidden, pristine_store):
        one, two = section_of(hidden[1]), section_of(pristine_store)
        for key in one.feature_keys:
            assert one.feature_meta(key) == two.feature_meta(key)
            assert one.feature_identity(key) != two.feature_identity(key)
            assert one.graph(f"features_{key}").meta.features_identity == one.feature_identity(key)

    def test_it_is_valid(self, hidden):
        assert validate(ValidateConfig(store=hidden[1])).faults == ()

    def test_anndata_opens_it(self, hidden):
        adata = anndata.read_zarr(hidden[1] / "C2")
        section = section_of(hidden[1])
        assert list(adata.obs_names) == section.ids.tolist()
        np.testing.assert_array_equal(adata.X.toarray(), section.counts().toarray())
        np.testing.assert_array_equal(adata.obsm["tiny_112um"], section.stored_features("tiny_112um"))

    def test_another_copy_has_other_names_and_order(self, hidden, pristine_store, tmp_path):
        options, path = hidden
        selected(pristine_store, tmp_path / "out", sections=("C2",), **options)
        one, two = section_of(path), section_of(tmp_path / "out")
        assert not set(one.ids) & set(two.ids)
        assert (order_of(one, section_of(pristine_store)) != order_of(two, section_of(pristine_store))).any()
        if "salted_ids" in options:
            assert one.meta.donor != two.meta.donor

    def test_bits_of_bfloat16_are_those_that_were_there(self, hidden, pristine_store):
        one, two = section_of(hidden[1]), section_of(pristine_store)
        order = order_of(one, two)
        found, expected = one.stored_features("tiny_224um"), two.stored_features("tiny_224um")
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, expected[order])


class TestSaltedNames:
    def test_are_hmac(self):
        redaction = Redaction(salt=b"salt")
        expected = hmac.new(b"salt", b"spot\0C2\0AAAC-1", hashlib.sha256).hexdigest()[:16]
        assert redaction.name("spot", "C2", "AAAC-1") == expected
        assert "salt" not in repr(redaction).replace("salted_ids", "")

    def test_a_donor_has_one_and_a_barcode_has_one_a_section(self, tmp_path, make_record):
        store, ids = create_store(tmp_path / "s"), np.array([f"AAAC-{i}" for i in range(29)])
        for name in ("A", "B"):
            store.add_section(make_record(name, ids=ids, donor="one"))
        store.add_section(make_record("D", ids=ids, donor="two"))
        report = selected(tmp_path / "s", tmp_path / "out", salted_ids=True)
        sections = [section_of(tmp_path / "out", name) for name in "ABD"]
        donors = [section.meta.donor for section in sections]
        assert donors[0] == donors[1] != donors[2]
        assert len({name for section in sections for name in section.ids}) == 3 * 29
        assert "names of sections are kept" in report.summary()

    def test_a_section_without_donor_gets_none(self, pristine_store, tmp_path):
        selected(pristine_store, tmp_path / "out", sections=("C3",), salted_ids=True)
        section = section_of(tmp_path / "out", "C3")
        assert section.meta.donor is None
        assert set(section.obs) == {"section"}

    def test_a_copy_of_a_copy_says_all_that_is_gone(self, pristine_store, tmp_path):
        selected(pristine_store, tmp_path / "a", genes=("GENE1", "GENE2"), without_coordinates=True)
        selected(tmp_path / "a", tmp_path / "b", salted_ids=True, without_counts=True)
        assert section_of(tmp_path / "b").meta.redacted == ("counts", "coordinates", "ids", "genes")


class TestFaults:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"sections": ("C2", "C9", "D")}, r"no sections \['C9', 'D'\] \(it has: C2, C3\)"),
            (
                {"features": ("tiny", "uni")},
                r"features \['uni'\] \(they have: tiny_112um of encoder tiny, tiny_224um",
            ),
            (
                {"genes": ("GENE1", "GENE9x")},
                r"1 of 2 genes, such as \['GENE9x'\] \(they have 7.*near to them are",
            ),
            ({"genes": ("GENE1",), "sections": ("C3",)}, "has 1 of 1 genes"),
            (
                {"genes": ("x",), "features": ("y",)},
                r"features \['y'\] .*; no section that is kept has 1 of 1 genes",
            ),
        ],
    )
    def test_unknown_names(self, pristine_store, tmp_path, options, words):
        with pytest.raises(StoreError, match=f"nothing was copied of store .*{words}.*spam store ls"):
            selected(pristine_store, tmp_path / "out", **options)
        assert not list(tmp_path.iterdir())

    def test_a_section_that_would_have_no_genes(self, tmp_path, make_record):
        store = create_store(tmp_path / "s")
        store.add_section(make_record("A"))
        store.add_section(make_record("B", genes=np.array([f"OTHER{i}" for i in range(7)])))
        with pytest.raises(StoreError, match=r"sections \['B'\] have none of the genes"):
            selected(tmp_path / "s", tmp_path / "out", genes=("GENE2",))

    def test_files_of_genes(self, pristine_store, tmp_path):
        with pytest.raises(MissingInputError, match=r"--genes-file '.*genes\.txt' is not there"):
            selected(pristine_store, tmp_path / "out", genes_file=tmp_path / "genes.txt")
        (tmp_path / "genes.txt").write_text("\n \n")
        with pytest.raises(ConfigError, match="names no gene"):
            selected(pristine_store, tmp_path / "out", genes_file=tmp_path / "genes.txt")

    def test_writes_over_nothing(self, pristine_store, tmp_path):
        (tmp_path / "out").mkdir()
        with pytest.raises(OutputExistsError, match="out' is there already"):
            selected(pristine_store, tmp_path / "out")

    @pytest.mark.parametrize("options", [{}, {"without_counts": True}, {"salted_ids": True}])
    def test_damage_is_named_and_nothing_is_left(self, store_path, tmp_path, options):
        path = store_path / "C2" / "obsm" / "tiny_112um" / "c" / "0" / "0"
        path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(StoreError, match=r"damaged.*C2/obsm/tiny_112um"):
            selected(store_path, tmp_path / "out", **options)
        assert {path.name for path in tmp_path.iterdir()} == {"cohort.zarr"}


def test_report_is_plain(pristine_store, tmp_path):
    report = selected(pristine_store, tmp_path / "out", features=("tiny_112um",), without_coordinates=True)
    plain = json.loads(json.dumps(report.to_mapping()))
    assert plain["sections"][0] == {
        "name": "C2",
        "n_spots": 29,
        "n_genes": 7,
        "features": ["tiny_112um"],
        "graphs": ["features_tiny_112um"],
        "left_out": ["features 'tiny_224um'", "graph 'features_tiny_224um'", "graph 'spatial'"],
        "stale": [],
        "redacted": ["coordinates", "ids"],
    }
