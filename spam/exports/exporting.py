"""`spam export`: sections of a store, or predictions, as files of other tools."""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import anndata
import numpy as np

from spam.atomic import claimed, moved_by_killed_run, staged
from spam.errors import ConfigError, OutputExistsError, SectionError, counted, shortened
from spam.h5ad_output import write_h5ad
from spam.progress import SILENT, Progress
from spam.schemas.records import Record
from spam.schemas.store_config import FEATURE_FORMATS, GENE_FORMATS, ExportConfig, ExportFormat
from spam.schemas.store_format import name_fault
from spam.sections.h5ad import named_values, read_h5ad, spots_of_section
from spam.sections.lab_section import quoted, require_unique
from spam.store import StoredSection, choose_features, choose_sections, open_store
from spam.store.anndata_files import to_anndata, write_zarr

from .exported_section import ExportedSection
from .tables import counts_path, write_mex, write_tables
from .viewers import SERVED_AT, write_geojson, write_maps, write_spatialdata, write_vitessce

_SUFFIXES: dict[ExportFormat, str] = {
    "h5ad": ".h5ad",
    "zarr": ".zarr",
    "csv": ".csv",
    "parquet": ".parquet",
    "mex": "",
    "geojson": ".geojson.gz",
    "ome-tiff": ".ome.tif",
    "vitessce": ".vitessce",
    "spatialdata": ".spatialdata.zarr",
}
_TABLES = ("csv", "parquet")
_NEED_VALUES, _NEED_PLACES = ("mex", *GENE_FORMATS), ("spatialdata", *GENE_FORMATS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport(Record):
    """What `export` wrote and left out.

    Attributes
    ----------
    files
        Files and folders.
    stale
        Graphs (``section/key``) that were left out because their features were replaced.
    notes
        Which genes and spots the files hold, where they are not all.
    """

    files: tuple[Path, ...]
    stale: tuple[str, ...]
    notes: tuple[str, ...]

    def summary(self) -> str:
        """List what was written and what was left out, one per line."""
        lines = [
            f"left out graph {name}: its features were replaced; run `spam graph` again"
            for name in self.stale
        ]
        return "\n".join([*lines, *self.notes, *(f"wrote {file}" for file in self.files)])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What is known of a section before it is read, and how to read it."""

    name: str
    genes: Collection[str]
    has_places: bool
    is_sparse: bool
    stale: tuple[str, ...]
    read: Callable[[], ExportedSection]

    def faults(self, config: ExportConfig) -> list[str]:
        """Say what the format needs and the section lacks."""
        missing = [gene for gene in config.genes if gene not in self.genes]
        near = difflib.get_close_matches(missing[0], self.genes, n=3) if missing else []
        similar = f"; similar: {', '.join(near)}" if near else ""
        lacks = f"section {self.name!r} has no"
        faults = {
            f"{lacks} gene {', '.join(missing[:5])} (--genes){similar}": missing,
            f"{lacks} counts": config.format in _NEED_VALUES and not self.genes,
            f"{lacks} finite coordinates in obsm['spatial']": config.format in _NEED_PLACES
            and not self.has_places,
        }
        return [fault for fault, is_one in faults.items() if is_one]


def export(config: ExportConfig, *, progress: Progress = SILENT) -> ExportReport:
    """Write sections of a store, or predictions, as files of other tools: one file or folder per section.

    The values are raw counts of a store, and log1p(CP10k) of predictions. Coordinates are full-resolution pixels.

    Raises
    ------
    OutputExistsError
        If a file exists already, or another process writes to the folder; nothing is written then.
    ConfigError
        If an option does not fit the source.
    SectionError
        If the h5ad cannot be read, or a section lacks what the format needs; nothing is written then.
    StoreError
        If the store, a section or features do not exist or are damaged.
    """
    assert config.out is not None  # checked by ExportConfig
    with claimed(config.out, "OUT"):
        return _export(config, config.out, progress)


def _export(config: ExportConfig, out: Path, progress: Progress) -> ExportReport:
    source = config.source
    assert source is not None  # checked by ExportConfig
    if isinstance(source, Path) and (source / "predictions.h5ad").is_file():  # the folder of `spam predict`
        source = source / "predictions.h5ad"
    is_h5ad = isinstance(source, Path) and source.suffix == ".h5ad"
    sources = list(_of_h5ad(config, Path(source)) if is_h5ad else _of_store(config, source))
    if faults := [fault for each in sources for fault in each.faults(config)]:
        message = f"--format {config.format}: {'; '.join(faults[:5])}. Choose other --genes or --sections, or another --format."
        raise SectionError(message)
    paths = {each.name: out / f"{each.name}{_SUFFIXES[config.format]}" for each in sources}
    files: list[Path] = []
    for each in sources:
        path = paths[each.name]
        files += [path, counts_path(path)] if each.is_sparse and config.format in _TABLES else [path]
    killed = moved_by_killed_run(out)
    if existing := [file.name for file in files if file.exists() and file.name not in killed]:
        message = f"{out} has {quoted(existing)} already. Delete what is there, or export to another folder."
        raise OutputExistsError(message)
    notes: list[str] = []
    with staged(out) as folder, progress.task(f"export to {config.format}", len(sources)) as advance:
        for each in sources:
            path = folder / paths[each.name].name
            notes += [f"{path.name} {note}" for note in _write(each.read(), path, config)]
            advance(note=each.name)
    stale = tuple(name for each in sources for name in each.stale)
    return ExportReport(files=tuple(files), stale=stale, notes=tuple(notes))


def _of_store(config: ExportConfig, address: Path | str) -> Iterator[_Source]:
    store = open_store(address)
    for section in [store.section(name) for name in choose_sections(store, config.sections)]:
        name = section.meta.name
        has_features = config.format in FEATURE_FORMATS
        keys = choose_features(section, config.features) if has_features else ()

        def read(section: StoredSection = section, keys: tuple[str, ...] = keys) -> ExportedSection:
            return ExportedSection(name=section.meta.name, adata=to_anndata(section, keys))

        is_stale = [key for key in section.graph_keys if section.index.is_stale_graph(key)]
        has_graphs = has_features and config.format not in _TABLES
        yield _Source(
            name=name,
            genes=() if section.genes is None else section.genes.tolist(),
            has_places=section.meta.has_coordinates,
            is_sparse=section.meta.has_counts,
            stale=tuple(f"{name}/{key}" for key in is_stale) if has_graphs else (),
            read=read,
        )


def _of_h5ad(config: ExportConfig, path: Path) -> Iterator[_Source]:
    """Find the sections of an AnnData file, such as ``predictions.h5ad``."""
    if config.features:
        message = f"--features {','.join(config.features)}: {path} is an AnnData file, not a store. Omit --features."
        raise ConfigError(message)
    table = read_h5ad(path, option="SOURCE")
    names = named_values(table, "section") or (path.stem,)
    of_section = {name: spots_of_section(table, name) for name in names}
    n_unnamed = len(table.ids) - sum(len(spots.ids) for spots in of_section.values())
    faults = [f"no section {name!r} (--sections)" for name in config.sections if name not in names]
    faults += [fault for name in names if (fault := name_fault(name, "the name of a section"))]
    faults += [f"{counted(n_unnamed, 'spot', 'have')} no obs['section']"] if n_unnamed else []
    if faults:
        message = f"{path} cannot be exported: {'; '.join(faults)}. It has: {', '.join(names)}."
        raise SectionError(message)
    if config.format not in ("h5ad", "zarr"):
        genes = table.features("X")[0]
        require_unique(genes, where=f"var_names of {path}", advice="Keep one column per gene.")
        for spots in of_section.values():
            require_unique(spots.ids, where=f"obs_names of {path}")
    try:
        adata = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:  # from h5py and anndata
        message = f"Cannot read {path} with anndata: {shortened(str(error))}. Write it again with AnnData.write_h5ad."
        raise SectionError(message) from error
    for name in dict.fromkeys(config.sections or names):
        spots = of_section[name]
        section = ExportedSection(name=name, adata=adata[spots.rows].copy())
        yield _Source(
            name=name,
            genes=() if adata.X is None else tuple(adata.var_names),
            has_places=spots.spatial is not None and bool(np.isfinite(spots.spatial).all()),
            is_sparse=adata.X is not None and not section.is_dense,
            stale=(),
            read=lambda section=section: section,  # type: ignore[misc]
        )


def _write(section: ExportedSection, path: Path, config: ExportConfig) -> list[str]:
    """Write one section; return notes on what the file does not hold, or needs."""
    genes = config.genes or section.default_genes() if config.format in GENE_FORMATS else ()
    match config.format:
        case "mex":
            write_mex(section, path)
            n_left = int((~section.is_known).sum())
            return [f"lacks {counted(n_left, 'spot')} without a prediction"] if n_left else []
        case "vitessce":
            write_vitessce(section, genes, path)
            return [
                f"is read from {SERVED_AT}: serve {config.out} there, or change the address in its config.json"
            ]
        case "geojson" | "ome-tiff":
            (write_geojson if config.format == "geojson" else write_maps)(section, genes, path)
            n = section.adata.n_vars
            is_chosen = bool(config.genes) or len(genes) == n
            return [] if is_chosen else [f"holds {len(genes)} of {n} genes: see --genes"]
        case "spatialdata":
            write_spatialdata(section, path)
        case "csv" | "parquet":
            write_tables(section, path)
        case "zarr":
            write_zarr(section.adata, path)
        case _:
            write_h5ad(section.adata, path)
    return []
