"""GeoJSON of QuPath: which points an outline holds, which spots regions keep and label, and cells as spots."""

import gzip
import json
import time
import uuid

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.exports import export
from spam.schemas.embed_config import EmbedConfig, InputConfig, SectionsConfig
from spam.schemas.store_config import ExportConfig
from spam.sections import read_inputs, read_section
from spam.sections.geojson import inside, read_objects, read_regions, ring_area
from spam.tiles import grid_section, open_slide

SQUARE = [[0, 0], [400, 0], [400, 500], [0, 500], [0, 0]]
HOLE = [[200, 300], [200, 450], [350, 450], [350, 300], [200, 300]]


def feature(coordinates, kind="Polygon", *, name=None, cls=None, object_type="annotation", **more):
    """An object as QuPath 0.4 and later writes it."""
    properties = {"objectType": object_type}
    properties |= {"name": name} if name else {}
    properties |= {"classification": {"name": cls, "color": [200, 0, 0]}} if cls else {}
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([coordinates, name, cls])))
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties | more}


def write(path, *features, layout="FeatureCollection"):
    content = {"type": "FeatureCollection", "features": list(features)}
    content = {"list": list(features), "one": features[0] if features else None}.get(layout, content)
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 41))
def test_points_inside_an_outline_are_those_of_matplotlib(seed, n_corners):
    rng = np.random.default_rng(seed)
    turns = np.sort(rng.uniform(0, 2 * np.pi, n_corners))
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1) * rng.uniform(0.3, 1.0, (n_corners, 1)) * 100
    points = rng.uniform(-110, 110, (307, 2))
    np.testing.assert_array_equal(inside([ring], points), Outline(ring).contains_points(points))
    np.testing.assert_array_equal(inside([ring[::-1]], points), inside([ring], points))


def test_holes_crossing_outlines_and_edges(tmp_path):
    square, hole = (np.array(ring, dtype=float) for ring in (SQUARE, HOLE))
    points = np.array([[100.0, 100], [250, 400], [450, 100], [-1, 100], [250, 200], [100, 501]])
    assert inside([square, hole], points).tolist() == [True, False, False, False, True, False]
    bow = np.array([[0.0, 0], [100, 100], [100, 0], [0, 100]])  # crosses itself at (50, 50)
    assert inside([bow], np.array([[10.0, 50], [90, 50], [50, 20], [50, 80]])).tolist() == [
        True, True, False, False,
    ]  # fmt: skip
    # Side by side: a point on the common edge is in exactly one; corners and left and upper edges count.
    left, right = (np.array([[x, 0.0], [x + 10, 0], [x + 10, 10], [x, 10]]) for x in (0, 10))
    edge = np.array([[10.0, 5], [10, 0], [0, 0], [0, 10], [20, 5]])
    assert inside([left], edge).tolist() == [False, False, True, False, False]
    assert inside([right], edge).tolist() == [True, True, False, False, False]
    assert ring_area(square) == 400 * 500
    ((one,), _) = read_objects(write(tmp_path / "s.geojson", feature([SQUARE])))
    np.testing.assert_allclose(one.centre, [200, 250])


