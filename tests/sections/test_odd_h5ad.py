"""Odd but legal h5ad files give the numbers that h5py reads; damaged or foreign ones one message (issue 15, A1 to A3, A6)."""

import gzip
import os
import subprocess
import sys
import tracemalloc

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from spam.errors import SectionError
from spam.sections import read_measured_part
from spam.sections.count_matrix import gene_columns


def _edit(lab, edit, **written):
    """Write a sparse h5ad and its table, then edit the file with h5py."""
    lab.write_csv()
    lab.write_h5ad(**{"x": sparse.csr_matrix(lab.counts.astype(np.float32)), **written})
    with h5py.File(lab.h5ad, "r+") as file:
        edit(file)


def _replace(name, values, **attributes):
    def edit(file):
        kept = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        file.create_dataset(name, data=values).attrs.update({**kept, **attributes})

    return edit


# A1: the structure of sparse matrices


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("data", lambda v: v[:-1], "5 values for 6 indices"),
        ("indices", lambda v: v[:-2], "6 values for 4 indices"),
        ("indices", lambda v: np.where(np.arange(6) == 3, -5, v), "indices go from -5"),
        ("indices", lambda v: np.where(np.arange(6) == 3, 10**7, v), "to 10000000"),
        ("indices", lambda v: v.astype(np.float64), "float64"),
        ("indptr", lambda v: np.where(np.arange(len(v)) == 1, -4, v), "indptr decreases"),
        ("indptr", lambda v: v[:-1], "entries, expected"),
        ("indptr", lambda v: np.append(v[:-1], 5), "to 5, expected 0 to 6"),
        ("indptr", lambda v: np.append(v[:-1], 2**40), "expected 0 to 6"),
        ("indptr", lambda v: v + 1, "indptr goes from 1"),
        ("data", lambda v: v.reshape(1, -1), "2, 1 and 1 dimensions"),
    ],
)
def test_a_damaged_sparse_matrix_never_reaches_scipy(lab, form, part, change, words):
    make = sparse.csr_matrix if form == "csr" else sparse.csc_matrix

    def edit(file):
        _replace(f"X/{part}", change(file[f"X/{part}"][()]))(file)

    _edit(lab, edit, x=make(lab.counts.astype(np.float32)))
    lab.refused(SectionError, "sample.h5ad: X is a damaged sparse matrix", words)
    with pytest.raises(SectionError, match="--context-h5ad .* X is a damaged sparse matrix"):
        read_measured_part(lab.h5ad, section="S", ids=np.array(lab.ids))


# A2: what is not needed cannot hurt, and odd elements give the right numbers


def _later(name):
    def edit(file):
        file.create_group(name).attrs.update({"encoding-type": "from-the-future", "encoding-version": "9"})

    return edit


def _loop(file):
    file["uns/again"] = file["uns"]
    file["uns/soft"] = h5py.SoftLink("/uns/soft")
    file["varm/gone"] = h5py.ExternalLink("nothing.h5", "/x")


def _huge(file):
    file["obsm"].create_dataset("pca", shape=(5, 80_000_000), chunks=(5, 10_000), dtype="f8", compression=9)


def _newer(file):
    for name in ("", "obs", "var", "X", "obs/_index"):
        file[name or "/"].attrs["encoding-version"] = "7.3.1"


@pytest.mark.parametrize(
    "edit", [_later("uns/later"), _later("obsp/x"), _later("layers/x"), _loop, _huge, _newer]
)
def test_foreign_parts_do_not_matter(lab, edit):
    _edit(lab, edit, spatial=lab.xy)
    tracemalloc.start()
    section = lab.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts)
    assert section.join.describe() == "5 spots with tiles"
    assert peak < 50e6


def _legacy(file, counts):
    """anndata 0.6: compound obs and var, other attributes of sparse matrices."""
    x = file["X"]
    for name in ("encoding-type", "encoding-version", "shape"):
        del x.attrs[name]
    x.attrs.update({"h5sparse_format": "csr", "h5sparse_shape": counts.shape})
    for name in ("obs", "var"):
        ids = [value.encode() for value in file[name]["_index"].asstr()[()]]
        del file[name]
        file[name] = np.array([(value, 1.5) for value in ids], dtype=[("index", "S9"), ("score", "f4")])


