"""Count matrices as the software of 10x Genomics writes them: HDF5, a folder of Matrix Market files (MEX), zipped Zarr."""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
import scipy.io
import zarr
from scipy.sparse import csr_matrix

from spam.errors import SectionError, counted
from spam.typing import Array, Shaped

from .count_matrix import as_counts, gene_columns, sparse_matrix
from .h5ad import require_unique
from .hdf5_files import attribute_text, find_node, open_hdf5, read_values
from .instrument_section import find_file, open_text, reading
from .lab_section import quoted

_HEX_TO_XENIUM = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMatrix:
    """Raw counts of a section: first of all features as the file has them, then of the genes alone, checked.

    Attributes
    ----------
    path
        The file, or the folder of Matrix Market files.
    barcodes
        Ids of the rows (``<U``), unique.
    counts
        Canonical int32 CSR, (n_barcodes, n_genes).
    kinds
        Kinds of the features as the file states them; None once only genes are left.
    genes, gene_ids
        Unique names and the vendor's ids. Of several genes with one name, the first keeps it and the others have their id.
    software
        The software that wrote the matrix, if the file states it.
    notes
        Features that were left out, repeated names.
    """

    path: Path
    barcodes: Shaped[Array, " n_barcodes"]
    counts: csr_matrix
    genes: Shaped[Array, " n_genes"]
    gene_ids: Shaped[Array, " n_genes"]
    kinds: Shaped[Array, " n_genes"] | None = None
    software: str | None = None
    notes: tuple[str, ...] = ()


def find_matrix(folder: Path, *names: str) -> Path | None:
    """Find a matrix by its name without suffix: HDF5 before MEX before zipped Zarr, for the first name that exists."""
    return find_file(folder, *(name + kind for name in names for kind in (".h5", "", ".zarr.zip")))


def read_matrix(path: Path) -> FeatureMatrix:
    """Read a count matrix, and keep its genes; antibodies, controls and other features are left out and counted.

    Raises
    ------
    SectionError
        If the file is no such matrix or damaged, ids are repeated, values are not counts, or it has no genes.
    """
    read: Callable[[Path], FeatureMatrix]
    read = _read_mex if path.is_dir() else _read_zarr if zipfile.is_zipfile(path) else _read_h5
    with reading("the count matrix", path):
        found = read(path)
    genes, ids, shape = found.genes, found.gene_ids, found.counts.shape
    if shape != (len(found.barcodes), len(genes)) or len(genes) != len(ids):
        sizes = (
            f"{shape[0]} x {shape[1]} counts, but {len(found.barcodes)} barcodes and {len(genes)} features"
        )
        message = f"The count matrix {path} is damaged: {sizes}. Copy it again from the instrument's output."
        raise SectionError(message)
    require_unique(found.barcodes, where=f"{path}, barcodes")
    try:
        is_gene, note = gene_columns(genes, found.kinds)
    except SectionError as error:
        message = f"{path}: {error}. Give a section with gene expression."
        raise SectionError(message) from error
    notes = [note] if note else []
    counts = as_counts(found.counts, where=str(path))
    if is_gene is not None:
        counts, genes, ids = counts[:, is_gene], genes[is_gene], ids[is_gene]
    repeated = pd.Index(genes).duplicated()
    if repeated.any():
        notes.append(
            f"{counted(int(repeated.sum()), 'gene', 'share')} the name of another ({quoted(genes[repeated])}): named by Ensembl id"
        )
        genes = np.where(repeated, ids, genes)
        require_unique(genes, where=f"{path}, genes", advice="Give each gene a unique name.")
    return dataclasses.replace(
        found, counts=counts, genes=genes, gene_ids=ids, kinds=None, notes=tuple(notes)
    )


def xenium_ids(ids: Array) -> Shaped[Array, " n"]:
    """Write the cell ids of Xenium's Zarr as in its tables: (prefix, suffix) 1, 1 is ``aaaaaaab-1``; a single number stays."""
    if ids.ndim == 1 or ids.shape[1] == 1:
        return ids.reshape(-1).astype(np.str_)
    return np.array([f"{int(a):08x}".translate(_HEX_TO_XENIUM) + f"-{int(b)}" for a, b in ids], dtype=np.str_)


