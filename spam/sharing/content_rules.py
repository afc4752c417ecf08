"""What the contents of a section must be, beyond their encoding: docs/format.md on the values themselves."""

from collections.abc import Callable, Iterator

import numpy as np

from spam.errors import StoreError
from spam.schemas.store_format import QUALITY, FeatureMeta, feature_identity, quality_key
from spam.schemas.tile_quality import MEASURES
from spam.store import StoredSection, spots_digest
from spam.store.graph_elements import graph_nodes
from spam.store.layout import DONOR, META, SECTION, SPAM, SPATIAL, SPATIAL_UM, duplicates, name_fault

from .validate_metadata import metadata_faults

__all__ = ["content_faults"]

_FILL_VALUES = {"float16": "NaN", "float32": "NaN", "bfloat16": 0x7FC0}


def content_faults(section: StoredSection) -> Iterator[tuple[str, str]]:
    """Yield path and fault of everything in a section that is not as docs/format.md says; all of it is read.

    Whatever a stranger wrote there gives faults, and no exception.
    """
    checks: list[tuple[str, Callable[[StoredSection], Iterator[str]]]] = [
        ("", _meta_faults),
        ("obs", _obs_faults),
        ("var", _var_faults),
        ("X", _counts_faults),
        ("obsm", _coordinate_faults),
        ("uns/spatial", _overview_faults),
    ]
    for name, check in checks:
        yield from ((name, fault) for fault in _caught(check, section))
    for key in section.feature_keys:
        yield from ((f"obsm/{key}", fault) for fault in _caught(_feature_faults, section, key))
    for key in section.quality_keys:
        yield from ((f"obsm/{key}", fault) for fault in _caught(_quality_faults, section, key))
    for key in section.graph_keys:
        yield from ((graph_nodes(key)[0], fault) for fault in _caught(_graph_faults, section, key))


def _caught(check: Callable[..., Iterator[str]], *arguments: object) -> Iterator[str]:
    """Give what a check finds; where it cannot go on, that is the last of its faults."""
    try:
        yield from check(*arguments)
    except StoreError as error:
        yield str(error)
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        ZeroDivisionError,
    ) as error:
        yield f"it cannot be read ({type(error).__name__}: {str(error)[:200]})"


def _meta_faults(section: StoredSection) -> Iterator[str]:
    meta, nodes = section.meta, section.index.nodes
    if meta.n_spots < 1:
        yield f"n_spots is {meta.n_spots}, a section has at least one"
    if meta.mpp is not None and not 0 < meta.mpp < np.inf:
        yield f"mpp is {meta.mpp!r}, expected µm per pixel above 0, or null"
    if not meta.has_counts and meta.n_genes:
        yield f"n_genes is {meta.n_genes} without counts, expected 0"
    yield from (
        f"source {source.name!r} has a folder in its name, expected the name alone"
        for source in meta.sources
        if "/" in source.name or "\\" in source.name
    )
    expected = {
        "X": meta.has_counts,
        f"obsm/{SPATIAL}": meta.has_coordinates,
        f"obsm/{SPATIAL_UM}": meta.has_coordinates and (f"obsm/{SPATIAL_UM}" in nodes),
    }
    for name, is_expected in expected.items():
        if (name in nodes) != is_expected:
            yield f"{name} is {'missing' if is_expected else 'there'}, which its metadata deny"
    if f"obsm/{SPATIAL_UM}" in nodes and meta.mpp is None:
        yield f"obsm/{SPATIAL_UM} is there, but mpp is unknown"


def _obs_faults(section: StoredSection) -> Iterator[str]:
    meta = section.meta
    yield from _name_faults(section.ids, "spot ids")
    own = {SECTION: meta.name, DONOR: meta.donor}
    for column, value in own.items():
        found = section.obs.get(column)
        if value is None:
            continue
        if found is None:
            yield f"column {column!r} is missing"
        elif not (found == value).all():
            other = sorted({str(entry) for entry in found.tolist()} - {value})
            yield f"column {column!r} holds {other[:3]}, the metadata say {value!r}"
    if meta.spots_sha256 is not None and meta.has_coordinates:
        found_sha256 = spots_digest(section.ids, section.xy_px)
        if found_sha256 != meta.spots_sha256:
            yield (
                f"ids and coordinates have the digest {found_sha256[:12]}…, the metadata say {meta.spots_sha256[:12]}…: "
                "they are not those that features were made for"
            )


def _var_faults(section: StoredSection) -> Iterator[str]:
    if section.genes is not None:
        yield from _name_faults(section.genes, "gene names")
    elif section.index.nodes["var/_index"]["shape"] != [0]:
        yield "it names genes, in a section without counts"


def _counts_faults(section: StoredSection) -> Iterator[str]:
    if not section.meta.has_counts:
        return
    data_type = section.index.nodes["X/data"]["data_type"]
    if data_type != "int32":
        yield f"counts are stored as {data_type}, expected int32"
    data = section.counts().data
    if not np.isfinite(data).all() or (data < 0).any() or (data != np.floor(data)).any():
        yield "counts must be whole and not negative"