def _linked(file, _):
    file.move("X", "elsewhere")
    file["X"] = h5py.SoftLink("/elsewhere")


@pytest.mark.parametrize("edit", [_legacy, _linked])  # kinds of numbers: tests/corpus/h5ad_cases.py
def test_odd_matrices_give_the_numbers_in_the_file(lab, edit):
    _edit(lab, lambda file: edit(file, lab.counts))
    counts = lab.read().counts
    assert counts.dtype == np.int32
    assert counts.has_canonical_format
    np.testing.assert_array_equal(counts.toarray(), lab.counts)


def test_a_large_dense_matrix_is_read_in_blocks(lab):
    """4,001 genes as float64 in rows of chunks; the whole would be 160 kB, a block holds two rows."""
    from spam.sections import h5ad

    counts = np.random.default_rng(3).poisson(0.3, (5, 4001))
    lab.write_csv()
    lab.write_h5ad(x=counts.astype(np.float64), genes=[f"G{i}" for i in range(4001)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5ad, "_BLOCK_BYTES", 2 * 4001 * 8)
        np.testing.assert_array_equal(lab.read().counts.toarray(), counts)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_replace("X", [["a", "b", "c"]] * 5), "text"),
        (_replace("X", np.ones((5, 3), dtype=np.complex64)), "complex64"),
        (_replace("X", np.ones((4, 3))), "(4, 3), expected (5, 3)"),
        (_replace("obs/_index", ["a", "b"]), "no tile"),
        (_replace("X", np.full((5, 3), 2.0**31, dtype=np.float32)), "too large"),
        (lambda file: file["X"].attrs.update({"encoding-type": "coo_matrix"}), "'coo_matrix'"),
        (lambda file: file["X"].__delitem__("indptr"), "indptr"),
        (lambda file: file["X"].attrs.update({"shape": [5, 30]}), "(5, 30), expected (5, 3)"),
    ],
)
def test_matrices_that_do_not_fit_are_one_message(lab, edit, words):
    _edit(lab, edit)
    lab.refused(SectionError, "sample.h5ad", words)


