"""What is read of an AnnData file: spots, annotations, one matrix, coordinates, scale factors. Nothing else is touched."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from spam.errors import SectionError, shortened
from spam.typing import Array, Float64, Int64, Shaped

from .count_matrix import as_counts, count_fault, gene_columns, sparse_matrix
from .file_kinds import kind_of_file
from .hdf5_files import (
    READ_ERRORS,
    attribute_text,
    find_node,
    native,
    open_hdf5,
    read_values,
    require_numbers,
)
from .hdf5_frames import as_numbers, read_frame
from .lab_section import quoted

_BLOCK_BYTES = 2**26  # of a dense matrix, read at a time
_TYPE_COLUMNS = frozenset({"featuretypes", "featuretype", "modality"})  # without case and signs
_PARTS_OF_LIBRARY = frozenset({"images", "scalefactors", "metadata"})
_MOST_ENTRIES = 1000  # of a library in uns['spatial'], which has about ten
_MOST_LIST = 16  # values of such an entry, which has one


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class H5ad:
    """The spots of an h5ad; matrices are read on demand.

    Attributes
    ----------
    path, where
        The file, and how messages name it.
    n_rows, rows
        Spots of the whole file, and which of them these are, in this order.
    ids
        Their names, obs_names (``<U``), which may repeat.
    obs
        Columns of text (missing is empty), numbers (missing is NaN) and booleans.
    unreadable
        Columns of obs that could not be read, and why.
    spatial
        ``obsm['spatial']``, NaN where it holds no number; None if it is missing.
    libraries
        ``uns['spatial']``: its groups alone, and of these the numbers and texts in ``metadata`` and ``scalefactors``.
    places
        Where the file has matrices: ``X``, the names of its layers, ``raw``.
    notes
        What was ignored.
    """

    path: Path
    where: str
    n_rows: int
    rows: Int64[Array, " n_spots"]
    ids: Shaped[Array, " n_spots"]
    obs: dict[str, Array]
    unreadable: Mapping[str, str]
    spatial: Float64[Array, "n_spots _"] | None
    libraries: Mapping[str, Mapping[str, Mapping[str, Any]]]
    places: tuple[str, ...]
    notes: tuple[str, ...]

    def at(self, rows: Shaped[Array, " n"]) -> "H5ad":
        """Return the spots of a mask, or at positions and in their order."""
        return dataclasses.replace(
            self,
            rows=self.rows[rows],
            ids=self.ids[rows],
            obs={name: values[rows] for name, values in self.obs.items()},
            spatial=None if self.spatial is None else self.spatial[rows],
        )

    def features(
        self, place: str
    ) -> tuple[Shaped[Array, " n_features"], Shaped[Array, " n_features"] | None]:
        """Read the names of a matrix's columns, and their ``feature_types`` (None if there are none).

        Raises
        ------
        SectionError
            If they cannot be read.
        """
        with open_hdf5(self.path) as file:
            frames = ("raw/var", "raw.var") if place == "raw" else ("var",)
            frame = next((node for name in frames if (node := find_node(file, name)) is not None), None)
            names, columns, unreadable = read_frame(frame, f"{self.where}: {frames[0]}", only=_is_type)
        if unreadable:
            message = f"{self.where}: {' '.join(unreadable.values())} Write the file again from its source."
            raise SectionError(message)
        types = [x for x in columns.values() if x.dtype.kind == "U" and (x != "").any()]
        # anndata.concat leaves one column for each file, which is empty for features that this file lacks.
        return names, functools.reduce(lambda x, y: np.where(x == "", y, x), types) if types else None

    def other_gene_names(self) -> dict[str, Array]:
        """Read the columns of var that hold text: other names of the genes may be among them."""
        with open_hdf5(self.path) as file:
            columns = read_frame(find_node(file, "var"), f"{self.where}: var")[1]
        return {name: values for name, values in columns.items() if values.dtype.kind == "U"}

    def matrix(self, place: str) -> sparse.csr_matrix:
        """Read the rows of a matrix as a sparse one, in the file's kind of numbers, half precision as single.

        Raises
        ------
        SectionError
            If it is damaged, has no numbers, or another shape than obs and var.
        """
        n_features = len(self.features(place)[0])
        with open_hdf5(self.path) as file:
            shape = self.n_rows, n_features
            matrix = _read_matrix(_matrix_node(file, place), shape, f"{self.where}: {place_name(place)}")
        is_all = np.array_equal(self.rows, np.arange(self.n_rows))
        return matrix if is_all else matrix[self.rows]


def place_name(place: str) -> str:
    """Write a place as the user's code does: X, raw.X, layers['umi']."""
    return {"X": "X", "raw": "raw.X"}.get(place, f"layers[{shortened(place)}]")


