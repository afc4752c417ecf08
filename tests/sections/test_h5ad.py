"""AnnData files: raw counts, annotations, and the counts of a part of a section (--context-h5ad)."""

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from spam.errors import MissingInputError, SectionError
from spam.sections import read_measured_part
from spam.sections.count_matrix import as_counts
from spam.sections.h5ad import library_of, read_counts

BASE = np.array([[0.0, 3.0], [5.0, 0.0], [7.0, 2.0]])


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_whole_numbers_of_any_form_become_int32_csr(lab, dtype, form):
    counts = read_counts(lab.h5ad_of(AnnData(X=form(lab.counts.astype(dtype))))).counts
    assert sparse.isspmatrix_csr(counts)
    assert counts.dtype == np.int32
    assert counts.has_canonical_format
    np.testing.assert_array_equal(counts.toarray(), lab.counts)


def test_stored_zeros_and_repeated_entries_are_summed_up_to_32_bits():
    entries = (np.array([2.0, 0.0, 3.0, 2**31 - 1]), np.array([1, 0, 1, 0]), np.array([0, 3, 4]))
    counts = as_counts(sparse.csr_matrix(entries, shape=(2, 2)), where="X")
    assert counts.nnz == 2
    np.testing.assert_array_equal(counts.toarray(), [[0, 5], [2**31 - 1, 0]])


def test_the_layer_counts_wins_over_x_and_the_option_over_both(lab):
    lab.write_h5ad(x=np.log1p(lab.counts), layers={"counts": lab.counts, "more": lab.counts + 2})
    lab.write_csv()
    np.testing.assert_array_equal(lab.read().counts.toarray(), lab.counts)
    np.testing.assert_array_equal(lab.read(counts_layer="more").counts.toarray(), lab.counts + 2)
    lab.refused(
        SectionError, "sample.h5ad", "'umi'", "'counts', 'more'", "--counts-layer", counts_layer="umi"
    )


def _with(value):
    changed = BASE.copy()
    changed[1, 1] = value
    return changed


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (_with(np.nan), "1 values are NaN or infinite, e.g. nan"),
        (_with(np.inf), "1 values are NaN or infinite, e.g. inf"),
        (np.full((3, 2), np.nan), "6 values are NaN or infinite"),
        (_with(-1.0), "1 values are negative, e.g. -1"),
        (np.log1p(BASE), "4 values are not whole, e.g. 1.38629 (it looks log-normalised)"),
        (BASE * 1000.5, "it looks normalised by depth"),
        (_with(2.0**31), "2147483648"),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_what_is_not_a_count_is_refused(lab, matrix, words, form):
    lab.write_h5ad(ids=["s1", "s2", "s3"], x=form(matrix), genes=["A", "B"], layers={"umi": form(BASE)})
    lab.write_csv()
    lab.refused(
        SectionError,
        "X must hold raw counts",
        words,
        "layers['umi']",
        "--counts-layer umi",
        "leave out --h5ad",
    )


def test_repeated_genes_no_gene_and_no_matrix(lab):
    lab.write_csv()
    lab.write_h5ad(genes=["A", "B", "A"])
    lab.refused(SectionError, "sample.h5ad", "1 gene names", "'A'")
    for options in ({"x": lab.counts[:, :0], "genes": ()}, {"x": None}):
        lab.write_h5ad(**options)
        section = lab.read()
        assert section.counts is section.genes is None
        assert section.ids.tolist() == list(lab.ids)