@pytest.mark.parametrize("place", ["X", "X/data", "obs/_index", "obs", "uns/spatial"])
@pytest.mark.parametrize("kind", ["link", "raw", "virtual", "circle", "nothing"])
def test_nothing_of_another_file_becomes_counts(lab, place, kind):
    secret = lab.folder / "secret.bin"
    secret.write_bytes(bytes(range(60)))

    def edit(file):
        if place in file:
            del file[place]
        if kind == "raw":
            file.create_dataset(place, shape=(5, 3), dtype="i4", external=[(str(secret), 0, 60)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape=(5, 3), dtype="i4")
            layout[:] = h5py.VirtualSource(str(lab.folder / "o.h5"), "x", shape=(5, 3))
            file.create_virtual_dataset(place, layout)
        else:
            path = {"circle": f"/{place}", "nothing": "/gone"}.get(kind)
            file[place] = h5py.SoftLink(path) if path else h5py.ExternalLink(str(secret), "/x")

    _edit(lab, edit, libraries={"S": {"metadata": {"mpp": 0.5}}})
    lab.refused(SectionError, "sample.h5ad", "refers to")


@pytest.mark.parametrize(
    "place", ["obsm", "uns", "uns/spatial", "uns/spatial/S", "uns/spatial/S/scalefactors"]
)
def test_a_link_to_nothing_in_a_path_is_not_read_as_absent(lab, place):
    def edit(file):
        del file[place]
        file[place] = h5py.SoftLink("/gone/too")

    _edit(lab, edit, spatial=lab.xy, libraries={"S": {"scalefactors": {"tissue_hires_scalef": 0.5}}})
    lab.refused(SectionError, "sample.h5ad", place.rpartition("/")[2], "refers to")


def test_an_external_link_is_not_opened(lab):
    os.mkfifo(lab.folder / "pipe")

    with h5py.File(lab.h5ad, "w") as file:
        file["x"] = h5py.ExternalLink(str(lab.folder / "pipe"), "/x")
    code = "import sys, h5py; from spam.sections.hdf5_files import find_node; find_node(h5py.File(sys.argv[1]), 'x')"
    command = [sys.executable, "-P", "-c", code, lab.h5ad]  # a reader of the pipe would wait without an end
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "refers to another file" in ran.stderr


def test_claims_are_checked_before_allocation(lab):
    def edit(file):
        for name in ("data", "indices"):
            del file[f"X/{name}"]
            file["X"].create_dataset(name, shape=(10**11,), chunks=(1000,), dtype="i4")

    _edit(lab, edit)
    lab.refused(SectionError, "sample.h5ad", "400,000,000,000 bytes")


def test_columns_of_obs_that_cannot_be_read_are_left_out_and_named(lab):
    def edit(file):
        _later("obs/odd")(file)
        file["obs/short"] = np.arange(3)
        codes = file.create_group("obs/codes")
        codes["codes"], codes["categories"] = np.array([0, 1, 2, 7, 0], dtype="i1"), ["a", "b", "c"]
        file["obs"].attrs["column-order"] = np.array(["kept", "odd", "short", "codes", "gone"], dtype=object)

    _edit(lab, edit, obs={"kept": [2, 3, 5, 7, 11]})
    section = lab.read()
    assert {name: x.tolist() for name, x in section.obs.items()} == {"kept": [2, 3, 5, 7, 11]}
    assert "obs columns 'odd', 'short', 'codes', 'gone' cannot be read" in section.join.notes[0]


@pytest.mark.parametrize("column", ["section", "donor_id", "Patient", "in_tissue"])
def test_a_column_with_a_meaning_must_be_readable(lab, column):
    def edit(file):
        file[f"obs/{column}"] = np.arange(3)
        file["obs"].attrs["column-order"] = np.array([column], dtype=object)

    _edit(lab, edit)
    lab.refused(SectionError, repr(column), "(3,), expected (5,)")


def test_column_names_that_a_store_cannot_have(lab):
    def edit(file):
        names = ["..", ".hidden", "a\\b", "CD3/CD4 ratio", "x" * 201, "zarr.json", "fine", "ü"]
        for name in names:
            file["obs"][name] = np.arange(5.0)
        file["obs"].attrs["column-order"] = np.array(names, dtype=object)

    _edit(lab, edit)
    section = lab.read()
    assert list(section.obs) == ["fine", "ü"]
    assert "'CD3/CD4 ratio'" in section.join.notes[0]
    assert "and 1 more" in section.join.notes[0]


@pytest.mark.parametrize("name", ["zarr.json", "x" * 300, "a/b", "..", "README.md", "C2.partial", "\x07"])
def test_section_names_that_a_store_cannot_have(lab, name):
    _edit(lab, lambda _: None)
    lab.refused(SectionError, "--section", section=name)


def test_annotations_of_every_encoding(lab):
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(["a", None, "b", "a", "a"]),
            "text": pd.array(["p", None, "q", "", "r"], "string"),
            "kind": pd.Categorical(["v", "w", None, "v", "w"]),
        },
        index=pd.Index(list(lab.ids)).astype("string"),
    )
    lab.write_csv()
    with anndata.settings.override(allow_write_nullable_strings=True):
        anndata.AnnData(lab.counts, obs=obs, var=pd.DataFrame(index=list(lab.genes))).write_h5ad(lab.h5ad)
    with h5py.File(lab.h5ad, "a") as file:  # as anndata 0.12.2 writes text
        del file["obs/kind/categories"]
        file["obs/kind/categories/values"] = ["v", "w"]
        file["obs/kind/categories/mask"] = [False, False]
    section = lab.read()
    assert section.obs["kind"].tolist() == ["v", "w", "", "v", "w"]
    assert section.ids.tolist() == list(lab.ids)
    assert section.obs["label"].tolist() == ["a", "", "b", "a", "a"]
    assert section.obs["text"].tolist() == ["p", "", "q", "", "r"]


