"""What `spam embed` does with tiles beyond cutting them: order of reading, quality, symmetries, grids, bad tiles."""

import logging

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from embedding_lab import PX, write_encoder
from PIL import Image
from scipy import ndimage

from spam.embedding import dry_run, embed
from spam.encoders import build_encoder, encoder_card
from spam.errors import ConfigError, SectionError, SlideError, TileError
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.tile_spec import TileSpec, tile_flags
from spam.sections import read_section
from spam.store import open_store
from spam.tiles import TileReader, measure_quality

SIDE, N_SPOTS = 1600, 101
SPEC = TileSpec(tile_um=20.0, out_px=PX)
KEY = "local-tiny_20um"
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # haematoxylin, eosin (Ruifrok and Johnston 2001)


def painted() -> np.ndarray:
    """A round piece of tissue on glass, in two stains."""
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(2, SIDE, SIDE))
    strength = np.abs(sum(ndimage.gaussian_filter(noise, (0, s, s)) * s for s in (1.5, 6.0))) * 1.2 + 0.15
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    strength *= np.hypot(x, y) < 0.42
    light = 245 * np.exp(-np.tensordot(STAINS.T, strength, axes=1))
    return np.moveaxis(np.clip(light, 0, 255), 0, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def slide_pixels():
    return painted()


@pytest.fixture
def lab(tmp_path, slide_pixels):
    """A folder with a pyramid of two levels, a table of spots in random order, and a tiny encoder."""
    (tmp_path / "images").mkdir()
    with tifffile.TiffWriter(tmp_path / "images/slide.tif") as writer:
        for level, pixels in enumerate((slide_pixels, slide_pixels[::4, ::4].copy())):
            writer.write(
                pixels,
                tile=(64, 64),
                photometric="rgb",
                subfiletype=int(level > 0),
                resolution=(20_000 / 4**level,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    xy = np.random.default_rng(8).uniform(50, SIDE - 50, (N_SPOTS, 2)).round(1)
    table = pd.DataFrame(xy, columns=["x", "y"])
    table["source_image"], table["spot_id"] = "slide.tif", [f"s{i}" for i in range(N_SPOTS)]
    table.to_csv(tmp_path / "map.csv", index=False)
    write_encoder(tmp_path / "tiny")
    return tmp_path


def config(lab, **others):
    values = {
        "csv": lab / "map.csv",
        "root": lab / "images",
        "section": "A",
        "store": lab / "store.zarr",
        "enc_name": f"local:{lab / 'tiny'}",
        "tile_um": (20.0,),
        "device": "cpu",
        "batch_size": 7,
        "chunk_rows": 29,
        "dtype": "float32",
    }
    return EmbedConfig(**{**values, **others})


def encoder_of(lab, **options):
    return build_encoder(encoder_card(f"local:{lab / 'tiny'}"), device=torch.device("cpu"), **options)


def tiles_of(lab, **others):
    with TileReader(read_section(config(lab, mpp=0.5, **others)), SPEC, interpolation="bilinear") as reader:
        return reader.read_batch(range(len(reader))).pixels


def assert_close(found, expected):
    # A batch is summed in another order than all tiles at once.
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)


def test_rows_are_those_of_the_spots_whatever_the_order_of_reading(lab):
    embed(config(lab))
    stored = open_store(lab / "store.zarr").section("A")
    tiles = tiles_of(lab)
    assert stored.ids.tolist() == [f"s{i}" for i in range(N_SPOTS)]
    assert_close(stored.features(KEY), encoder_of(lab).embed(tiles))
    np.testing.assert_allclose(stored.quality(KEY), measure_quality(tiles, native_px=40.0), rtol=1e-6)
    counted = {flag: int(is_flagged.sum()) for flag, is_flagged in tile_flags(stored.quality(KEY)).items()}
    assert counted["unreadable"] == 0
    assert 10 < counted["blank"] < 60  # the corners


@pytest.mark.parametrize(
    "option", [{"coordinates": "um"}, {"counts_layer": "raw"}, {"allow_missing_tiles": True}]
)
def test_a_grid_refuses_the_options_of_tables(lab, option):
    with pytest.raises(ConfigError, match=rf"--tiles grid.*--{next(iter(option)).replace('_', '-')}"):
        config(lab, csv=None, tiles="grid", **option)


def test_symmetries_are_averaged_under_a_key_of_their_own(lab):
    embed(config(lab))
    embed(config(lab, dihedral=True))
    stored = open_store(lab / "store.zarr").section("A")
    assert stored.feature_keys == (KEY, f"{KEY}_d4")
    tiles, encoder = tiles_of(lab), encoder_of(lab)
    views = [np.rot90(image, turns, (1, 2)) for image in (tiles, tiles[:, :, ::-1]) for turns in range(4)]
    expected = np.mean([encoder.embed(np.ascontiguousarray(view)) for view in views], axis=0)
    assert_close(stored.features(f"{KEY}_d4"), expected)
    meta = stored.feature_meta(f"{KEY}_d4")
    assert (meta.is_averaged, stored.feature_meta(KEY).is_averaged) == (True, False)
    assert stored.feature_identity(f"{KEY}_d4") != stored.feature_identity(KEY)


def test_a_grid_needs_the_slide_alone(lab, slide_pixels):
    grid = config(lab, csv=None, root=lab / "images/slide.tif", section=None, tiles="grid", tile_um=(40.0,))
    planned = dry_run(grid)
    (report,) = embed(grid).sections
    stored = open_store(lab / "store.zarr").section("slide")
    assert report.n_spots == stored.n_spots == planned.n_tiles
    area = np.pi * (0.42 * SIDE) ** 2 / 80**2  # of the tissue, in tiles
    assert 0.9 * area < stored.n_spots < 1.3 * area
    assert not stored.meta.has_counts
    assert stored.meta.mpp_source == "slide"
    cells = ((stored.xy_px / 80) - 0.5).round().astype(int)
    np.testing.assert_allclose((cells + 0.5) * 80, stored.xy_px)
    assert stored.ids.tolist() == [f"x{column}_y{row}" for column, row in cells]
    tiles = np.stack([slide_pixels[y - 40 : y + 40, x - 40 : x + 40] for x, y in stored.xy_px.astype(int)])
    flags = tile_flags(measure_quality(tiles))
    assert not flags["blank"].any()
    dense = embed(config(lab, csv=None, section="B", tiles="grid", root=lab / "images", stride_um=20.0))
    assert dense.sections[0].n_spots > 3 * stored.n_spots


def test_a_grid_on_a_scanner_file(lab, shared_data):
    slide = shared_data / "slides/CMU-1-Small-Region.svs"
    (report,) = embed(
        config(lab, csv=None, root=slide, section=None, tiles="grid", tile_um=(224.0,))
    ).sections
    stored = open_store(lab / "store.zarr").section(report.name)
    assert stored.n_spots == report.n_embedded > 3
    assert stored.meta.mpp == pytest.approx(0.499)


@pytest.fixture
def tile_files(lab, slide_pixels):
    """Eleven tile files, of which one is cut off."""
    (lab / "tiles").mkdir()
    rows = []
    for i in range(11):
        y, x = 500 + 40 * i, 700
        Image.fromarray(slide_pixels[y : y + 40, x : x + 40]).save(lab / f"tiles/t{i}.jpg", quality=90)
        rows.append((x + 20, y + 20, f"t{i}.jpg", f"s{i}"))
    pd.DataFrame(rows, columns=["x", "y", "patch_path", "spot_id"]).to_csv(lab / "tiles.csv", index=False)
    cut_off = lab / "tiles/t4.jpg"
    cut_off.write_bytes(cut_off.read_bytes()[:600])
    return lab


def test_bad_tiles_are_marked_where_that_is_asked_for(tile_files, caplog):
    lab = tile_files
    files = {"csv": lab / "tiles.csv", "root": lab / "tiles", "mpp": 0.5}
    with pytest.raises(SlideError, match=r"t4\.jpg"):
        embed(config(lab, **files))
    stated = config(lab, **files, skip_bad_tiles=True)
    with caplog.at_level(logging.WARNING):
        (report,) = embed(stated).sections
    assert [r.getMessage() for r in caplog.records if "'s4'" in r.getMessage() and "t4.jpg" in r.getMessage()]
    stored = open_store(stated.store).section("A")
    quality, features = stored.quality(KEY), stored.features(KEY)
    assert np.flatnonzero(tile_flags(quality)["unreadable"]).tolist() == [4]
    assert not features[4].any()
    assert not quality[4].any()
    assert (np.abs(np.delete(features, 4, axis=0)).sum(axis=1) > 0).all()
    assert report.flags["unreadable"] == 1


def test_a_section_without_a_readable_tile_is_refused_before_anything_is_written(tile_files):
    """Issue 15, A8: such a section was stored with 0 usable spots."""
    lab = tile_files
    for path in (lab / "tiles").glob("*.jpg"):
        path.write_bytes(path.read_bytes()[: 600 if path.stem == "t4" else -200])
    files = {"csv": lab / "tiles.csv", "root": lab / "tiles", "mpp": 0.5, "skip_bad_tiles": True}
    with pytest.raises(SlideError, match=r"None of the 11 tiles of section 'A'"):
        embed(config(lab, **files))
    assert not (lab / "store.zarr").exists()


@pytest.mark.parametrize("n_cut", [5, 500])
def test_a_slide_whose_spots_lie_on_damaged_blocks(lab, n_cut):
    """With all blocks under the spots damaged, but not those of the glass, nothing is written; with three, it is."""
    path = lab / "images/slide.tif"
    with tifffile.TiffFile(path) as tiff, path.open("r+b") as file:
        page = tiff.pages.first
        middle = [25 * row + column for row in range(5, 20) for column in range(5, 20)]
        for block in middle[110 : 110 + n_cut] if n_cut < len(middle) else middle:
            tag = page.tags["TileOffsets"]
            file.seek(tag.valueoffset + block * (tag.valuebytecount // tag.count))
            file.write((2**31).to_bytes(tag.valuebytecount // tag.count, "little"))
    table = pd.read_csv(lab / "map.csv")
    table[["x", "y"]] = table[["x", "y"]] / 2 + 400  # only in the middle
    table.to_csv(lab / "map.csv", index=False)
    with pytest.raises(SlideError, match=r"slide\.tif' ends before \d+ of the 625 blocks.*--skip-bad-tiles"):
        embed(config(lab))
    if n_cut > len(middle):
        with pytest.raises(SlideError, match=rf"None of the {N_SPOTS} tiles of section 'A'"):
            embed(config(lab, skip_bad_tiles=True))
        assert not (lab / "store.zarr").exists()
    else:
        (report,) = embed(config(lab, skip_bad_tiles=True)).sections
        assert 0 < report.flags["unreadable"] < N_SPOTS / 2


def test_the_pixel_size_and_its_source_are_stated(lab):
    assert "; 0.5 µm/px (from the slide); tiles of 20um" in dry_run(config(lab)).summary()
    summary = dry_run(config(lab, mpp=0.25)).summary()
    assert "0.25 µm/px (--mpp)" in summary
    assert "--mpp 0.25 overrides the 0.5 µm per pixel of slide 'slide.tif' (by a factor of 0.5)" in summary
    report = embed(config(lab))
    assert report.sections[0].scale == "0.5 µm/px (from the slide)"
    assert "0.5 µm/px (from the slide)" in report.summary()


def test_spots_beside_the_tissue_are_refused_if_exchanged_axes_bring_them_onto_it(lab, slide_pixels, caplog):
    half = slide_pixels.copy()
    half[:, 500:] = 244
    tifffile.imwrite(lab / "images/slide.tif", half, photometric="rgb", tile=(64, 64), metadata=None)
    table = pd.read_csv(lab / "map.csv")
    table["x"], table["y"] = table["y"] / 4 + 300, table["x"] / 4 + 50
    table.to_csv(lab / "map.csv", index=False)
    with pytest.raises(TileError, match=r"--swap-xy"):
        dry_run(config(lab, mpp=0.5))
    assert dry_run(config(lab, mpp=0.5, swap_xy=True)).sections[0].section.join.notes == ()
    with caplog.at_level(logging.WARNING):
        dry_run(config(lab, mpp=0.5, swap_xy=False))
    assert "with x and y exchanged" in caplog.text


def test_a_pixel_size_that_the_distance_of_the_spots_excludes(lab):
    rows, columns = np.mgrid[:9, :9]
    table = pd.DataFrame(
        {"x": 200 + 137.6 * (columns + 0.5 * (rows % 2)).ravel(), "y": 200 + 119.2 * rows.ravel()}
    )
    table["source_image"], table["spot_id"] = "slide.tif", [f"s{i}" for i in range(81)]
    table.to_csv(lab / "map.csv", index=False)
    with pytest.raises(SectionError, match=r"0\.5 µm per pixel \(from the slide\).*Visium.*--mpp 0\.726"):
        dry_run(config(lab))
    assert "0.727 µm/px (--mpp)" in dry_run(config(lab, mpp=0.727)).summary()


def test_a_section_without_any_readable_tile_is_an_error(lab, slide_pixels):
    folder = lab / "damaged"
    folder.mkdir()
    tifffile.imwrite(folder / "slide.tif", slide_pixels, tile=(64, 64), compression="zlib", photometric="rgb")
    with tifffile.TiffFile(folder / "slide.tif") as file:
        page = file.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    data = bytearray((folder / "slide.tif").read_bytes())
    for start, size in places:
        data[start : start + size] = bytes(size)
    (folder / "slide.tif").write_bytes(data)
    rows = [(500 + 40 * i, 700, "slide.tif", f"s{i}") for i in range(11)]
    pd.DataFrame(rows, columns=["x", "y", "source_image", "spot_id"]).to_csv(lab / "damaged.csv", index=False)
    stated = config(lab, csv=lab / "damaged.csv", root=folder, mpp=0.5, skip_bad_tiles=True)
    with pytest.raises(SlideError, match=r"slide\.tif' cannot be decoded at .*copied whole"):
        embed(stated)
    assert not stated.store.exists()
