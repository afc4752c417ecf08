"""Sections of a store as files that other tools read: AnnData (HDF5 or Zarr) and Parquet."""

import contextlib
import dataclasses
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from spam.atomic import replacing
from spam.errors import OutputExistsError, StoreError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import ExportConfig
from spam.schemas.store_format import quality_key
from spam.schemas.tile_quality import MEASURES, flag_column
from spam.store import Graph, StoredSection, choose_features, choose_sections, flagged_spots, open_store

__all__ = ["ExportReport", "export", "to_anndata"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What `export` wrote.

    Attributes
    ----------
    files
        Files, and folders of AnnData-Zarr, in order of the sections.
    stale
        Graphs that were left out of AnnData, ``section/key``: the features that they are over were replaced since.
    """

    files: tuple[Path, ...]
    stale: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {"files": [str(file) for file in self.files], "stale": list(self.stale)}

    def summary(self) -> str:
        """Name what was written, and what was left out, one a line."""
        lines = [
            f"graph {name} was left out: its features were replaced since; build it anew with `spam graph`"
            for name in self.stale
        ]
        return "\n".join([*lines, *(f"wrote {file}" for file in self.files)])


def export(config: ExportConfig, *, progress: Progress = SILENT) -> ExportReport:
    """Write sections as h5ad files, AnnData-Zarr folders, or Parquet tables.

    Features come as float32, whatever the store keeps them as. Where the quality of their tiles was measured it comes
    too, and ``obs`` has a column for each flag (``tile_blank`` and so on: true where one of the exported features was
    made from such a tile); features of a spot with ``tile_unreadable`` are zeros and stand for nothing. A Parquet table
    has one row per spot: columns of ``obs``, coordinates, then ``<feature key>:<number>``; counts go into a second one,
    with one row per count that is not zero (spot_id, gene, count).

    Raises
    ------
    OutputExistsError
        If a file is there already; nothing is written then.
    StoreError
        If the store, a section or features are not there, or are damaged.
    """
    assert config.store is not None  # held by ExportConfig
    assert config.out is not None
    store = open_store(config.store)
    sections = [store.section(name) for name in choose_sections(store, config.sections)]
    keys = [choose_features(section, config.features) for section in sections]
    names = [f"{section.meta.name}{suffix}" for section in sections for suffix in _suffixes(config, section)]
    there = [name for name in names if (config.out / name).exists()]
    if there:
        message = f"{str(config.out)!r} holds {', '.join(map(repr, there))} already; delete them, or export to another folder"
        raise OutputExistsError(message)
    config.out.mkdir(parents=True, exist_ok=True)
    with progress.task(f"export to {config.to}", len(sections)) as advance:
        for section, chosen in zip(sections, keys, strict=True):
            _write(section, chosen, config)
            advance(note=section.meta.name)
    stale = [
        f"{section.meta.name}/{key}"
        for section in (sections if config.to != "parquet" else [])
        for key in section.graph_keys
        if (graph := section.graph(key)) is not None and _is_stale(section, graph)
    ]
    return ExportReport(files=tuple(config.out / name for name in names), stale=tuple(stale))


def to_anndata(section: StoredSection, feature_keys: Sequence[str] = ()) -> anndata.AnnData:
    """Build an AnnData of a section: raw counts, coordinates, graphs, the overview, and the features that are named.

    Flags of the features' tiles are columns of ``obs`` (``tile_unreadable``, ``tile_blank`` and so on), and what was
    measured of them is ``obsm["<feature key>_quality"]``, a data frame. Graphs are under squidpy's keys; those over
    features that were replaced since are left out. ``uns["spam"]`` says where the section and its features come from.

    Raises
    ------
    StoreError
        If features of that name are not there, or a part is damaged.
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
        if graph is None or _is_stale(section, graph):
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
    """Give the columns of ``obs``, and the flags of the tiles that features were made from."""
    flags = flagged_spots(section, keys)
    return {**section.obs, **{flag_column(flag): values for flag, values in flags.items()}}


def _is_stale(section: StoredSection, graph: Graph) -> bool:
    """Tell whether the features that a graph is over were replaced since."""
    over = graph.meta.features_key
    return (
        over is not None
        and over in section.feature_keys
        and section.feature_identity(over) != graph.meta.features_identity
    )


def _suffixes(config: ExportConfig, section: StoredSection) -> tuple[str, ...]:
    if config.to == "parquet" and section.meta.has_counts:
        return (".parquet", ".counts.parquet")
    return (f".{config.to}",)


def _write(section: StoredSection, keys: Sequence[str], config: ExportConfig) -> None:
    assert config.out is not None
    first, *more = (config.out / f"{section.meta.name}{suffix}" for suffix in _suffixes(config, section))
    if config.to == "h5ad":
        with replacing(first) as partial:
            to_anndata(section, keys).write_h5ad(partial)
    elif config.to == "zarr":
        partial = first.with_name(f"{first.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a killed export
        with _zarr_v3():
            to_anndata(section, keys).write_zarr(partial)
        partial.rename(first)
    else:
        with replacing(first) as partial:
            _spots_table(section, keys).to_parquet(partial)
        for path in more:
            with replacing(path) as partial:
                _counts_table(section).to_parquet(partial, index=False)


@contextlib.contextmanager
def _zarr_v3() -> Iterator[None]:
    """Let AnnData write Zarr v3, which it does by itself from version 0.13 on."""
    is_default = tuple(map(int, metadata.version("anndata").split(".")[:2])) >= (0, 13)
    settings = {} if is_default else {"zarr_write_format": 3, "auto_shard_zarr_v3": False}
    with anndata.settings.override(**settings), warnings.catch_warnings():
        # AnnData consolidates on purpose: its own reader, and web servers, need it.
        warnings.filterwarnings(
            "ignore", message="Consolidated metadata is currently not part", category=UserWarning
        )
        yield


def _spots_table(section: StoredSection, keys: Sequence[str]) -> pd.DataFrame:
    index = pd.Index(section.ids.astype(str), name="spot_id")
    columns = _columns(section, keys)
    if section.meta.has_coordinates:
        columns |= {"x_px": section.xy_px[:, 0], "y_px": section.xy_px[:, 1]}
    if section.xy_um is not None:
        columns |= {"x_um": section.xy_um[:, 0], "y_um": section.xy_um[:, 1]}
    for key in keys:
        features = section.features(key)
        columns |= {f"{key}:{place}": features[:, place] for place in range(features.shape[1])}
        measures = section.quality(key)
        if measures is not None:
            columns |= {f"{quality_key(key)}:{name}": measures[:, i] for i, name in enumerate(MEASURES)}
    return pd.DataFrame(columns, index=index)


def _counts_table(section: StoredSection) -> pd.DataFrame:
    counts, genes = section.counts().tocoo(), section.genes
    if genes is None:
        message = f"section {section.meta.name!r} has no counts; export it without --to parquet, or embed it with --h5ad"
        raise StoreError(message)
    is_there = counts.data != 0
    return pd.DataFrame(
        {
            "spot_id": pd.Categorical.from_codes(counts.row[is_there], section.ids.astype(str)),
            "gene": pd.Categorical.from_codes(counts.col[is_there], genes.astype(str)),
            "count": counts.data[is_there].astype(np.int32),
        }
    )