def test_coordinates_as_text_as_a_frame_and_of_another_shape(lab):
    lab.write_csv(xy=lab.xy[:, ::-1])
    for spatial in (
        lab.xy.astype(str).astype(object),
        pd.DataFrame(lab.xy, index=list(lab.ids), columns=["x", "y"]),
    ):
        adata = anndata.AnnData(
            lab.counts, obs=pd.DataFrame(index=list(lab.ids)), var=pd.DataFrame(index=list("abc"))
        )
        adata.obsm["spatial"] = spatial
        adata.write_h5ad(lab.h5ad)
        lab.refused(SectionError, "--swap-xy")
    _edit(lab, _replace("obsm/spatial", np.ones((5, 1))))
    assert "not compared with the table: it has the shape (5, 1)" in lab.read().join.notes[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"x" * 99, mtime=0), "gunzip -k"),
        (b"", "empty"),
        (b"PAR1" + b"x" * 99, "Parquet"),
        (b"\x89HDF\r\n\x1a\n" + b"x" * 99, "damaged HDF5"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"%%MatrixMarket matrix", "spam import"),
    ],
)
def test_another_kind_of_file_is_named(lab, content, words):
    lab.write_csv()
    lab.h5ad.write_bytes(content)
    lab.refused(SectionError, "--h5ad", "sample.h5ad is not an AnnData file", words)


@pytest.mark.parametrize(
    ("names", "words"), [(["matrix"], "10x Genomics"), (["mod"], "MuData"), (["x"], "has no obs")]
)
def test_hdf5_of_another_kind_is_named(lab, names, words):
    lab.write_csv()
    with h5py.File(lab.h5ad, "w") as file:
        for name in names:
            file.create_group(name)
    lab.refused(SectionError, "sample.h5ad", words)


# A3: features that are not genes


@pytest.mark.parametrize(
    "column", ["feature_types", "feature_type", "feature.types", "Feature Type", "modality"]
)
@pytest.mark.parametrize(
    ("types", "kept"),
    [
        (["Gene Expression", "Antibody Capture", "Gene Expression"], [0, 2]),
        (["gene_expression", "Negative Control Probe", ""], [0]),
        (["GEX", "ADT", "ATAC"], [0]),
        (["protein_coding", "lncRNA", "protein_coding"], [0, 1, 2]),  # CELLxGENE's biotypes
        (["Gene Expression"] * 3, [0, 1, 2]),
        ([""] * 3, [0, 1, 2]),
    ],
)
def test_only_genes_are_counts(lab, column, types, kept):
    lab.write_csv()
    adata = anndata.AnnData(
        lab.counts,
        obs=pd.DataFrame(index=list(lab.ids)),
        var=pd.DataFrame({column: types}, index=list(lab.genes)),
    )
    adata.write_h5ad(lab.h5ad)
    section = lab.read()
    assert section.genes.tolist() == [lab.genes[i] for i in kept]
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[:, kept])
    is_named = any(f"{3 - len(kept)} of 3 features are not genes" in note for note in section.join.notes)
    assert is_named == (len(kept) < 3)
    part = read_measured_part(lab.h5ad, section="S", ids=np.array(lab.ids))
    assert part.genes.tolist() == section.genes.tolist()


def test_the_types_of_features_after_a_concatenation_are_taken_together(lab):
    lab.write_csv()
    var = pd.DataFrame(
        {
            "feature_types-0": ["Gene Expression", None, None],
            "feature_types-1": [None, "Antibody Capture", "Gene Expression"],
        },
        index=list(lab.genes),
    )
    anndata.AnnData(lab.counts, obs=pd.DataFrame(index=list(lab.ids)), var=var).write_h5ad(lab.h5ad)
    section = lab.read()
    assert section.genes.tolist() == [lab.genes[0], lab.genes[2]]
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[:, [0, 2]])