def read_h5ad(path: Path, option: str = "--h5ad") -> H5ad:
    """Read the spots of an AnnData file. Only obs, ``obsm['spatial']`` and ``uns['spatial']`` are read.

    Raises
    ------
    SectionError
        If the file is another kind of file, its obs cannot be read, or it has no spots.
    """
    where = f"{option} {path}"
    kind = kind_of_file(path)
    if kind is not None and not kind.startswith("an AnnData file"):
        message = f"{where} is not an AnnData file (.h5ad) but {kind}."
        raise SectionError(message)
    with open_hdf5(path) as file:
        obs, notes = find_node(file, "obs"), list[str]()
        if obs is None:
            message = (
                f"{where} has no obs, so it is not an AnnData file (.h5ad). It has {quoted(list(file))}."
            )
            raise SectionError(message)
        ids, columns, unreadable = read_frame(obs, f"{where}: obs")
        if len(ids) == 0:
            message = f"{where} has no spots (obs is empty)."
            raise SectionError(message)
        if unreadable:
            notes.append(f"obs columns {quoted(list(unreadable))} cannot be read and were left out")
        spatial, fault = _read_spatial(file, len(ids))
        notes += [fault] if fault else []
        layers = find_node(file, "layers")
        places = ["X"] * (find_node(file, "X") is not None)
        places += [name for name in (layers or ()) if name not in ("X", "raw")]
        places += ["raw"] * (_matrix_node(file, "raw") is not None)
        return H5ad(
            path=path,
            where=where,
            n_rows=len(ids),
            rows=np.arange(len(ids), dtype=np.int64),
            ids=ids,
            obs=columns,
            unreadable=unreadable,
            spatial=spatial,
            libraries=_read_libraries(file),
            places=tuple(places),
            notes=tuple(notes),
        )


def _is_type(column: str) -> bool:
    return re.sub("[^a-z]", "", column.lower()) in _TYPE_COLUMNS


def _matrix_node(file: h5py.File, place: str) -> h5py.Group | h5py.Dataset | None:
    if place == "raw":
        found = find_node(file, "raw/X")
        return find_node(file, "raw.X") if found is None else found  # anndata before 0.7
    return find_node(file, "X" if place == "X" else f"layers/{place}")


def _read_spatial(file: h5py.File, n_rows: int) -> tuple[Array | None, str]:
    """Read ``obsm['spatial']``, an array or a data frame, of numbers or text; say why if it cannot be used."""
    node = find_node(file, "obsm/spatial")
    if node is None:
        return None, ""
    try:
        if isinstance(node, h5py.Group):
            columns, unreadable = read_frame(node, "obsm/spatial")[1:]
            values = np.stack([as_numbers(column) for column in columns.values()], axis=1)
            fault = "; ".join(unreadable.values())
        else:
            values, fault = as_numbers(read_values(node)), ""
        if values.ndim != 2 or len(values) != n_rows or values.shape[1] < 2:
            fault = f"it has the shape {values.shape}"
    except READ_ERRORS as error:
        values, fault = None, str(error)
    return (None, f"obsm['spatial'] was not compared with the table: {fault}") if fault else (values, "")