def zipped_zarr(path: Path) -> Any:
    """Open a zipped Zarr group for reading."""
    return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")


def _read_h5(path: Path) -> FeatureMatrix:
    with open_hdf5(path) as file:
        features = find_node(file, "matrix/features")
        if not isinstance(features, h5py.Group):
            message = f"{path} is an HDF5 file, but no count matrix of Space Ranger or Xenium. It has {quoted(list(file))}."
            raise SectionError(message)

        def read(name: str) -> Array | None:
            node = find_node(file, f"matrix/{name}")
            return read_values(node) if isinstance(node, h5py.Dataset) else None

        def required(name: str) -> Array:
            if (values := read(name)) is None:
                message = f"The count matrix {path} is damaged: it has no matrix/{name}."
                raise SectionError(message)
            return values

        shape = tuple(_whole(required("shape")).tolist())
        arrays = (required("data"), _whole(required("indices")), _whole(required("indptr")))
        ids, names = required("features/id"), read("features/name")
        return FeatureMatrix(
            path=path,
            counts=sparse_matrix(*arrays, form="csr", shape=shape[::-1], where=str(path)),
            barcodes=required("barcodes"),
            genes=ids if names is None else names,
            gene_ids=ids,
            kinds=read("features/feature_type"),
            software=attribute_text(file, "software_version"),
        )


def _whole(values: Array) -> Array:
    """Return whole numbers that some programs write as floats; others stay, and are refused later."""
    is_whole = values.dtype.kind == "f" and bool((values == np.floor(values)).all())
    return values.astype(np.int64) if is_whole else values


def _read_mex(path: Path) -> FeatureMatrix:
    files = {}
    for what, names in (
        ("matrix", ("matrix.mtx.gz", "matrix.mtx")),
        ("barcodes", ("barcodes.tsv.gz", "barcodes.tsv")),
        ("features", ("features.tsv.gz", "features.tsv", "genes.tsv.gz", "genes.tsv")),
    ):
        file = find_file(path, *names)
        if file is None:
            message = (
                f"{path} has no {' or '.join(names[:2])}. Copy the whole folder from the instrument's output."
            )
            raise SectionError(message)
        files[what] = file
    with open_text(files["matrix"]) as file:
        matrix = scipy.io.mmread(file, spmatrix=True)
    features = _tabs(files["features"])
    return FeatureMatrix(
        path=path,
        counts=csr_matrix(matrix.T),
        barcodes=_tabs(files["barcodes"])[:, 0],
        genes=features[:, min(1, features.shape[1] - 1)],
        gene_ids=features[:, 0],
        kinds=features[:, 2] if features.shape[1] > 2 else None,
    )


def _tabs(path: Path) -> Shaped[Array, "n_rows n_columns"]:
    with open_text(path) as file:
        # 3 is csv.QUOTE_NONE: a quote is part of a gene's name.
        frame = pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    return np.asarray(frame.to_numpy(dtype=np.str_))


def _read_zarr(path: Path) -> FeatureMatrix:
    group = zipped_zarr(path)["cell_features"]
    names, ids, kinds = (
        np.array(group.attrs[key], dtype=np.str_) for key in ("feature_keys", "feature_ids", "feature_types")
    )
    barcodes = xenium_ids(group["cell_id"][:])
    matrix = group if "data" in group else group["csc"]
    arrays = tuple(matrix[name][:] for name in ("data", "indices", "indptr"))
    # One row per feature, as documented; some versions write one per cell.
    form: Literal["csr", "csc"] = "csc" if len(arrays[2]) == len(names) + 1 else "csr"
    counts = sparse_matrix(*arrays, form=form, shape=(len(barcodes), len(names)), where=str(path))
    return FeatureMatrix(
        path=path, counts=csr_matrix(counts), barcodes=barcodes, genes=names, gene_ids=ids, kinds=kinds
    )
