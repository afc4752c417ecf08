"""What is read of an AnnData file: spots, annotations, one matrix, coordinates, scale factors. Nothing else is touched."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from spam.errors import MissingInputError, SectionError, shortened
from spam.typing import Array, Float64, Int64, Shaped

from .count_matrix import as_counts, count_fault, gene_columns, sparse_matrix
from .file_kinds import kind_of_file
from .hdf5_files import (
    READ_ERRORS,
    attribute_text,
    attribute_texts,
    find_node,
    native,
    open_hdf5,
    read_values,
    refuse_claims,
    require_numbers,
)
from .lab_section import quoted, text_array

_BLOCK_BYTES = 2**26  # of a dense matrix, read at a time
_TYPE_COLUMNS = frozenset({"featuretypes", "featuretype", "modality"})  # without case and signs
_PARTS_OF_LIBRARY = frozenset({"images", "scalefactors", "metadata"})
_MOST_ENTRIES = 1000  # of a library in uns['spatial'], which has about ten
_WRITE_AGAIN = "Write the file again with AnnData.write_h5ad."
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
            names, columns, unreadable = _read_frame(frame, f"{self.where}: {frames[0]}", only=_is_type)
        if unreadable:
            message = f"{self.where}: {' '.join(unreadable.values())} Write the file again from its source."
            raise SectionError(message)
        types = [x for x in columns.values() if x.dtype.kind == "U" and (x != "").any()]
        # anndata.concat leaves one column for each file, which is empty for features that this file lacks.
        return names, functools.reduce(lambda x, y: np.where(x == "", y, x), types) if types else None

    def other_gene_names(self) -> dict[str, Array]:
        """Read the columns of var that hold text: other names of the genes may be among them."""
        with open_hdf5(self.path) as file:
            columns = _read_frame(find_node(file, "var"), f"{self.where}: var")[1]
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
        ids, columns, unreadable = _read_frame(obs, f"{where}: obs")
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


def _read_frame(
    node: h5py.Group | h5py.Dataset | None, where: str, *, only: Callable[[str], object] | None = None
) -> tuple[Array, dict[str, Array], dict[str, str]]:
    """Read index and columns of a data frame by its structure, whatever version of the format it states.

    Returns
    -------
    tuple
        The index (``<U``), the columns, and the faults of the columns that cannot be read.
    """
    if isinstance(node, h5py.Dataset) and node.dtype.names:  # anndata before 0.7
        refuse_claims(node)
        table = node[()]
        index_name, *names = node.dtype.names
        read = {name: _field(table[name], node.file, name) for name in node.dtype.names}
        return read[index_name].astype(np.str_), {x: read[x] for x in names if only is None or only(x)}, {}
    index_name = attribute_text(node, "_index") if isinstance(node, h5py.Group) else None
    if not isinstance(node, h5py.Group) or index_name is None:
        message = f"{where} is not a data frame with an index. {_WRITE_AGAIN}"
        raise SectionError(message)
    try:
        ids = text_array(_read_column(find_node(node, index_name), None), where="it")
    except READ_ERRORS as error:  # SectionError included
        message = f"The index of {where} cannot be read: {str(error).removesuffix('.')}. {_WRITE_AGAIN}"
        raise SectionError(message) from error
    columns: dict[str, Array] = {}
    unreadable: dict[str, str] = {}
    for name in dict.fromkeys(attribute_texts(node, "column-order")):
        if only is not None and not only(name):
            continue
        try:
            columns[name] = _read_column(find_node(node, name), len(ids))
        except READ_ERRORS as error:  # SectionError included
            unreadable[name] = f"Column {shortened(name)} of {where} cannot be read: {error}"
    return ids, columns, unreadable


def _field(values: Array, file: h5py.File, name: str) -> Array:
    """Return a column of a compound dataset; its categories, if it has any, are in uns."""
    categories = find_node(file, f"uns/{name}_categories")
    if isinstance(categories, h5py.Dataset) and values.dtype.kind in "iu":
        return _without_missing(*_decoded(values, read_values(categories)))
    if values.dtype.kind in "SO":
        return np.array([x.decode() if isinstance(x, bytes) else str(x) for x in values], dtype=np.str_)
    return native(values)


def _read_column(node: h5py.Group | h5py.Dataset | None, n_rows: int | None) -> Array:
    """Read a plain, nullable or categorical column; missing text becomes "", a missing number or boolean NaN."""
    parts: dict[str, Array] = {}
    for name in ("codes", "categories", "values", "mask") if isinstance(node, h5py.Group) else ():
        part = find_node(node, name)
        if isinstance(part, h5py.Dataset):
            parts[name] = read_values(part)
    values: Array | None = None
    is_missing: Array | None = None
    if isinstance(node, h5py.Dataset):
        values, categories = read_values(node), node.attrs.get("categories")
        if isinstance(categories, h5py.Reference):  # anndata 0.7
            values, is_missing = _decoded(values, read_values(node.file[categories]))
    elif parts.keys() >= {"codes", "categories"}:
        values, is_missing = _decoded(parts["codes"], parts["categories"])
    elif parts.keys() >= {"values", "mask"}:
        values, is_missing = parts["values"], parts["mask"].astype(np.bool_)
    if values is None:
        what = "missing" if node is None else f"of the unknown kind {attribute_text(node, 'encoding-type')!r}"
        message = f"it is {what}"
        raise SectionError(message)
    if values.ndim != 1 or (n_rows is not None and len(values) != n_rows):
        message = f"it has the shape {values.shape}, expected {'one axis' if n_rows is None else (n_rows,)}"
        raise SectionError(message)
    return _without_missing(values, is_missing)


def _decoded(codes: Array, categories: Array) -> tuple[Array, Array]:
    """Return the values of a categorical column, and which are missing (code -1)."""
    if codes.dtype.kind not in "iu" or categories.ndim != 1:
        message = f"its codes are {codes.dtype} and its categories have {categories.ndim} dimensions"
        raise SectionError(message)
    if codes.size and (codes.min() < -1 or codes.max() >= len(categories)):
        message = f"its codes go from {codes.min()} to {codes.max()} for {len(categories)} categories"
        raise SectionError(message)
    values = categories[codes] if len(categories) else np.full(codes.shape, "", dtype=np.str_)
    return values, codes < 0


def _without_missing(values: Array, is_missing: Array | None) -> Array:
    if is_missing is None or not is_missing.any():
        return values
    if values.dtype.kind == "U":
        return np.where(is_missing, "", values)
    return np.where(is_missing, np.nan, values.astype(np.float64))


def _read_spatial(file: h5py.File, n_rows: int) -> tuple[Array | None, str]:
    """Read ``obsm['spatial']``, an array or a data frame, of numbers or text; say why if it cannot be used."""
    node = find_node(file, "obsm/spatial")
    if node is None:
        return None, ""
    try:
        if isinstance(node, h5py.Group):
            columns, unreadable = _read_frame(node, "obsm/spatial")[1:]
            values = np.stack([_as_numbers(column) for column in columns.values()], axis=1)
            fault = "; ".join(unreadable.values())
        else:
            values, fault = _as_numbers(read_values(node)), ""
        if values.ndim != 2 or len(values) != n_rows or values.shape[1] < 2:
            fault = f"it has the shape {values.shape}"
    except READ_ERRORS as error:
        values, fault = None, str(error)
    return (None, f"obsm['spatial'] was not compared with the table: {fault}") if fault else (values, "")


def _as_numbers(values: Array) -> Array:
    """Convert to float64; text that is no number becomes NaN."""
    if values.dtype.kind != "U":
        return values.astype(np.float64)
    numbers = pd.to_numeric(pd.Series(values.ravel(), dtype=object), errors="coerce")
    return np.asarray(numbers, dtype=np.float64).reshape(values.shape)


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
        is_gene, note = gene_columns(types)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredPart:
    """Raw counts of some spots of a section, for the genes of the file.

    Attributes
    ----------
    rows
        Measured spots as rows of the section, ascending.
    counts
        Their raw counts, (n_measured, n_genes).
    genes
        Genes of the file.
    library_size
        Total counts of each of these spots over all genes, measured here or not, (n_measured,); None if the file does
        not have ``obs['library_size']``.
    n_unknown
        Spots of the file that the section does not have; they are left out.
    """

    rows: Int64[Array, " n_measured"]
    counts: sparse.csr_matrix
    genes: Shaped[Array, " n_genes"]
    library_size: Float64[Array, " n_measured"] | None
    n_unknown: int


def read_measured_part(path: Path, *, section: str, ids: Shaped[Array, " n_spots"]) -> MeasuredPart:
    """Read the counts of a part of a section (``--context-h5ad``): spots by obs_names, genes by var_names, in any order.

    Counts come from ``layers['counts']``, else from ``X``. If ``obs['section']`` names sections, only the rows of
    `section` are used. ``obs['library_size']`` holds the total counts of each spot if the file has only some genes.

    Parameters
    ----------
    path
        The h5ad.
    section
        Name of the section.
    ids
        Ids of its spots, as stored.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    SectionError
        If it is not an AnnData of raw counts, ids or genes are repeated, no spot belongs to this section, or
        ``obs['library_size']`` is impossible.
    """
    if not path.is_file():
        message = f"File not found: {path} (--context-h5ad)."
        raise MissingInputError(message)
    h5ad = read_h5ad(path, "--context-h5ad")
    require_readable(h5ad, ("section", "library_size"))
    stated = named_values(h5ad, "section")
    if stated and section not in stated:
        message = (
            f"{h5ad.where} has section {quoted(stated)}, not {section!r}, which is predicted; see --section."
        )
        raise SectionError(message)
    h5ad = spots_of_section(h5ad, section)
    require_unique(h5ad.ids, where=h5ad.where)
    rows = pd.Index(ids.astype(str)).get_indexer(h5ad.ids)
    if (rows < 0).all():
        message = (
            f"{h5ad.where}: none of its {len(h5ad.ids)} obs_names ({quoted(h5ad.ids)}) is among the {len(ids)} ids of "
            f"section {section!r} in the store ({quoted(ids)})."
        )
        raise SectionError(message)
    found = read_counts(h5ad, option="--context-h5ad")
    if found is None:
        message = f"{h5ad.where} has no counts. Put raw counts into X or layers['counts']."
        raise SectionError(message)
    # Results must not depend on the order of the file, not even by rounding.
    kept = np.argsort(rows)[(rows < 0).sum() :]
    counts = found.counts[kept]
    return MeasuredPart(
        rows=rows[kept].astype(np.int64),
        counts=counts,
        genes=found.genes,
        library_size=_library_size(h5ad.at(kept), counts),
        n_unknown=int((rows < 0).sum()),
    )


def _library_size(h5ad: H5ad, counts: sparse.csr_matrix) -> Float64[Array, " n"] | None:
    """Read ``obs['library_size']``, which must be at least the sum of each spot's counts."""
    if "library_size" not in h5ad.obs:
        return None
    column = h5ad.obs["library_size"]
    stated: Array = _as_numbers(column)
    sums = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    wrong = np.flatnonzero(~(np.isfinite(stated) & (stated >= sums)))
    if len(wrong):
        first = wrong[0]
        found = f"{shortened(str(h5ad.ids[first]))} has {shortened(str(column[first]))}, but its counts sum to {sums[first]:.0f}"
        message = (
            f"{h5ad.where}: obs['library_size'] is wrong for {len(wrong)} of {len(stated)} spots: {found}."
        )
        raise SectionError(message)
    return stated


def require_readable(h5ad: H5ad, columns: Iterable[str]) -> None:
    """Raise SectionError if one of these obs columns exists and cannot be read: it must not be ignored."""
    faults = [h5ad.unreadable[name] for name in columns if name in h5ad.unreadable]
    if faults:
        message = f"{' '.join(faults)}. Write the file again from its source."
        raise SectionError(message)


def require_unique(ids: Shaped[Array, " n"], *, where: str, advice: str = "Keep one row per spot.") -> None:
    """Raise if an id is empty or repeated.

    Raises
    ------
    SectionError
        Names the first of the ids.
    """
    index = pd.Index(ids)
    if (index == "").any():
        message = f"{where}: {int((index == '').sum())} ids are empty."
        raise SectionError(message)
    repeated = index[index.duplicated()].unique()
    if len(repeated):
        message = f"{where}: {len(repeated)} ids occur more than once: {quoted(repeated)}. {advice}"
        raise SectionError(message)