def _read_libraries(file: h5py.File) -> dict[str, dict[str, dict[str, Any]]]:
    spatial = find_node(file, "uns/spatial")
    found = {name: find_node(spatial, name) for name in spatial} if isinstance(spatial, h5py.Group) else {}
    # CELLxGENE's is_single is a value; other programs put colours and results beside the libraries.
    groups = {name: node for name, node in found.items() if isinstance(node, h5py.Group)}
    libraries = {name: node for name, node in groups.items() if _PARTS_OF_LIBRARY & {*node}} or groups
    return {
        name: {group: _scalars(find_node(library, group)) for group in ("metadata", "scalefactors")}
        for name, library in libraries.items()
    }


def _scalars(group: h5py.Group | h5py.Dataset | None) -> dict[str, Any]:
    """Read the single values in a group; a short list stays a list."""
    values: dict[str, Any] = {}
    for name in list(group)[:_MOST_ENTRIES] if isinstance(group, h5py.Group) else ():
        node = find_node(group, name)
        if isinstance(node, h5py.Dataset) and node.size is not None and 1 <= node.size <= _MOST_LIST:
            found = read_values(node)
            values[name] = found.item() if found.size == 1 else found.tolist()
    return values


def _read_matrix(
    node: h5py.Group | h5py.Dataset | None, shape: tuple[int, int], where: str
) -> sparse.csr_matrix:
    """Read a dense or sparse matrix of the given shape as CSR; a dense one in blocks of rows."""
    if isinstance(node, h5py.Dataset):
        found: Any = node.shape
    else:
        stated = [node.attrs[x] for x in ("shape", "h5sparse_shape") if node is not None and x in node.attrs]
        found = tuple(np.asarray(stated[0]).ravel().tolist()) if stated else None
    if found != shape:
        message = f"{where} has the shape {found}, expected {shape} for obs and var. Write the file again from its source."
        raise SectionError(message)
    if isinstance(node, h5py.Dataset):
        require_numbers(node)
        n_rows = max(1, _BLOCK_BYTES // max(1, shape[1] * node.dtype.itemsize))
        if node.chunks:
            n_rows = -(-n_rows // node.chunks[0]) * node.chunks[0]
        blocks = [sparse.csr_matrix(native(node[i : i + n_rows])) for i in range(0, shape[0], n_rows)]
        return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
    assert node is not None  # it has a shape
    encoding = attribute_text(node, "encoding-type") or attribute_text(node, "h5sparse_format") or ""
    parts = [find_node(node, name) for name in ("data", "indices", "indptr")]
    arrays = [part for part in parts if isinstance(part, h5py.Dataset)]
    if encoding[:3] not in ("csr", "csc") or len(arrays) < len(parts):
        message = f"{where} is of the unknown kind {shortened(encoding)}, or lacks data, indices or indptr. Save it as CSR."
        raise SectionError(message)
    for array in arrays:
        require_numbers(array)
    data, indices, indptr = map(read_values, arrays)
    form: Literal["csr", "csc"] = "csr" if encoding.startswith("csr") else "csc"
    return sparse.csr_matrix(sparse_matrix(data, indices, indptr, form=form, shape=shape, where=where))


def named_values(h5ad: H5ad | None, column: str) -> tuple[str, ...]:
    """Return the distinct values of an obs column as text in order of appearance, without missing ones."""
    if h5ad is None or column not in h5ad.obs:
        return ()
    values = h5ad.obs[column]
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
        values = values.astype(np.int64) if (values == np.floor(values)).all() else values
    return tuple(dict.fromkeys(str(value) for value in values if str(value)))


def spots_of_section(h5ad: H5ad, section: str) -> H5ad:
    """Return the spots whose ``obs['section']`` is `section`; all spots if no section is named."""
    if not named_values(h5ad, "section"):
        return h5ad
    return h5ad.at(h5ad.obs["section"].astype(np.str_) == section)


def library_of(h5ad: H5ad | None, section: str) -> Mapping[str, Mapping[str, Any]]:
    """Return ``uns['spatial'][section]``, or the only entry under any name; empty if there is neither."""
    stated = {} if h5ad is None else h5ad.libraries
    return stated.get(section, next(iter(stated.values())) if len(stated) == 1 else {})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawCounts:
    """Raw counts of the genes of a file as canonical int32 CSR, the genes' names, and what was left out."""

    counts: sparse.csr_matrix
    genes: Shaped[Array, " n_genes"]
    notes: tuple[str, ...] = ()


def read_counts(h5ad: H5ad, *, layer: str | None = None, option: str = "--h5ad") -> RawCounts | None:
    """Take raw counts from `layer` (or ``X`` or ``raw``), else from ``layers['counts']``, else from ``X``.

    Features that are not genes (``var['feature_types']``) are left out. Floats that are whole numbers are accepted.

    Parameters
    ----------
    h5ad
        The spots.
    layer
        Place asked for with ``--counts-layer``.
    option
        Option that gave the file; ``--counts-layer`` belongs to ``--h5ad``.

    Raises
    ------
    SectionError
        If `layer` does not exist, a gene name is repeated or empty, no feature is a gene, a matrix is damaged, or a value
        is not a finite whole number >= 0; names the places that hold whole numbers.
    """
    if layer is not None and layer not in h5ad.places:
        message = f"{h5ad.where} has no matrix {shortened(layer)} (--counts-layer), only {quoted(h5ad.places) or 'none'}."
        raise SectionError(message)
    place = layer or ("counts" if "counts" in h5ad.places else "X")
    where = f"{h5ad.where}: {place_name(place)}"
    if place not in h5ad.places:
        others = _places_of_counts(h5ad, place)
        if not others:
            return None
        message = f"{where} is missing.{_advice(others, option)}"
        raise SectionError(message)
    genes, types = h5ad.features(place)
    if not len(genes):
        return None
    try:
        is_gene, note = gene_columns(genes, types)
    except SectionError as error:
        message = f"{where}: {error}. Give the counts of genes, or leave out {option}."
        raise SectionError(message) from error
    matrix = h5ad.matrix(place)
    if is_gene is not None:
        genes, matrix = genes[is_gene], matrix[:, is_gene]
    index = pd.Index(genes)
    repeated = index[index.duplicated() | (index == "")].unique()
    if len(repeated):
        message = f"{where}: {len(repeated)} gene names are repeated or empty: {quoted(repeated)}. Sum the counts of each gene."
        raise SectionError(message)
    fault = count_fault(matrix.data)
    if fault is not None:
        message = (
            f"{where} must hold raw counts, but {fault}.{_advice(_places_of_counts(h5ad, place), option)}"
        )
        raise SectionError(message)
    notes = [note] if note else []
    counts = as_counts(matrix, where=where)
    if not counts.nnz:
        elsewhere = " and ".join(map(place_name, _places_of_counts(h5ad, place)))
        notes.append(
            f"{place_name(place)} holds only zeros{elsewhere and f'; see --counts-layer: {elsewhere}'}"
        )
    return RawCounts(counts=counts, genes=genes, notes=tuple(notes))


def _places_of_counts(h5ad: H5ad, place: str) -> list[str]:
    """List the other places of a file that hold nothing but whole numbers."""
    found = []
    for other in h5ad.places:
        try:
            if other != place and count_fault(h5ad.matrix(other).data) is None:
                found.append(other)
        except SectionError:  # damaged, so not to be recommended
            continue
    return found


def _advice(places: list[str], option: str) -> str:
    if not places:
        return f" Put raw counts into layers['counts'], or leave out {option}."
    found = " and ".join(map(place_name, places))
    use = f"Use --counts-layer {places[0]}" if option == "--h5ad" else "Copy it to layers['counts']"
    return f" Whole numbers are in {found}. {use}, or leave out {option}."


def require_readable(h5ad: H5ad, columns: Iterable[str]) -> None:
    """Raise SectionError if one of these obs columns exists and cannot be read: it must not be ignored."""
    faults = [h5ad.unreadable[name] for name in columns if name in h5ad.unreadable]
    if faults:
        message = f"{' '.join(faults)}. Write the file again from its source."
        raise SectionError(message)
