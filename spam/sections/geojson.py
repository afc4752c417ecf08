"""GeoJSON of QuPath and of segmentations, in full-resolution pixels: regions that choose and label spots, and cells."""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from spam.errors import ConfigError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Bool, Float64

from .coordinates import find_scale
from .hdf5_files import READ_ERRORS
from .instrument_section import open_text, reading, require_finite
from .lab_section import (
    JoinReport,
    Section,
    SlideSource,
    TileFiles,
    describe_files,
    describe_sources,
    is_slide,
    quoted,
    require_name,
    text_array,
)

_Use: TypeAlias = Literal["keep", "leave out", "label"]

LABELS = "region"
"""Column of obs with the class of the region around a spot."""

# Classes that say where tiles are, without signs and case; all others are labels. "Region*" and "Ignore*" are QuPath's own.
_KEPT, _TISSUE, _LEFT_OUT = ("region", "tissue"), "tissue", ("ignore", "exclude", "excluded")
_OF_CELLS = ("cell", "detection", "tile")
# QuPath before 0.4 wrote the kind of an object in place of its id.
_OLD_CELLS = ("PathCellObject", "PathDetectionObject", "PathTileObject")
_NO_IDS = (*_OLD_CELLS, "PathAnnotationObject")
_ODD = "objects without an outline or place, or with an unreadable class, were skipped"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """An annotation.

    Attributes
    ----------
    label
        Its class, else its name; empty if it has neither.
    use
        ``keep``: tiles lie only in these regions; ``leave out``; ``label``: a class of tissue.
    is_tissue
        Whether it was drawn as the tissue itself.
    polygons
        Rings of each polygon, the first of which is the outline and the others holes.
    """

    label: str
    use: _Use
    is_tissue: bool
    polygons: tuple[tuple[Float64[Array, "_ 2"], ...], ...]

    def contains(self, xy_px: Float64[Array, "n 2"]) -> Bool[Array, " n"]:
        """Return which points lie inside."""
        found = np.zeros(len(xy_px), dtype=np.bool_)
        for rings in self.polygons:
            found |= inside(rings, xy_px)
        return found

    @property
    def area(self) -> float:
        """Area in pixels."""
        areas = ([abs(ring_area(ring)) for ring in rings] for rings in self.polygons)
        return sum(first - sum(holes) for first, *holes in areas)