def test_text_numbers_and_booleans_become_plain_arrays(lab):
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(["tumour", None, "stroma"]),
            "cluster": pd.Categorical([7, 3, 7]),
            "note": ["a", "", "c"],
            "row": np.array([2, 3, 5], dtype=np.int16),
            "score": [0.5, np.nan, -1.0],
            "is_edge": [True, False, True],
            "rank": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            **dict.fromkeys(("section", "patient", "donor"), ["P"] * 3),
        },
        index=["a", "b", "c"],
    )
    lab.h5ad_of(AnnData(obs=obs))
    lab.write_text("x,y,source_image,id", "2,3,slide.tif,a", "3,5,slide.tif,b", "7,11,slide.tif,c")
    found = lab.read().obs
    expected = {
        "label": np.array(["tumour", "", "stroma"]),
        "cluster": np.array([7, 3, 7]),
        "note": np.array(["a", "", "c"]),
        "row": np.array([2, 3, 5], dtype=np.int16),
        "score": np.array([0.5, np.nan, -1.0]),
        "is_edge": np.array([True, False, True]),
        "rank": np.array([1.0, np.nan, 3.0]),
        "flag": np.array([1.0, np.nan, 0.0]),
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype.kind == values.dtype.kind, name


@pytest.mark.parametrize("spatial", [{"S": 1}, 3, None])
def test_a_library_that_is_none(lab, spatial):
    h5ad = lab.h5ad_of(AnnData(obs=pd.DataFrame(index=["a"]), uns={"spatial": spatial} if spatial else {}))
    assert h5ad.libraries == library_of(h5ad, "S") == {}


def test_files_that_are_not_anndata_or_empty(lab):
    lab.write_csv()
    lab.write_h5ad()
    whole = lab.h5ad.read_bytes()
    for content in (b"no HDF5 at all", whole[:1003]):
        lab.h5ad.write_bytes(content)
        lab.refused(SectionError, "sample.h5ad")
    lab.h5ad.unlink()
    with h5py.File(lab.h5ad, "w") as file:
        file["values"] = np.arange(3)
    lab.refused(SectionError, "sample.h5ad")
    lab.write_h5ad(ids=[], x=np.zeros((0, 3)))
    lab.refused(SectionError, "sample.h5ad", "obs is empty")


# The measured part of a section

IDS = np.array([f"S4_{i}" for i in range(7)])
SOME = ["S4_6", "elsewhere", "S4_0", "S4_3", "S4_2"]
COUNTS = np.arange(15, dtype=np.int32).reshape(5, 3)
GENES = ["A", "B", "C"]


@pytest.fixture
def part(tmp_path):
    """Write an h5ad of five spots and read it as a part of section S4."""

    def read(ids=IDS[:5], counts=COUNTS, *, obs=None, layers=None):
        var = pd.DataFrame(index=pd.Index(GENES[: counts.shape[1]]))
        adata = AnnData(X=counts, obs=pd.DataFrame(obs, index=pd.Index(ids)), var=var, layers=layers)
        adata.write_h5ad(tmp_path / "c.h5ad")
        return read_measured_part(tmp_path / "c.h5ad", section="S4", ids=IDS)

    return read


def test_spots_are_found_by_id_and_brought_into_the_order_of_the_section(part):
    found = part(SOME, obs={"library_size": [3.0, np.nan, 999, 30, 1000]})
    np.testing.assert_array_equal(found.rows, [0, 2, 3, 6])
    np.testing.assert_array_equal(found.counts.toarray(), COUNTS[[2, 4, 3, 0]])
    np.testing.assert_array_equal(found.library_size, [999, 1000, 30, 3])
    assert found.genes.tolist() == GENES
    assert found.n_unknown == 1
    found = part(np.array(IDS[:5]), np.log1p(COUNTS), layers={"counts": COUNTS})
    np.testing.assert_array_equal(found.counts.toarray(), COUNTS)
    assert found.library_size is None


def test_rows_of_other_sections_are_left_out_if_the_file_names_sections(part):
    found = part(obs={"section": ["S3", "S4", "S4", "S3", "S4"]})
    np.testing.assert_array_equal(found.rows, [1, 2, 4])
    assert found.n_unknown == 0


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"obs": {"section": ["S3"] * 5}}, r"section 'S3'.*'S4', which is predicted.*--section"),
        ({"ids": [f"{name}-1" for name in IDS[:5]]}, r"none of its 5 obs_names \('S4_0-1', .*7 ids.*'S4'"),
        ({"ids": ["S4_0", "S4_1", "S4_0", "S4_2", "S4_3"]}, r"1 ids occur more than once: 'S4_0'"),
        ({"counts": np.zeros((5, 0), dtype=np.int32)}, "no counts"),
        # The advice names the option that was given, and none that belongs to another file.
        ({"counts": np.log1p(COUNTS), "layers": {"other": COUNTS}}, r"looks log-norm((?!--counts-layer).)*--context-h5ad"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(part, options, words):
    with pytest.raises(SectionError, match=rf"--context-h5ad .*{words}"):
        part(**options)


@pytest.mark.parametrize("size", [20.0, np.nan, np.inf, "many"])
def test_library_sizes_that_are_impossible(part, size):
    sizes = [99.0, 99.0, size, 99.0, 99.0] if size != "many" else ["99", "99", size, "99", "99"]
    with pytest.raises(SectionError, match=rf"'library_size'\] .* 1 of 5 spots: 'S4_2' has '{size}.* 21"):
        part(obs={"library_size": sizes})


def test_a_part_that_does_not_exist(tmp_path):
    with pytest.raises(MissingInputError, match=r"no\.h5ad \(--context-h5ad\)"):
        read_measured_part(tmp_path / "no.h5ad", section="S4", ids=IDS)