@pytest.mark.parametrize("name", ["r.geojson", "r.geojson.gz"])
@pytest.mark.parametrize("layout", ["FeatureCollection", "list"])
def test_regions_keep_leave_out_and_label(lab, name, layout):
    """Spots of the lab: (103, 211), (307.5, 401), (503, 607), (709, 811), (907, 1009)."""
    lab.write_h5ad(obs={"region": list("abcde"), "n": [1, 2, 3, 4, 5]})
    lab.write_csv()
    whole, corner = [[[0, 0], [850, 0], [850, 1100], [0, 1100]]], [[[600, 700], [800, 700], [800, 900]]]
    path = write(
        lab.folder / name,
        feature(whole, cls="Region*"),
        feature([corner], "MultiPolygon", cls="Ignore*"),
        feature([SQUARE], cls="Stroma"),
        feature([[[50, 150], [150, 150], [150, 250], [50, 250]]], cls="Tumor"),  # smaller, within Stroma
        feature([[[5000, 0], [6000, 0], [6000, 900]]], name="far"),
        feature([7, 9], "Point"),
        feature([SQUARE], object_type="detection"),
        layout=layout,
    )
    section = lab.read(regions=path)
    # (709, 811.25) lies below the diagonal of the corner's triangle, so outside of it.
    assert section.ids.tolist() == ["s3", "s1", "s7", "s5"]
    assert section.obs["region"].tolist() == ["Tumor", "Stroma", "", ""]
    assert section.obs["n"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(section.counts.toarray(), lab.counts[:4])
    words = section.join.describe()
    for part in (
        "4 of 5 spots by", "1 spot outside 'Region*' left out", "0 spots in 'Ignore*' left out",
        "1 Tumor", "1 Stroma", "2 without a class", "1 points or lines are no regions",
        "1 cells or detections are no regions", "'far' holds no spot", "obs['region'] of the lab files",
    ):  # fmt: skip
        assert part in words, words


def test_a_spot_in_an_excluded_region_is_left_out(lab):
    lab.write_csv()
    for label in ("Ignore*", "exclude", "Excluded"):
        path = write(lab.folder / "r.geojson", feature([SQUARE, HOLE], cls=label), layout="list")
        assert lab.read(h5ad=None, regions=path).ids.tolist() == ["s2", "s7", "s1", "s5"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("Cannot read", "r.geojson")),
        ("x,y\n1,2\n", ("Cannot read", "r.geojson")),
        ('{"type": "Topology"}', ("no list of features",)),
        (json.dumps(feature([SQUARE])["geometry"]), ("holds a geometry without a feature",)),
        (json.dumps([{"type": "Feature"}]), ("no annotations with an area", "1 objects without an outline")),
        ('{"type": "FeatureCollection", "features": []}', ("no features", "QuPath")),
        ("[1, 2]", ("no list of features",)),
        (json.dumps([feature([1, 2], "Point")]), ("no annotations with an area", "1 points or lines")),
        (json.dumps([feature("abc")]), ("r.geojson",)),
        (json.dumps([feature([[[1e4, 1e4], [2e4, 1e4], [2e4, 2e4]]])]), ("No spot", "5 spots outside")),
    ],
)
def test_odd_files_are_named(lab, content, words):
    lab.write_csv()
    path = lab.folder / "r.geojson"
    path.write_text(content)
    lab.refused(SectionError, *words, h5ad=None, regions=path)


def test_classes_of_other_versions(tmp_path):
    derived, plain, both = (feature([SQUARE]) for _ in range(3))
    derived["properties"]["classification"] = {"names": ["Tumor", "Positive"]}
    plain["properties"]["classification"] = "Necrosis"
    both["properties"] |= {"name": "core 3", "classification": {"name": "Stroma", "colorRGB": -6895466}}
    regions, notes = read_regions(write(tmp_path / "r.json", derived, plain, both, feature([SQUARE])))
    assert [(one.label, one.use) for one in regions] == [
        ("Tumor: Positive", "label"), ("Necrosis", "label"), ("Stroma", "label"), ("", "keep"),
    ]  # fmt: skip
    assert notes == ()
    no_place, empty, listed = feature([SQUARE]), feature([[]]), feature([SQUARE])
    del no_place["geometry"]
    listed["properties"]["classification"] = ["Tumor"]
    hollow = [feature([]), feature([], "MultiPolygon"), feature([[SQUARE], []], "MultiPolygon")]
    found, notes = read_regions(write(tmp_path / "odd.json", no_place, empty, listed, *hollow, plain))
    assert [one.label for one in found] == ["Necrosis"]
    assert notes == (
        "odd.json: 6 objects without an outline or place, or with an unreadable class, were skipped",
    )