def test_control_probes_are_known_by_their_names(lab):
    """As in HEST-1k, whose h5ad files of Xenium have no types of features (issue 15)."""
    lab.write_csv()
    controls = [
        "NegControlProbe_00042",
        "antisense_PROKR2",
        "NegControlCodeword_0500",
        "BLANK_0006",
        "Blank-3",
    ]
    controls += ["NegPrb07", "SystemControl12", "UnassignedCodeword_0001", "DeprecatedCodeword_0321"]
    genes = ["BLNK", "BLANK1", "NegPrbA", "PROKR2", "SYSTEMCONTROL1"]
    names = [*controls[:4], *genes, *controls[4:]]
    counts = np.arange(len(lab.ids) * len(names)).reshape(len(lab.ids), len(names)) % 7
    adata = anndata.AnnData(counts, obs=pd.DataFrame(index=list(lab.ids)), var=pd.DataFrame(index=names))
    adata.write_h5ad(lab.h5ad)
    section = lab.read()
    assert section.genes.tolist() == genes
    np.testing.assert_array_equal(section.counts.toarray(), counts[:, 4:9])
    note = next(note for note in section.join.notes if "9 of 14 features are not genes" in note)
    assert "BLANK_0006" in note


def test_no_feature_is_a_gene():
    with pytest.raises(SectionError, match="none of the 2 features"):
        gene_columns(np.array(["CD3", "CD4"]), np.array(["Antibody Capture", "Antibody Capture"]))


# B: where the counts are


def test_raw_x_and_layers_can_be_asked_for_and_are_named(lab):
    lab.write_csv()
    x = np.log1p(lab.counts)
    adata = anndata.AnnData(
        lab.counts, obs=pd.DataFrame(index=list(lab.ids)), var=pd.DataFrame(index=[*"abc"])
    )
    adata.raw = adata.copy()
    adata = adata[:, :2].copy()
    adata.X, adata.layers["counts"] = x[:, :2], x[:, :2] * 3
    adata.layers["umi"] = lab.counts[:, :2] + 1
    adata.write_h5ad(lab.h5ad)
    lab.refused(
        SectionError, "layers['counts'] must hold raw", "in layers['umi'] and raw.X", "--counts-layer umi"
    )
    lab.refused(SectionError, "X must hold raw counts", "--counts-layer umi", counts_layer="X")
    section = lab.read(counts_layer="raw")
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts)
    assert section.genes.tolist() == ["a", "b", "c"]
    lab.refused(SectionError, "'umi2'", "'X', 'counts', 'umi', 'raw'", counts_layer="umi2")
    del adata.layers["counts"]
    adata.X = None
    adata.write_h5ad(lab.h5ad)
    lab.refused(SectionError, "X is missing", "layers['umi'] and raw.X")


def test_a_matrix_of_zeros_is_named_with_the_place_of_the_counts(lab):
    lab.write_csv()
    adata = anndata.AnnData(
        lab.counts, obs=pd.DataFrame(index=list(lab.ids)), var=pd.DataFrame(index=[*"abc"])
    )
    adata.raw = adata.copy()
    adata.X = np.zeros((5, 3))
    adata.write_h5ad(lab.h5ad)
    assert "X holds only zeros; see --counts-layer: raw.X" in lab.read().join.notes
    assert lab.read(counts_layer="raw").counts.sum() == lab.counts.sum()


@pytest.mark.parametrize(
    ("n", "value", "words"),
    [(1, 2.5, "1 values are not whole, e.g. 2.5"), (5, 7.0000002, "e.g. 7.0000002 (")],
)
def test_a_few_odd_values_do_not_look_normalised(lab, n, value, words):
    lab.write_csv()
    x = lab.counts.astype(np.float64)
    x[x > 0] = [value] * n + [30.0] * (6 - n)
    lab.write_h5ad(x=sparse.csr_matrix(x))
    with pytest.raises(SectionError) as caught:
        lab.read()
    assert words in str(caught.value)
    assert ("(it looks" in str(caught.value)) == (n > 3)


# A6: libraries, donors, spots outside the tissue


@pytest.mark.parametrize("other", ["colors", "results", "A"])
def test_a_group_beside_the_library_is_no_library(lab, other):
    lab.write_csv()
    library = {"metadata": {"mpp": 0.25}, "scalefactors": {"tissue_hires_scalef": 0.1}}
    lab.write_h5ad(libraries={other: {"tumour": 1.0}, "V1": library})
    section = lab.read()
    assert (section.name, section.mpp, section.hires_scale) == ("V1", 0.25, 0.1)


