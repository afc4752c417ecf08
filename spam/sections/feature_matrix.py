"""Count matrices as the software of 10x Genomics writes them: HDF5, a folder of Matrix Market files (MEX), zipped Zarr."""

import dataclasses
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import pandas as pd
import scipy.io
import zarr
from scipy.sparse import csr_matrix

from spam.errors import SectionError, counted
from spam.typing import Array, Shaped

from .count_matrix import as_counts, gene_columns, sparse_matrix
from .hdf5_files import attribute_text, find_node, open_hdf5, read_values
from .instrument_section import InstrumentSection, find_file, open_text, reading
from .lab_section import quoted, require_unique

_Features: TypeAlias = tuple[InstrumentSection, Shaped[Array, " n_features"] | None]
"""All features as the file has them, and their kinds (``Gene Expression``) if it states them."""

_HEX_TO_XENIUM = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


def find_matrix(folder: Path, *names: str) -> Path | None:
    """Find a matrix by its name without suffix: HDF5 before MEX before zipped Zarr, for the first name that exists."""
    return find_file(folder, *(name + kind for name in names for kind in (".h5", "", ".zarr.zip")))


def read_matrix(path: Path) -> InstrumentSection:
    """Read a count matrix as a section without positions, whose platform is the software, if the file states it.

    Antibodies, controls and other features that are not genes are left out and counted. Of several genes with one name, the
    first keeps it and the others are named by their id.

    Raises
    ------
    SectionError
        If the file is no such matrix or damaged, ids are repeated, values are not counts, or it has no genes.
    """
    with reading("the count matrix", path):
        read = _read_mex if path.is_dir() else _read_zarr if zipfile.is_zipfile(path) else _read_h5
        found, kinds = read(path)
    return checked_matrix(found, kinds)


def checked_matrix(found: InstrumentSection, kinds: Shaped[Array, " n_features"] | None) -> InstrumentSection:
    """Check the counts of a section, and keep its genes; see `read_matrix`."""
    path = found.files[0]
    genes, ids, shape = found.genes, found.gene_ids, found.counts.shape
    if shape != (len(found.ids), len(genes)) or len(genes) != len(ids):
        sizes = f"{shape[0]} x {shape[1]} counts, but {len(found.ids)} barcodes and {len(genes)} features"
        message = f"The count matrix {path} is damaged: {sizes}. Copy it again from the instrument's output."
        raise SectionError(message)
    require_unique(found.ids, where=f"{path}, barcodes")
    try:
        is_gene, note = gene_columns(genes, kinds)
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
    return dataclasses.replace(found, counts=counts, genes=genes, gene_ids=ids, notes=(*found.notes, *notes))


def _read_h5(path: Path) -> _Features:
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
        found = InstrumentSection(
            platform=attribute_text(file, "software_version") or "",
            ids=required("barcodes"),
            counts=sparse_matrix(*arrays, form="csr", shape=shape[::-1], where=str(path)),
            genes=ids if names is None else names,
            gene_ids=ids,
            files=(path,),
        )
        return found, read("features/feature_type")


def _whole(values: Array) -> Array:
    """Return whole numbers that some programs write as floats; others stay, and are refused later."""
    is_whole = values.dtype.kind == "f" and bool((values == np.floor(values)).all())
    return values.astype(np.int64) if is_whole else values


def _read_mex(path: Path) -> _Features:
    files = []
    for names in (
        ("matrix.mtx.gz", "matrix.mtx"),
        ("barcodes.tsv.gz", "barcodes.tsv"),
        ("features.tsv.gz", "features.tsv", "genes.tsv.gz", "genes.tsv"),
    ):
        file = find_file(path, *names)
        if file is None:
            message = (
                f"{path} has no {' or '.join(names[:2])}. Copy the whole folder from the instrument's output."
            )
            raise SectionError(message)
        files.append(file)
    with open_text(files[0]) as file:
        matrix = scipy.io.mmread(file, spmatrix=True)
    features = _tabs(files[2])
    found = InstrumentSection(
        platform="",
        ids=_tabs(files[1])[:, 0],
        counts=csr_matrix(matrix.T),
        genes=features[:, min(1, features.shape[1] - 1)],
        gene_ids=features[:, 0],
        files=(path,),
    )
    return found, features[:, 2] if features.shape[1] > 2 else None


def _tabs(path: Path) -> Shaped[Array, "n_rows n_columns"]:
    with open_text(path) as file:
        # 3 is csv.QUOTE_NONE: a quote is part of a gene's name.
        frame = pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    return np.asarray(frame.to_numpy(dtype=np.str_))


def xenium_ids(ids: Array) -> Shaped[Array, " n"]:
    """Write the cell ids of Xenium's Zarr as in its tables: (prefix, suffix) 1, 1 is ``aaaaaaab-1``; a single number stays."""
    if ids.ndim == 1 or ids.shape[1] == 1:
        return ids.reshape(-1).astype(np.str_)
    return np.array([f"{int(a):08x}".translate(_HEX_TO_XENIUM) + f"-{int(b)}" for a, b in ids], dtype=np.str_)


def zipped_zarr(path: Path) -> Any:
    """Open a zipped Zarr group for reading."""
    return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")


def _read_zarr(path: Path) -> _Features:
    group = zipped_zarr(path)["cell_features"]
    keys = ("feature_keys", "feature_ids", "feature_types")
    genes, gene_ids, kinds = (np.array(group.attrs[key], dtype=np.str_) for key in keys)
    ids, matrix = xenium_ids(group["cell_id"][:]), group if "data" in group else group["csc"]
    data, indices, indptr = (matrix[name][:] for name in ("data", "indices", "indptr"))
    # One row per feature, as documented; some versions write one per cell.
    is_by_gene, shape = len(indptr) == len(genes) + 1, (len(ids), len(genes))
    counts = sparse_matrix(
        data, indices, indptr, form="csc" if is_by_gene else "csr", shape=shape, where=str(path)
    )
    found = InstrumentSection(
        platform="", ids=ids, counts=csr_matrix(counts), genes=genes, gene_ids=gene_ids, files=(path,)
    )
    return found, kinds
