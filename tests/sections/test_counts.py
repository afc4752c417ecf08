"""Raw counts: where they are taken from, and what is no count."""

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import sparse

from spam.errors import SectionError
from spam.sections import read_section
from spam.sections.h5ad import read_counts


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_whole_numbers_of_any_form_become_int32_csr(lab, dtype, form):
    lab.write_h5ad(x=form(lab.counts.astype(dtype)))
    lab.write_csv()
    counts = read_section(lab.config()).counts
    assert sparse.isspmatrix_csr(counts)
    assert counts.dtype == np.int32
    assert counts.has_canonical_format
    np.testing.assert_array_equal(counts.toarray(), lab.counts)


@settings(deadline=None)  # shared machines stall
@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 2**31 - 1)))
def test_counts_survive_unchanged(values):
    counts, genes = read_counts(AnnData(X=values.astype(np.float64)), layer=None, where="h5ad")
    np.testing.assert_array_equal(counts.toarray(), values)
    assert counts.nnz == np.count_nonzero(values)
    assert genes.tolist() == [str(i) for i in range(values.shape[1])]


def test_the_layer_counts_wins_over_x_and_the_option_over_both(lab):
    lab.write_h5ad(x=np.log1p(lab.counts), layers={"counts": lab.counts, "more": lab.counts + 2})
    lab.write_csv()
    np.testing.assert_array_equal(read_section(lab.config()).counts.toarray(), lab.counts)
    counts = read_section(lab.config(counts_layer="more")).counts
    np.testing.assert_array_equal(counts.toarray(), lab.counts + 2)


@pytest.mark.parametrize(("layers", "there"), [({"raw": np.zeros((5, 3))}, "'raw'"), (None, "none")])
def test_an_unknown_layer_lists_the_layers(lab, layers, there):
    lab.write_h5ad(layers=layers)
    lab.write_csv()
    words = rf"sample\.h5ad has no layer 'umi'; its layers are: {there}; choose with --counts-layer"
    with pytest.raises(SectionError, match=words):
        read_section(lab.config(counts_layer="umi"))


BASE = np.array([[0.0, 3.0], [5.0, 0.0], [7.0, 2.0]])


def _with(value):
    changed = BASE.copy()
    changed[1, 1] = value
    return changed


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (_with(np.nan), r"1 values are NaN or infinite, e\.g\. nan \(values from 0 to 7\)"),
        (_with(np.inf), r"1 values are NaN or infinite, e\.g\. inf"),
        (np.full((3, 2), np.nan), r"6 values are NaN or infinite.*\(values none of them finite\)"),
        (
            _with(-1.0),
            r"1 values are negative, e\.g\. -1: it looks scaled or centred \(values from -1 to 7\)",
        ),
        (np.log1p(BASE), r"4 values are not whole, e\.g\. 1\.38629: it looks log-normalised"),
        (BASE * 1000.5, r"values are not whole.*: it looks normalised by depth"),
        (_with(2.0**31), r"the largest does not fit 32 bits: 2\.14748e\+09"),
    ],
)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_what_is_no_count_is_refused(lab, matrix, words, form):
    lab.write_h5ad(ids=["s1", "s2", "s3"], x=form(matrix), genes=["A", "B"], layers={"umi": form(BASE)})
    lab.write_csv()
    with pytest.raises(SectionError, match=words) as caught:
        read_section(lab.config())
    message = str(caught.value)
    assert "X must hold raw counts" in message
    assert "--counts-layer with one of 'umi'" in message
    assert message.endswith("leave out --h5ad")


def test_without_layers_the_advice_is_to_make_one(lab):
    lab.write_h5ad(x=lab.counts + 0.5)
    lab.write_csv()
    with pytest.raises(SectionError, match=r"put them into layers\['counts'\] of the h5ad"):
        read_section(lab.config())


def test_repeated_genes(lab):
    lab.write_h5ad(genes=["A", "B", "A"])
    lab.write_csv()
    with pytest.raises(SectionError, match="1 gene names occur more than once: 'A'; make them unique"):
        read_section(lab.config())


@pytest.mark.parametrize("n_genes", [0, 1])
def test_no_gene_and_one_gene(lab, n_genes):
    lab.write_h5ad(x=lab.counts[:, :n_genes], genes=lab.genes[:n_genes])
    lab.write_csv()
    section = read_section(lab.config())
    if n_genes == 0:
        assert section.counts is None
        assert section.genes is None
    else:
        np.testing.assert_array_equal(section.counts.toarray(), lab.counts[:, :1])
        assert section.genes.tolist() == ["ACTB"]
