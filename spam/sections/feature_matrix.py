"""Count matrices as the software of 10x Genomics writes them: HDF5, a folder of Matrix Market files (MEX), zipped Zarr."""

import dataclasses
import gzip
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.io
import zarr
from scipy.sparse import csr_matrix

from spam.errors import SectionError
from spam.typing import Array, Shaped

from .h5ad import require_unique, values_fault
from .lab_section import quoted

_GENES = frozenset({"Gene Expression", "gene"})  # the second in Xenium's Zarr
_GZIP = b"\x1f\x8b"
_HEX_TO_XENIUM = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMatrix:
    """Raw counts of the genes of a section.

    Attributes
    ----------
    path
        The file, or the folder of Matrix Market files.
    barcodes
        Ids of the rows (``<U``), unique.
    counts
        Canonical int32 CSR, (n_barcodes, n_genes).
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
    software: str | None = None
    notes: tuple[str, ...] = ()


def find_file(folder: Path, *names: str) -> Path | None:
    """Find the first of some names in a folder, also with a data set's name before it (``NAME_cells.parquet``); else None.

    Raises
    ------
    SectionError
        If several data sets have a file of that name.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
        found = sorted(folder.glob(f"*_{name}"))
        if len(found) > 1:
            shown = quoted([path.name for path in found])
            message = f"{folder} holds {len(found)} files named *_{name}: {shown}. Put the files of each section into a folder."
            raise SectionError(message)
        if found:
            return found[0]
    return None


def find_matrix(folder: Path, *names: str) -> Path | None:
    """Find a matrix by its name without suffix: HDF5 before MEX before zipped Zarr, for the first name that exists."""
    return find_file(folder, *(name + kind for name in names for kind in (".h5", "", ".zarr.zip")))