def _coordinate_faults(section: StoredSection) -> Iterator[str]:
    nodes = section.index.nodes
    names = [name for name in (SPATIAL, SPATIAL_UM) if f"obsm/{name}" in nodes]
    for name in names:
        data_type = nodes[f"obsm/{name}"]["data_type"]
        if data_type != "float64":
            yield f"{name} is stored as {data_type}, expected float64"
    xy_px = section.xy_px if SPATIAL in names else None
    for name, xy in ((SPATIAL, xy_px), (SPATIAL_UM, section.xy_um)):
        bad = np.flatnonzero(~np.isfinite(xy).all(axis=1)) if xy is not None else np.empty(0)
        if bad.size:
            yield f"{name} must be finite; {bad.size} rows are not, the first is row {bad[0]}"


def _overview_faults(section: StoredSection) -> Iterator[str]:
    section.overview()  # checks itself
    yield from ()


def _feature_faults(section: StoredSection, key: str) -> Iterator[str]:
    name = f"obsm/{key}"
    node = section.index.nodes[name]
    if fault := name_fault(key, "the feature key", reserved=(SPATIAL, SPATIAL_UM)):
        yield fault
    described = node["attributes"].get(SPAM)
    if not isinstance(described, dict):
        yield f"its attribute {SPAM!r} is missing, which says how the features were made"
        return
    if faults := metadata_faults(described.get(META), "feature"):
        yield from faults
        return
    meta = FeatureMeta.from_mapping(described[META])
    if meta.key != key:
        yield f"its metadata name it {meta.key!r}"
    chunk_rows = node["codecs"][0]["configuration"]["chunk_shape"][0]
    if chunk_rows > meta.chunk_rows:
        yield f"its chunks have {chunk_rows} rows, its metadata allow {meta.chunk_rows}"
    if node["fill_value"] != _FILL_VALUES[meta.dtype]:
        yield f"its fill value is {node['fill_value']!r}, expected {_FILL_VALUES[meta.dtype]!r}: a lost chunk must be seen"
    expected, found = feature_identity(section.meta, meta), section.feature_identity(key)
    if found != expected:
        yield f"its identity is {found[:12]}…, its metadata and those of the section make {expected[:12]}…"
    section.stored_features(key)  # shape, number format, checksums, and that all is finite


def _quality_faults(section: StoredSection, key: str) -> Iterator[str]:
    yield from _feature_faults(section, key)
    meta = section.feature_meta(key)
    if (meta.dim, meta.dtype) != (len(MEASURES), "float32"):
        yield f"the quality of tiles has {len(MEASURES)} columns of float32, not {meta.dim} of {meta.dtype}"
        return
    of = key.removesuffix(f"_{QUALITY}")
    if of == key:
        yield f"an array of the quality of tiles is named after its features, {quality_key('<key>')!r}"
        return
    measures = section.features(key)
    readable, shares = measures[:, 0], measures[:, 1:3]
    if not np.isin(readable, (0, 1)).all() or shares.min(initial=0) < 0 or shares.max(initial=0) > 1:
        yield "'readable' must be 0 or 1, and shares must lie in [0, 1]"
    if of in section.feature_keys and section.features(of)[readable == 0].any():
        yield f"the features {of!r} of a tile that could not be read must be zeros"


def _graph_faults(section: StoredSection, key: str) -> Iterator[str]:
    spam = section.index.nodes[graph_nodes(key)[0]]["attributes"][SPAM]
    if fault := name_fault(key, "the graph's key"):
        yield fault
    if faults := metadata_faults(spam.get(META) if isinstance(spam, dict) else spam, "graph"):
        yield from faults
        return
    graph = section.graph(key)  # checks itself: square, indices in range, finite, not negative
    assert graph is not None  # it is among `graph_keys`
    meta = graph.meta
    named = "spatial" if meta.kind == "spatial" else f"features_{meta.features_key}"
    if key != named:
        yield f"a graph of this kind is named {named!r}"
    if meta.k < 1 or not 0 < meta.sigma < np.inf or not 0 <= meta.recall <= 1:
        yield f"k={meta.k}, sigma={meta.sigma}, recall={meta.recall} cannot be"
    if meta.kind == "spatial":
        if meta.features_key is not None or meta.features_identity is not None:
            yield "it is over coordinates, and names features"
        return
    if meta.features_key not in section.feature_keys:
        yield f"it is over the features {meta.features_key!r}, which are not there"
        return
    identity = section.feature_identity(meta.features_key)
    if meta.features_identity != identity:
        yield (
            f"it is over features of the identity {str(meta.features_identity)[:12]}…, those that are there have "
            f"{identity[:12]}…; build it again with `spam graph --overwrite`"
        )


def _name_faults(names: np.ndarray, what: str) -> Iterator[str]:
    if names.dtype.kind != "U":
        yield f"{what} must be strings, not {names.dtype}"
        return
    twice = duplicates(names.tolist())
    if twice:
        yield f"{what} must each occur once; {len(twice)} occur again, such as {twice[:3]}"