def test_libraries_of_other_sections_are_named_and_not_used(lab):
    lab.write_csv()
    lab.write_h5ad(libraries={name: {"metadata": {"mpp": 0.25}} for name in ("V1", "V2")})
    section = lab.read()
    assert section.mpp is None
    assert "libraries 'V1', 'V2', none of them for section 'sample'" in section.join.notes[0]
    assert (lab.read(section="V2").mpp, lab.read(section="V2").join.notes) == (0.25, ())


@pytest.mark.parametrize(
    "column", ["donor_id", "patient_id", "Donor ID", "subject", "individual", "mouse_id"]
)
@pytest.mark.parametrize("place", ["h5ad", "table"])
def test_common_names_of_the_donor_column(lab, column, place):
    lab.write_csv(**({column: ["P7"] * 5} if place == "table" else {}))
    lab.write_h5ad(obs={column: ["P7"] * 5} if place == "h5ad" else None)
    section = lab.read()
    assert section.donor == "P7"
    assert section.obs == {}
    assert "--donor 'Q' overrules 'P7'" in lab.read(donor="Q").join.notes[0]
    assert lab.read(donor="P7").join.notes == ()


def test_a_column_that_looks_like_a_donor_is_named_and_contradictions_are_errors(lab):
    lab.write_csv()
    lab.write_h5ad(obs={"PatientNumber": [7] * 5, "case": list("abcde")})
    section = lab.read()
    assert section.donor is None
    assert "obs['PatientNumber'] ('7') looks like a donor" in section.join.notes[0]
    lab.write_h5ad(obs={"donor_id": ["A"] * 4 + ["B"]})
    lab.refused(SectionError, "'A' in obs['donor_id']; 'B' in obs['donor_id']", "--donor")
    lab.write_h5ad(obs={"donor_id": ["A"] * 5, "patient": ["B"] * 5})
    section = lab.read()
    assert section.donor == "B"
    assert "obs['donor_id'] ('A')" in section.join.notes[0]


@pytest.mark.parametrize(
    "values", [[1, 0, 1, 1, 0], [True, False, True, True, False], ["1", "0", "1", "1", "0"]]
)
def test_spots_outside_the_tissue_are_left_out(lab, values):
    kept = [0, 2, 3]
    table_order = [values[i] for i in lab.table_order]
    for obs, table in ((values, None), (None, table_order), (values, table_order)):
        lab.write_h5ad(obs=None if obs is None else {"in_tissue": obs})
        lab.write_csv(**({} if table is None else {"in_tissue": table}))
        section = lab.read()
        assert section.ids.tolist() == [lab.ids[i] for i in kept]
        np.testing.assert_array_equal(section.counts.toarray(), lab.counts[kept])
        np.testing.assert_array_equal(section.xy_px, lab.xy[kept])
        assert "2 spots with in_tissue 0 left out" in section.join.describe()
    lab.h5ad.unlink()
    assert sorted(lab.read().ids) == sorted(lab.ids[i] for i in kept)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1, 0, 0.5, 1, 0], "no 0 or 1 but '0.5' for 1 of 5"),
        (["1", "0", "?", "", "0"], "no 0 or 1 but '?' for 2 of 5"),
        ([1, 0, np.nan, np.nan, 0], "no value for 2 of 5"),
    ],
)
def test_one_unclear_row_does_not_switch_in_tissue_off(lab, values, words):
    lab.write_csv()
    lab.write_h5ad(obs={"in_tissue": values})
    section = lab.read()
    assert section.ids.tolist() == [lab.ids[i] for i in (0, 2, 3)]
    assert words in section.join.notes[0]


def test_spots_outside_the_tissue_need_no_tile_and_unclear_values_are_not_used(lab):
    lab.write_h5ad(ids=[*lab.ids, "more"], x=np.ones((6, 3)), obs={"in_tissue": [1] * 5 + [0]})
    lab.write_csv()
    assert lab.read().n_spots == 5
    lab.write_h5ad(obs={"in_tissue": [0.1, 0.9, 0.5, 0.1, 0.1]})
    section = lab.read()
    assert section.n_spots == 5
    assert "obs['in_tissue'] of sample.h5ad was not used: it has '0.1', '0.5'" in section.join.notes[0]
    lab.write_h5ad(obs={"in_tissue": [0] * 5})
    lab.refused(SectionError, "All 5 spots of section 'sample' have in_tissue 0")
