"""Sections of a store as files for other tools, AnnData (HDF5 or Zarr) and Parquet: `spam store export`."""

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from spam.atomic import claimed, staged
from spam.errors import OutputExistsError
from spam.h5ad_output import write_h5ad
from spam.progress import SILENT, Progress
from spam.schemas.config import Record
from spam.schemas.store_config import ExportConfig
from spam.schemas.store_format import quality_key
from spam.schemas.tile_spec import MEASURES, flag_column

from . import StoredSection, choose_features, choose_sections, flagged_spots, open_store
from .stored_section import is_stale_graph


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport(Record):
    """Files (and folders of AnnData-Zarr) that `export` wrote, and graphs (``section/key``) that were out of date."""

    files: tuple[Path, ...]
    stale: tuple[str, ...]

    def summary(self) -> str:
        """List what was written and what was left out, one per line."""
        lines = [
            f"left out graph {name}: its features were replaced; run `spam graph` again"
            for name in self.stale
        ]
        return "\n".join([*lines, *(f"wrote {file}" for file in self.files)])


def export(config: ExportConfig, *, progress: Progress = SILENT) -> ExportReport:
    """Write sections as h5ad files, AnnData-Zarr folders, or Parquet tables.

    Features are float32. If the quality of their tiles was measured, ``obs`` has a column per flag (``tile_blank`` etc.,
    true if any exported feature comes from such a tile); features of spots with ``tile_unreadable`` are zeros without
    meaning. A Parquet table has one row per spot: columns of ``obs``, coordinates, then ``<feature key>:<number>``; a
    second one has one row per nonzero count (spot_id, gene, count).

    Raises
    ------
    OutputExistsError
        If a file exists already, or another process writes to the folder; nothing is written then.
    StoreError
        If the store, a section or features do not exist or are damaged.
    """
    assert config.out is not None  # checked by ExportConfig
    with claimed(config.out, "OUT"):
        return _export(config, config.out, progress)


def _export(config: ExportConfig, out: Path, progress: Progress) -> ExportReport:
    assert config.store is not None  # checked by ExportConfig
    store = open_store(config.store)
    sections = [store.section(name) for name in choose_sections(store, config.sections)]
    keys = [choose_features(section, config.features) for section in sections]
    names = [f"{section.meta.name}{suffix}" for section in sections for suffix in _suffixes(config, section)]
    existing = [name for name in names if (out / name).exists()]
    if existing:
        message = (
            f"{out} has {', '.join(map(repr, existing))} already. Delete them or export to another folder."
        )
        raise OutputExistsError(message)
    with staged(out) as folder, progress.task(f"export to {config.to}", len(sections)) as advance:
        for section, chosen in zip(sections, keys, strict=True):
            paths = [folder / f"{section.meta.name}{suffix}" for suffix in _suffixes(config, section)]
            _write(section, chosen, config, paths)
            advance(note=section.meta.name)
    stale = [
        f"{section.meta.name}/{key}"
        for section in (sections if config.to != "parquet" else [])
        for key in section.graph_keys
        if is_stale_graph(section.index, key)
    ]
    return ExportReport(files=tuple(out / name for name in names), stale=tuple(stale))