@pytest.fixture
def slide(tmp_path):
    """A slide of 900 x 600 px: grainy tissue in the left third, glass elsewhere."""
    pixels = np.full((600, 900, 3), 244, dtype=np.uint8)
    grain = np.random.default_rng(7).integers(-30, 31, (600, 300, 1))
    pixels[:, :300] = np.clip(np.array([180, 90, 160]) + grain, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    return tmp_path / "slide.png"


def grid_of(slide, *features):
    regions = write(slide.parent / "r.geojson", *features) if features else None
    config = EmbedConfig(
        store=slide.parent / "s.zarr", root=slide, tiles="grid", tile_px=(50,), regions=regions
    )
    with open_slide(slide) as opened:
        return grid_section(opened, config)


def test_a_grid_lies_in_the_regions(slide):
    every = {(column, row) for column in range(6) for row in range(12)}
    assert set(map(tuple, (grid_of(slide).xy_px // 50).astype(int).tolist())) == every
    rough = feature([[[100, 0], [700, 0], [700, 300], [100, 300]]])  # unnamed: tissue within it
    found = grid_of(slide, rough, feature([[[100, 0], [200, 0], [200, 100], [100, 100]]], cls="Exclude"))
    assert set(map(tuple, (found.xy_px // 50).astype(int).tolist())) == {
        (column, row) for column in range(2, 6) for row in range(6) if not (column < 4 and row < 2)
    }
    drawn = feature(
        [[[200, 0], [450, 0], [450, 100], [200, 100]]], cls="Tissue"
    )  # also where it looks like glass
    found = grid_of(slide, drawn, feature([[[0, 0], [300, 0], [300, 600], [0, 600]]], cls="Tumor"))
    assert set(map(tuple, (found.xy_px // 50).astype(int).tolist())) == {
        (column, row) for column in range(4, 9) for row in range(2)
    }
    assert found.obs["region"].tolist() == np.where(found.xy_px[:, 0] < 300, "Tumor", "").tolist()
    assert found.obs["array_col"].tolist() == (found.xy_px[:, 0] // 50).astype(int).tolist()


def test_cells_are_spots_of_a_slide(slide, tmp_path):
    triangle, points = [[[30, 30], [60, 30], [30, 90]]], [[100.5, 200.25], [300, 400]]
    cells = write(
        tmp_path / "run1.geojson",
        feature(triangle, object_type="cell", cls="Tumor"),
        feature([[[[10, 10], [12, 10], [12, 12], [10, 12]]], [[[50, 50], [90, 50], [90, 90], [50, 90]]]],
                "MultiPolygon", object_type="detection"),
        feature(points, "MultiPoint", cls="Immune cells"),
        feature([SQUARE], cls="Tissue"),
    )  # fmt: skip
    section = read_section(InputConfig(cells=cells, root=slide, mpp=0.5, donor="d1"))
    assert (section.name, section.donor, section.mpp, section.counts) == ("run1", "d1", 0.5, None)
    np.testing.assert_allclose(section.xy_px, [[40, 50], [70, 70], *points])
    assert section.ids.tolist() == ["cell_1", "cell_2", "cell_3", "cell_4"]
    assert section.obs["class"].tolist() == ["Tumor", "", "Immune cells", "Immune cells"]
    assert "1 annotations are no cells" in section.join.describe()
    with pytest.raises(ConfigError, match="--cells"):
        read_section(InputConfig(cells=cells, root=tmp_path))
    odd = feature([], "Point", object_type="cell")
    broken = feature([[[30, 30], [60, float("nan")], [30, 90]]], object_type="cell")
    with pytest.raises(SectionError, match=r"odd\.geojson: 1 row has no finite number.*cell_2"):
        read_section(
            InputConfig(cells=write(tmp_path / "odd.geojson", points_of(9), odd, broken), root=slide)
        )
    section = read_section(InputConfig(cells=write(tmp_path / "odd.geojson", points_of(9), odd), root=slide))
    assert (section.n_spots, "1 objects without an outline or place" in section.join.describe()) == (1, True)


def points_of(x):
    return {"type": "Feature", "geometry": {"type": "Point", "coordinates": [x, x]}}


def test_objects_of_old_versions_state_their_kind_in_place_of_an_id(slide, tmp_path):
    def old(kind, ring):
        return {"type": "Feature", "id": kind, "geometry": {"type": "Polygon", "coordinates": [ring]}}

    whole, triangle = old("PathAnnotationObject", SQUARE), [[30, 30], [60, 30], [30, 90]]
    for kind in ("PathCellObject", "PathDetectionObject", "PathTileObject"):
        path = write(tmp_path / "old.geojson", whole, old(kind, triangle))
        section = read_section(InputConfig(cells=path, root=slide))
        np.testing.assert_allclose(section.xy_px, [[40, 50]])
        assert section.ids.tolist() == ["cell_1"]
        regions, notes = read_regions(path)
        assert (len(regions), len(notes)) == (1, 1)
    section = read_section(InputConfig(cells=write(tmp_path / "old.geojson", whole), root=slide))
    assert section.ids.tolist() == ["cell_1"]


def test_cells_of_nothing_are_an_error(slide, tmp_path):
    with pytest.raises(SectionError, match="no features"):
        read_section(InputConfig(cells=write(tmp_path / "none.json"), root=slide))


def test_options_that_contradict_cells_and_regions(tmp_path, slide):
    for wrong, words in (
        ({"cells": slide, "csv": slide, "root": tmp_path}, "--cells needs no table; omit --csv"),
        ({"cells": slide}, "--cells needs --root: the slide"),
        ({}, "give --manifest, or --csv"),
        ({"cells": slide, "root": slide, "tiles": "grid"}, "places its own tiles; omit --cells"),
        ({"manifest": slide, "regions": slide}, "gives these per section; omit --regions"),
    ):
        with pytest.raises(ConfigError) as caught:
            EmbedConfig(store=tmp_path / "s.zarr", **wrong)
        assert words in str(caught.value)


def test_spots_of_an_export_come_back_as_cells(tmp_path, slide, shared_data):
    source = shared_data / "her2st" / "C4.h5ad"
    truth = anndata.read_h5ad(source)
    predictions = tmp_path / "predictions.h5ad"
    truth[:, :3].copy().write_h5ad(predictions)
    export(ExportConfig(source=predictions, out=tmp_path / "out", format="geojson"))
    (path,) = (tmp_path / "out").glob("*.geojson.gz")
    section = read_section(InputConfig(cells=path, root=slide, mpp=0.69))
    assert section.ids.tolist() == list(truth.obs_names)
    np.testing.assert_allclose(section.xy_px, truth.obsm["spatial"], atol=0.01)


def test_a_manifest_names_the_regions_of_each_section(lab):
    lab.write_csv()
    write(lab.folder / "r.geojson", feature([SQUARE]))
    manifest = lab.folder / "sections.csv"
    manifest.write_text("section,csv,root,regions\nS1,map.csv,.,r.geojson\nS2,map.csv,.,\n")
    first, second = read_inputs(SectionsConfig(manifest=manifest))
    assert (first.regions, second.regions) == (lab.folder / "r.geojson", None)
    assert read_section(first).ids.tolist() == ["s3", "s1"]
    manifest.write_text("section,csv,root,regions\nS1,map.csv,.,absent.geojson\n")
    with pytest.raises(MissingInputError, match=r"regions 'absent\.geojson'"):
        read_inputs(SectionsConfig(manifest=manifest))


@pytest.mark.slow
def test_a_hundred_thousand_cells_take_seconds(tmp_path, slide):
    rng = np.random.default_rng(5)
    centres = rng.uniform(0, 30_000, (100_003, 2))
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1) * 9
    cells = [feature([(at + circle).tolist()], object_type="cell") for at in centres]
    outline = np.cumsum(rng.normal(0, 60, (5_003, 2)), axis=0) + 15_000  # crosses itself
    path, regions = (
        write(tmp_path / "c.geojson", *cells),
        write(tmp_path / "r.geojson", feature([outline.tolist()])),
    )
    begun = time.perf_counter()
    section = read_section(InputConfig(cells=path, root=slide))
    np.testing.assert_allclose(section.xy_px, centres, atol=1e-6)
    kept = read_section(InputConfig(cells=path, root=slide, regions=regions))
    assert time.perf_counter() - begun < 120
    some = rng.choice(len(centres), 211, replace=False)
    truth = [np.sum(_crossings(outline, *centres[cell])) % 2 == 1 for cell in some]
    is_kept = np.isin(section.ids, kept.ids)
    np.testing.assert_array_equal(is_kept[some], truth)


def _crossings(ring, x, y):
    """Edges that a ray from the point to the left crosses."""
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((y0 <= y) != (y1 <= y)) & (x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x)