def inside(rings: Sequence[Float64[Array, "_ 2"]], xy_px: Float64[Array, "n 2"]) -> Bool[Array, " n"]:
    """Return which points lie inside an odd number of rings (even-odd rule: holes, and rings that cross themselves).

    A point on a left or upper edge is inside, on a right or lower one outside, so that it is in one of two regions side by side.
    """
    order = np.argsort(xy_px[:, 1], kind="stable")
    xs, ys = xy_px[order].T
    is_inside = np.zeros(len(xy_px), dtype=np.bool_)
    for ring in rings:
        (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
        first, last = np.searchsorted(ys, np.minimum(y0, y1)), np.searchsorted(ys, np.maximum(y0, y1))
        for edge in np.flatnonzero(last > first).tolist():  # only points at its height can be right of it
            rows = slice(first[edge], last[edge])
            part = (ys[rows] - y0[edge]) / (y1[edge] - y0[edge])
            is_inside[rows] ^= xs[rows] >= x0[edge] + part * (x1[edge] - x0[edge])
    found = np.empty_like(is_inside)
    found[order] = is_inside
    return found


def ring_area(ring: Float64[Array, "n_corners 2"]) -> float:
    """Return the signed area of a ring."""
    return _area_and_centre(ring)[0]


def _area_and_centre(ring: Float64[Array, "n_corners 2"]) -> tuple[float, Float64[Array, " 2"]]:
    origin = ring[0]  # differences from a corner: products of large coordinates would lose digits
    a, b = ring - origin, np.roll(ring, -1, axis=0) - origin
    cross = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    area = float(cross.sum()) / 2
    centre = ((a + b) * cross[:, None]).sum(axis=0) / (6 * area) + origin if area else ring.mean(axis=0)
    return area, centre


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeoObject:
    """A feature of a GeoJSON: its class, name and ids (empty if it has none), polygons and points."""

    label: str
    name: str
    id: str
    cell_id: Any
    is_cell: bool
    polygons: tuple[tuple[Float64[Array, "_ 2"], ...], ...]
    points: tuple[Float64[Array, " 2"], ...]

    @property
    def centre(self) -> Float64[Array, " 2"]:
        """Centroid by area; that of the largest of several polygons."""
        found = [_area_and_centre(rings[0]) for rings in self.polygons]
        return max(found, key=lambda part: abs(part[0]))[1]


def _object(feature: Mapping[str, Any]) -> GeoObject:
    """Parse a feature; raises one of `READ_ERRORS` if it has no geometry, an empty part, or an unreadable class."""
    properties = feature.get("properties") or {}
    # QuPath: ``name``, or ``names`` of a derived class since version 0.4.
    stated = properties.get("classification") or {}
    label = stated if isinstance(stated, str) else stated.get("name") or ": ".join(stated.get("names") or ())
    polygons, points = _parts(feature["geometry"])
    is_cell = properties.get("objectType") in _OF_CELLS or feature.get("id") in _OLD_CELLS
    return GeoObject(
        label=str(label),
        name=str(properties.get("name") or ""),
        id="" if feature.get("id") in _NO_IDS else str(feature.get("id") or ""),
        cell_id=properties.get("cell_id"),
        is_cell=is_cell or "cell_id" in properties,
        polygons=polygons,
        points=points,
    )


def _parts(geometry: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the rings of each polygon, and the points; neither of lines."""
    kind = geometry["type"]
    if kind == "GeometryCollection":
        parts = [_parts(part) for part in geometry["geometries"]]
        return sum((part[0] for part in parts), ()), sum((part[1] for part in parts), ())
    found = geometry["coordinates"] if kind.startswith("Multi") else [geometry["coordinates"]]
    polygons = tuple(map(_rings, found)) if kind.endswith("Polygon") else ()
    points = tuple(_pairs([point])[0] for point in found) if kind.endswith("Point") else ()
    if not (found and all(polygons)):
        message = "a part is empty"
        raise ValueError(message)
    return polygons, points


def _rings(rings: Any) -> tuple[Float64[Array, "_ 2"], ...]:
    return tuple(map(_pairs, rings))


def _pairs(corners: Any) -> Float64[Array, "n 2"]:
    return np.asarray(corners, dtype=np.float64)[:, [0, 1]]


def read_objects(path: Path) -> tuple[list[GeoObject], int]:
    """Read the features of a GeoJSON, compressed or not: a FeatureCollection, a list, or one feature.

    Also returns how many were skipped because they have no geometry, an empty ring or an unreadable class.

    Raises
    ------
    SectionError
        If it is no GeoJSON, or has no features.
    """
    with reading("the GeoJSON", path), open_text(path) as file:
        found = json.load(file)
    fault = "is JSON, but no GeoJSON: it has no list of features"
    if isinstance(found, dict):
        fault = (
            "holds a geometry without a feature" if "coordinates" in found or "geometries" in found else fault
        )
        found = [found] if found.get("type") == "Feature" else found.get("features")
    is_features = isinstance(found, list) and all(isinstance(one, dict) for one in found)
    if not is_features or not found:
        fault = "holds no features" if is_features else fault
        message = f"{path} {fault}. Export it again: in QuPath, File > Export objects as GeoJSON."
        raise SectionError(message)
    usable = []
    for one in found:
        with contextlib.suppress(*READ_ERRORS):
            usable.append(_object(one))
    return usable, len(found) - len(usable)


def read_regions(path: Path) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """Read the annotations of a GeoJSON, and notes on objects that are none.

    Classes ``Tissue`` and ``Region*``, and annotations without class and name, say where tiles are; ``Ignore*``, ``Exclude`` and
    ``Excluded`` where none are (signs and case do not matter). Any other class or name is a label.

    Raises
    ------
    SectionError
        If the file cannot be read, or has no area.
    """
    regions, ignored = [], Counter[str]()
    features, n_odd = read_objects(path)
    for one in features:
        if one.is_cell or not one.polygons:
            ignored["cells or detections" if one.is_cell else "points or lines"] += 1
            continue
        label = one.label or one.name
        word = label.strip(" *").lower()
        use: _Use = "keep" if word in ("", *_KEPT) else "leave out" if word in _LEFT_OUT else "label"
        regions.append(Region(label=label, use=use, is_tissue=word == _TISSUE, polygons=one.polygons))
    notes = tuple(f"{path.name}: {n} {kind} are no regions, and were not used" for kind, n in ignored.items())
    notes += (f"{path.name}: {n_odd} {_ODD}",) if n_odd else ()
    if not regions:
        message = (
            f"{path} has no annotations with an area (--regions){': ' + '; '.join(notes) if notes else ''}."
        )
        raise SectionError(message)
    return tuple(regions), notes


def select_regions(section: Section, path: Path | None) -> Section:
    """Keep the spots whose centres lie in the regions of a file (see `read_regions`), with the labels in ``obs['region']``.

    Where labels overlap, the smallest region counts. None returns the section itself.

    Raises
    ------
    SectionError
        If the file cannot be read, or no spot is left.
    """
    if path is None:
        return section
    regions, ignored = read_regions(path)
    found = {id(region): region.contains(section.xy_px) for region in regions}
    notes = [*ignored]
    is_kept = np.ones(section.n_spots, dtype=np.bool_)
    n_before, left = section.n_spots, dict[str, int]()
    for use, words in (("keep", "outside"), ("leave out", "in")):
        chosen = [region for region in regions if region.use == use]
        if chosen:
            is_in = np.any([found[id(region)] for region in chosen], axis=0)
            is_wrong = is_kept & (is_in if use == "leave out" else ~is_in)
            names = quoted(sorted({region.label or "unnamed" for region in chosen}))
            left[f"{words} {names}"] = int(is_wrong.sum())
            is_kept &= ~is_wrong
    labels = np.full(section.n_spots, "", dtype=object)
    for region in sorted(regions, key=lambda region: -region.area):
        if region.use == "label":
            labels[found[id(region)]] = region.label
        if not found[id(region)].any():
            notes.append(f"{path.name}: region {region.label or 'unnamed'!r} holds no spot")
    where = ", ".join(f"{n} spot{'' if n == 1 else 's'} {what} left out" for what, n in left.items())
    if not is_kept.any():
        found_none = f"No spot of section {section.name!r} is left by {path} (--regions): {where}"
        message = f"{found_none}. Its coordinates must be full-resolution pixels of the slide."
        raise SectionError(message)
    obs = {name: values[is_kept] for name, values in section.obs.items()}
    counted = Counter(labels[is_kept].tolist())
    has_labels = any(region.use == "label" for region in regions)
    if has_labels:
        if LABELS in obs:
            notes.append(f"obs[{LABELS!r}] of the lab files is replaced by the classes in {path.name}")
        obs[LABELS] = text_array(labels[is_kept], where=f"{path}, classes")
        named = ", ".join(f"{n} {label or 'without a class'}" for label, n in counted.most_common())
        where = "; ".join(filter(None, [where, named]))
    summary = f"{int(is_kept.sum())} of {n_before} spots by {path.name}" + (f" ({where})" if where else "")
    tiles = section.tiles
    if isinstance(tiles, TileFiles):
        tiles = TileFiles(paths=tuple(np.array(tiles.paths, dtype=object)[is_kept]))
    n_kept = int(is_kept.sum())
    return dataclasses.replace(
        section,
        ids=section.ids[is_kept],
        xy_px=section.xy_px[is_kept],
        counts=None if section.counts is None else section.counts[is_kept],
        obs=obs,
        tiles=tiles,
        join=dataclasses.replace(
            section.join, n_matched=n_kept, regions=summary, notes=(*section.join.notes, *notes)
        ),
    )


def read_cells(config: InputConfig) -> Section:
    """Read the cells, detections or points of a GeoJSON as a section without counts on the slide ``--root``.

    Ids are the names of the objects if they are unique, else their ids, else numbers. Classes are in ``obs['class']``.
    Annotations with an area are left out, unless there is nothing else.

    Raises
    ------
    ConfigError
        If ``--root`` is no slide, or ``--mpp`` is impossible.
    SectionError
        If the file cannot be read, or holds no cells.
    """
    path, root = config.cells, config.root
    assert path is not None
    assert root is not None  # checked by the configuration
    if not is_slide(root):
        message = f"--cells belong to one slide; give it with --root, not {root}."
        raise ConfigError(message)
    features, n_odd = read_objects(path)
    used = [one for one in features if one.points or one.is_cell] or features
    each = [(one, at) for one in used for at in one.points or ([one.centre] if one.polygons else [])]
    places, classes = [at for _, at in each], [one.label for one, _ in each]
    names = [one.name or str(one.cell_id or "") for one, _ in each]
    ids = [one.id for one, _ in each]
    notes = [f"{path.name}: {n_odd} {_ODD}"] if n_odd else []
    if not places:
        message = f"{path} (--cells) holds no cells, detections or points{': ' + notes[0] if notes else ''}."
        raise SectionError(message)
    name = config.section or path.name.split(".")[0]
    require_name(name)
    numbers = [f"cell_{number}" for number in range(1, len(places) + 1)]
    chosen = next(one for one in (names, ids, numbers) if len(set(one)) == len(one) and all(one))
    require_finite(np.stack(places), chosen, path, "their coordinates")
    if n_left := len(features) - len(used):
        notes.append(f"{path.name}: {n_left} annotations are no cells, and were not used")
    scale = find_scale(config.mpp, {})
    tiles = SlideSource(path=root)
    counted = Counter(classes)
    summary = ", ".join(f"{n} {label or 'without a class'}" for label, n in counted.most_common(8))
    return Section(
        name=name,
        donor=config.donor,
        ids=text_array(chosen, where=f"{path}, names"),
        xy_px=np.stack(places),
        mpp=scale.mpp,
        mpp_source=scale.mpp_source,
        obs={"class": text_array(classes, where=f"{path}, classes")} if any(classes) else {},
        tiles=tiles,
        join=JoinReport(
            n_matched=len(places),
            found=f"cells of {path.name}" + (f" ({summary})" if any(classes) else ""),
            notes=tuple(notes),
        ),
        sources=(describe_files("csv", path.name, [path]), *describe_sources(tiles)),
    )