def to_anndata(section: StoredSection, feature_keys: Sequence[str] = ()) -> anndata.AnnData:
    """Build an AnnData of a section: raw counts, coordinates, graphs, overview image, and the named features.

    Measures of the tiles are in ``obsm["<feature key>_quality"]``, a data frame; graphs are under squidpy's keys, except
    those over features that were replaced later. ``uns["spam"]`` has the metadata of section and features as JSON.
    """
    obs = pd.DataFrame(
        _columns(section, feature_keys), index=pd.Index(section.ids.astype(str), name="spot_id")
    )
    genes = section.genes
    var = pd.DataFrame(index=pd.Index([] if genes is None else genes.astype(str), name="gene"))
    result = anndata.AnnData(X=None if genes is None else section.counts(), obs=obs, var=var)
    if section.meta.has_coordinates:
        result.obsm["spatial"] = section.xy_px
    if section.xy_um is not None:
        result.obsm["spatial_um"] = section.xy_um
    for key in feature_keys:
        result.obsm[key] = section.features(key)
        measures = section.quality(key)
        if measures is not None:
            result.obsm[quality_key(key)] = pd.DataFrame(measures, index=obs.index, columns=list(MEASURES))
    for key in section.graph_keys:
        graph = section.graph(key)
        if graph is None or is_stale_graph(section.index, key):
            continue
        result.obsp[f"{key}_connectivities"] = graph.connectivities
        result.obsp[f"{key}_distances"] = graph.distances
        result.uns[f"{key}_neighbors"] = {
            "connectivities_key": f"{key}_connectivities",
            "distances_key": f"{key}_distances",
            "params": {"n_neighbors": graph.meta.k, "metric": graph.meta.metric},
        }
    overview = section.overview()
    if overview is not None:
        image = {"images": {"hires": overview.image}, "scalefactors": {"tissue_hires_scalef": overview.scale}}
        result.uns["spatial"] = {section.meta.name: image}
    metas = {key: section.feature_meta(key).to_mapping() for key in feature_keys}
    result.uns["spam"] = {
        "section": json.dumps(section.meta.to_mapping(), ensure_ascii=False),
        "features": json.dumps(metas, ensure_ascii=False),
    }
    return result


def _columns(section: StoredSection, keys: Sequence[str]) -> dict[str, Any]:
    flags = flagged_spots(section, keys)
    return {**section.obs, **{flag_column(flag): values for flag, values in flags.items()}}


def _suffixes(config: ExportConfig, section: StoredSection) -> tuple[str, ...]:
    if config.to == "parquet" and section.meta.has_counts:
        return (".parquet", ".counts.parquet")
    return (f".{config.to}",)


def _write(section: StoredSection, keys: Sequence[str], config: ExportConfig, paths: Sequence[Path]) -> None:
    match config.to:
        case "h5ad":
            write_h5ad(to_anndata(section, keys), paths[0])
        case "zarr":
            with _zarr_v3():
                to_anndata(section, keys).write_zarr(paths[0])
        case "parquet":
            _spots_table(section, keys).to_parquet(paths[0])
            for path in paths[1:]:
                _counts_table(section).to_parquet(path, index=False)


@contextlib.contextmanager
def _zarr_v3() -> Iterator[None]:
    """Make AnnData write Zarr v3, which is its default from version 0.13 on."""
    is_default = tuple(map(int, metadata.version("anndata").split(".")[:2])) >= (0, 13)
    settings = {} if is_default else {"zarr_write_format": 3, "auto_shard_zarr_v3": False}
    with anndata.settings.override(**settings), warnings.catch_warnings():
        # AnnData consolidates the metadata, because its reader and web servers need it.
        warnings.filterwarnings(
            "ignore", message="Consolidated metadata is currently not part", category=UserWarning
        )
        yield


def _spots_table(section: StoredSection, keys: Sequence[str]) -> pd.DataFrame:
    columns = _columns(section, keys)
    if section.meta.has_coordinates:
        columns |= {"x_px": section.xy_px[:, 0], "y_px": section.xy_px[:, 1]}
    if section.xy_um is not None:
        columns |= {"x_um": section.xy_um[:, 0], "y_um": section.xy_um[:, 1]}
    for key in keys:
        columns |= {f"{key}:{place}": values for place, values in enumerate(section.features(key).T)}
        measures = section.quality(key)
        if measures is not None:
            columns |= {f"{quality_key(key)}:{name}": measures[:, i] for i, name in enumerate(MEASURES)}
    return pd.DataFrame(columns, index=pd.Index(section.ids.astype(str), name="spot_id"))


def _counts_table(section: StoredSection) -> pd.DataFrame:
    counts, genes = section.counts().tocoo(), section.genes
    assert genes is not None  # only for sections with counts
    is_there = counts.data != 0
    return pd.DataFrame(
        {
            "spot_id": pd.Categorical.from_codes(counts.row[is_there], section.ids.astype(str)),
            "gene": pd.Categorical.from_codes(counts.col[is_there], genes.astype(str)),
            "count": counts.data[is_there].astype(np.int32),
        }
    )
