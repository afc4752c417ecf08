"""AnnData of a section, as other tools open and plot it, and AnnData-Zarr."""

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import anndata
import pandas as pd

from spam.schemas.store_format import quality_key
from spam.schemas.tile_spec import MEASURES, flag_column

from .layout import LIBRARY, SPATIAL, SPATIAL_UM
from .stored_section import StoredSection, flagged_spots
from .writing import library_column


def to_anndata(section: StoredSection, feature_keys: Sequence[str] = ()) -> anndata.AnnData:
    """Build an AnnData of a section: raw counts, coordinates, graphs, overview image, and the named features (float32).

    If the quality of their tiles was measured, ``obs`` has a column per flag (``tile_blank`` etc., true if any of these
    features comes from such a tile); features of spots with ``tile_unreadable`` are zeros without meaning. Measures of the
    tiles are in ``obsm["<feature key>_quality"]``, a data frame; graphs are under squidpy's keys, except those over features
    that were replaced later. ``uns["spam"]`` has the metadata of section and features as JSON.
    """
    flags = {flag_column(flag): values for flag, values in flagged_spots(section, feature_keys).items()}
    columns = {**section.obs, LIBRARY: library_column(section.meta), **flags}
    obs = pd.DataFrame(columns, index=pd.Index(section.ids.astype(str), name="spot_id"))
    genes = section.genes
    var = pd.DataFrame(index=pd.Index([] if genes is None else genes.astype(str), name="gene"))
    result = anndata.AnnData(X=None if genes is None else section.counts(), obs=obs, var=var)
    for key in feature_keys:
        result.obsm[key] = section.features(key)
        measures = section.quality(key)
        if measures is not None:
            result.obsm[quality_key(key)] = pd.DataFrame(measures, index=obs.index, columns=list(MEASURES))
    for key in section.graph_keys:
        graph = section.graph(key)
        if graph is None or section.index.is_stale_graph(key):
            continue
        result.obsp[f"{key}_connectivities"] = graph.connectivities
        result.obsp[f"{key}_distances"] = graph.distances
        result.uns[f"{key}_neighbors"] = {
            "connectivities_key": f"{key}_connectivities",
            "distances_key": f"{key}_distances",
            "params": {"n_neighbors": graph.meta.k, "metric": graph.meta.metric},
        }
    add_places(result, section)
    metas = {key: section.feature_meta(key).to_mapping() for key in feature_keys}
    result.uns["spam"] = {
        "section": json.dumps(section.meta.to_mapping(), ensure_ascii=False),
        "features": json.dumps(metas, ensure_ascii=False),
    }
    return result


def add_places(adata: anndata.AnnData, section: StoredSection) -> None:
    """Add the coordinates, and the image and spot diameter with which scanpy and squidpy plot them."""
    if section.meta.has_coordinates:
        adata.obsm[SPATIAL] = section.xy_px
        adata.uns[SPATIAL] = {section.meta.name: section.spatial_library()}
    if section.xy_um is not None:
        adata.obsm[SPATIAL_UM] = section.xy_um


def write_zarr(adata: anndata.AnnData, path: Path, *, zarr_format: Literal[2, 3] = 3) -> None:
    """Write a new folder of AnnData-Zarr, with plain strings as `spam.h5ad_output.write_h5ad`."""
    with zarr_version(zarr_format), anndata.settings.override(allow_write_nullable_strings=False):
        adata.write_zarr(path)


@contextlib.contextmanager
def zarr_version(version: Literal[2, 3]) -> Iterator[None]:
    """Make AnnData write this version of Zarr; 3 is its default from anndata 0.13 on, and the setting is deprecated there."""
    is_default = version == 3 and tuple(map(int, metadata.version("anndata").split(".")[:2])) >= (0, 13)
    settings = {} if is_default else {"zarr_write_format": version, "auto_shard_zarr_v3": False}
    with warnings.catch_warnings():
        # AnnData consolidates the metadata, because its reader and web servers need it.
        warnings.filterwarnings(
            "ignore", message="Consolidated metadata is currently not part", category=UserWarning
        )
        warnings.filterwarnings("ignore", message="Writing zarr v2 data", category=UserWarning)  # asked for
        warnings.filterwarnings("ignore", message="This setting will be removed", category=DeprecationWarning)
        with anndata.settings.override(**settings):
            yield