def read_matrix(path: Path) -> FeatureMatrix:
    """Read a count matrix, and keep its genes; antibodies, controls and other features are left out and counted.

    Raises
    ------
    SectionError
        If the file is not such a matrix, its structure is damaged, ids are repeated, values are not counts, or it has no
        genes.
    """
    read: Callable[[Path], dict[str, Any]]
    read = _read_mex if path.is_dir() else _read_zarr if zipfile.is_zipfile(path) else _read_h5
    try:
        parts = read(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:  # of h5py, zarr and scipy
        if isinstance(error, SectionError):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        message = (
            f"Cannot read the count matrix {path}: {reason}. Copy it again from the instrument's output."
        )
        raise SectionError(message) from error
    barcodes, names, ids, kinds = (
        np.array(parts[key], dtype=np.str_) for key in ("barcodes", "names", "ids", "kinds")
    )
    counts: csr_matrix = parts["counts"]  # (n_barcodes, n_features)
    if counts.shape != (len(barcodes), len(names)) or not len(names) == len(ids) == len(kinds):
        message = f"{path}: {counts.shape[1]} x {counts.shape[0]} counts, but {len(names)} features and {len(barcodes)} barcodes."
        raise SectionError(message)
    require_unique(barcodes, where=f"{path}, barcodes")
    fault = values_fault(counts.data)
    if fault is not None:
        message = f"{path} must hold raw counts, but {fault}."
        raise SectionError(message)
    is_gene = np.isin(kinds, list(_GENES))
    if not is_gene.any():
        message = f"{path} has no features of type 'Gene Expression', only {quoted(np.unique(kinds))}."
        raise SectionError(message)
    left_out = Counter(kinds[~is_gene].tolist())
    notes = [f"{n} features of type {kind!r} are left out" for kind, n in sorted(left_out.items())]
    counts = counts.astype(np.int32)
    counts = counts if is_gene.all() else counts[:, is_gene]
    counts.sum_duplicates()
    counts.eliminate_zeros()
    genes, ids = names[is_gene], ids[is_gene]
    repeated = pd.Index(genes).duplicated()
    if repeated.any():
        notes.append(
            f"{repeated.sum()} genes share the name of another ({quoted(genes[repeated])}) and are named by their id"
        )
        genes = np.where(repeated, ids, genes)
        require_unique(genes, where=f"{path}, genes", advice="Each needs a name of its own.")
    return FeatureMatrix(
        path=path,
        barcodes=barcodes,
        counts=counts,
        genes=genes,
        gene_ids=ids,
        software=parts.get("software"),
        notes=tuple(notes),
    )


def xenium_ids(ids: Array) -> Shaped[Array, " n"]:
    """Write the cell ids of Xenium's Zarr as in its tables: (prefix, suffix) 1, 1 is ``aaaaaaab-1``; a single number stays."""
    if ids.ndim == 1 or ids.shape[1] == 1:
        return ids.reshape(-1).astype(np.str_)
    return np.array([f"{int(a):08x}".translate(_HEX_TO_XENIUM) + f"-{int(b)}" for a, b in ids], dtype=np.str_)


def zipped_zarr(path: Path) -> Any:
    """Open a zipped Zarr group for reading."""
    return zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")


def open_text(path: Path) -> Any:
    """Open a text file, compressed or not, whatever its name says."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == _GZIP
    return gzip.open(path, "rb") if is_compressed else path.open("rb")


def _compressed_rows(
    data: Array, indices: Array, indptr: Array, shape: tuple[int, int], path: Path
) -> csr_matrix:
    """Build a CSR matrix after a check of its whole structure: scipy trusts it, and would read other memory."""
    n_rows, n_columns = shape
    indices, indptr = _whole(indices, path, "indices"), _whole(indptr, path, "indptr")
    for is_wrong, fault in (
        (len(indptr) != n_rows + 1, f"indptr has {len(indptr)} entries for {n_rows} rows"),
        (len(data) != len(indices), f"{len(data)} values for {len(indices)} indices"),
        (len(indptr) and (indptr[0] != 0 or indptr[-1] != len(data)), "indptr does not span the values"),
        ((np.diff(indptr) < 0).any(), "indptr decreases"),
        (
            len(indices) and not 0 <= indices.min() <= indices.max() < n_columns,
            f"an index is not from 0 to {n_columns - 1}",
        ),
    ):
        if is_wrong:
            message = (
                f"The count matrix {path} is damaged: {fault}. Copy it again from the instrument's output."
            )
            raise SectionError(message)
    return csr_matrix((data, indices, indptr), shape=shape)


def _whole(values: Array, path: Path, what: str) -> Array:
    """Return whole numbers as int64; some programs write them as floats."""
    if values.dtype.kind not in "iuf" or (
        values.dtype.kind == "f" and not (values == np.floor(values)).all()
    ):
        message = f"The count matrix {path} is damaged: {what} are not whole numbers."
        raise SectionError(message)
    return values.astype(np.int64)


def _read_h5(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        group = file.get("matrix")
        if not isinstance(group, h5py.Group) or "features" not in group:
            message = f"{path} is an HDF5 file, but no count matrix of Space Ranger or Xenium: it holds {quoted(list(file))}."
            raise SectionError(message)

        def read(name: str) -> Array:
            item = group[name]
            if item.external or item.is_virtual:
                message = f"{path}: {name!r} lies in other files, which are not read. Write the matrix into one file."
                raise SectionError(message)
            return np.asarray(item.asstr()[:] if item.dtype.kind in "SO" else item[:])

        names = read("features/name" if "name" in group["features"] else "features/id")
        n_features, n_barcodes = _whole(read("shape"), path, "shape").tolist()
        software = file.attrs.get("software_version")
        return {
            "counts": _compressed_rows(
                read("data"), read("indices"), read("indptr"), (n_barcodes, n_features), path
            ),
            "barcodes": read("barcodes"),
            "names": names,
            "ids": read("features/id"),
            "kinds": _or_genes(
                read("features/feature_type") if "feature_type" in group["features"] else (), names
            ),
            "software": software.decode()
            if isinstance(software, bytes)
            else str(software)
            if software is not None
            else None,
        }


def _read_mex(path: Path) -> dict[str, Any]:
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
    features, barcodes = (_tabs(files[what]) for what in ("features", "barcodes"))
    with open_text(files["matrix"]) as file:
        matrix = scipy.io.mmread(file)
    return {
        "counts": csr_matrix(matrix.T),
        "barcodes": barcodes[0],
        "names": (names := features[min(1, features.shape[1] - 1)]),
        "ids": features[0],
        "kinds": _or_genes(features[2] if features.shape[1] > 2 else (), names),
    }


def _tabs(path: Path) -> Any:
    with open_text(path) as file:
        # 3 is csv.QUOTE_NONE: a quote is part of a gene's name.
        return pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)


def _or_genes(kinds: Sequence[str] | Array, names: Sequence[str] | Array) -> Sequence[str] | Array:
    """Return the stated types; where a file states none, every feature is a gene."""
    return kinds if len(kinds) else ["Gene Expression"] * len(names)


def _read_zarr(path: Path) -> dict[str, Any]:
    group = zipped_zarr(path)["cell_features"]
    names, ids, kinds = (list(group.attrs[key]) for key in ("feature_keys", "feature_ids", "feature_types"))
    barcodes = xenium_ids(group["cell_id"][:])
    data, indices, indptr = (group[name][:] for name in ("data", "indices", "indptr"))
    if len(indptr) == len(names) + 1:  # one row per feature, as documented
        counts = _compressed_rows(data, indices, indptr, (len(names), len(barcodes)), path).T.tocsr()
    else:
        counts = _compressed_rows(data, indices, indptr, (len(barcodes), len(names)), path)
    return {"counts": counts, "barcodes": barcodes, "names": names, "ids": ids, "kinds": kinds}
