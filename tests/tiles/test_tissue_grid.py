"""Grids over the tissue of a slide: what is tissue, where the cells lie, and which of them are kept."""

import logging

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.filters import threshold_otsu

from spam.errors import ConfigError, MissingInputError, SectionError, SlideError
from spam.schemas.embed_config import EmbedConfig
from spam.sections import SlideSource
from spam.tiles import grid_section, grid_slides, locate, open_slide
from spam.tiles.tissue_grid import otsu_threshold, tissue_mask

GLASS, TINTED = (244, 242, 243), (234, 217, 233)
EOSIN, HAEMATOXYLIN, GREY = (215, 160, 190), (110, 80, 150), (120, 118, 122)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 23), min_size=1, max_size=97))
def test_otsu_is_scikit_images(values):
    image = np.array(values, dtype=np.uint8)
    ours = otsu_threshold(np.bincount(image, minlength=29))
    if len(set(values)) == 1:
        assert ours == values[0]
    else:
        np.testing.assert_array_equal(image > ours, image > threshold_otsu(image))


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        ((GLASS, EOSIN, HAEMATOXYLIN, GREY, (0, 0, 0)), [False, True, True, False, False]),
        ((TINTED, EOSIN, HAEMATOXYLIN), [False, True, True]),
        ((EOSIN, HAEMATOXYLIN), [True, True]),
        (((200, 165, 185), (150, 60, 120)), [True, True]),  # colours of 35 and 90: Otsu lies between
        ((GLASS, (240, 232, 238)), [False, False]),
        *(((glass,), [False]) for glass in (GLASS, TINTED, (128, 128, 128), (255, 255, 255))),
        ((EOSIN,), [True]),
    ],
)
def test_stained_is_tissue_and_a_uniform_picture_is_not_split(colours, expected):
    """A picture with a band of 11 rows of each colour, and noise of one grey value."""
    noise = np.random.default_rng(1).integers(-1, 2, (11 * len(colours), 37, 1))
    bands = np.clip(np.repeat(np.array(colours), 11, axis=0)[:, None] + noise, 0, 255).astype(np.uint8)
    mask = tissue_mask(bands).reshape(len(colours), -1)
    np.testing.assert_array_equal(mask, np.broadcast_to(np.array(expected)[:, None], mask.shape))


def config(root, **values):
    return EmbedConfig(**{"store": root.parent / "s.zarr", "root": root, "tiles": "grid", **values})


def grid(path, **values):
    with open_slide(path) as slide:
        return grid_section(slide, config(path, **values))


def painted(path, width, height, *boxes):
    """White glass with boxes (left, top, right, bottom) of grainy purple."""
    image = np.full((height, width, 3), 244, dtype=np.uint8)
    rng = np.random.default_rng(2)
    for left, top, right, bottom in boxes:
        grain = rng.integers(-60, 61, (bottom - top, right - left, 1))
        image[top:bottom, left:right] = np.array([150, 90, 160]) + grain
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def slide(tmp_path):
    """A slide of 530 x 350 px; with tiles of 50 px, 10.6 x 7 cells."""
    # A block of exactly 2 x 3 cells; a quarter (within a pixel) of a cell, and a bit less; the right border.
    boxes = [(100, 50, 200, 200), (300, 0, 313, 50), (400, 0, 411, 50), (500, 250, 530, 300)]
    return painted(tmp_path / "one.png", 530, 350, *boxes)


BLOCK = ["x2_y1", "x3_y1", "x2_y2", "x3_y2", "x2_y3", "x3_y3", "x10_y5"]


def test_cells_with_tissue_become_spots(slide):
    section = grid(slide, tile_px=(50,), mpp=8.0, donor="d")
    ids = ["x6_y0", *BLOCK]
    assert section.ids.tolist() == ids
    columns, rows = section.obs["array_col"], section.obs["array_row"]
    assert [f"x{x}_y{y}" for x, y in zip(columns, rows, strict=True)] == ids
    np.testing.assert_array_equal(section.xy_px, np.stack([columns * 50 + 25, rows * 50 + 25], axis=1))
    np.testing.assert_array_equal(section.xy_um, section.xy_px * 8)
    assert (section.name, section.donor, section.mpp, section.mpp_source) == ("one", "d", 8.0, "option")
    assert section.counts is section.genes is None
    assert section.tiles == SlideSource(path=slide)
    (source,) = section.sources
    assert (source.role, source.name, source.n_bytes) == ("slide", "one.png", slide.stat().st_size)
    with open_slide(slide) as opened:
        assert locate(section, opened) is section


def test_an_option_that_overrides_the_slide_is_a_note(tmp_path, slide):
    path = tmp_path / "sized.tif"
    pixels, tags = np.asarray(Image.open(slide)), {"resolution": (2500, 2500), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **tags)
    assert grid(path).join.notes == grid(path, mpp=4.0).join.notes == ()
    (note,) = grid(path, mpp=8.0).join.notes
    assert "--mpp 8 overrides the 4 µm per pixel of slide 'sized.tif' (by a factor of 2)" in note


def test_a_cell_is_the_step_or_the_tile_whichever_is_smaller(slide):
    halved = grid(slide, tile_um=(800.0,), stride_um=200.0, mpp=8.0)
    inside = (halved.xy_px > (100, 50)).all(axis=1) & (halved.xy_px < (200, 200)).all(axis=1)
    assert inside.sum() == 4 * 6
    assert (halved.xy_px[:, 0] < 290).sum() == 4 * 6  # not beside it, though the tiles there show some of it
    assert len(set(halved.ids.tolist())) == len(halved.ids)
    # Tiles of 20 px every 50: the one in the middle of the quarter-filled cell shows glass.
    assert grid(slide, tile_um=(160.0, 1600.0), stride_um=400.0, mpp=8.0).ids.tolist() == BLOCK


@pytest.mark.parametrize(
    ("options", "step"),
    [({"tile_um": (400.0, 200.0), "mpp": 8.0}, 25), ({"mpp": 4.0}, 28), ({"tile_px": (60, 40)}, 40)],
)
def test_the_smallest_tile_is_the_default_step_and_112_um_the_default_tile(slide, options, step):
    section = grid(slide, **options)
    places = np.stack([section.obs["array_col"], section.obs["array_row"]], axis=1)
    np.testing.assert_array_equal(section.xy_px, (places + 0.5) * step)


def test_without_a_pixel_size_only_pixels_will_do(slide, tmp_path):
    section = grid(slide, tile_px=(50,))
    assert section.mpp is section.mpp_source is section.xy_um is None
    assert len(section.ids) > 6
    with pytest.raises(ConfigError, match=r"112um .*'one'.*'one\.png' is a PNG.*--mpp.*--tile-px"):
        grid(slide)
    with pytest.raises(ConfigError, match=r"30 µm \(--stride-um\) .*is a PNG.*--mpp"):
        grid(slide, tile_px=(50,), stride_um=30.0)
    screen, pixels = tmp_path / "screen.tif", np.asarray(Image.open(slide))
    tifffile.imwrite(screen, pixels, photometric="rgb", resolution=(72, 72), resolutionunit="INCH")
    with pytest.raises(ConfigError, match=r"'screen\.tif' states 352\.8 µm .*72 pixels per inch.*--mpp"):
        grid(screen)
    path = tmp_path / "two.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 8.0, "PhysicalSizeY": 8.0}
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=metadata)
    section = grid(path, tile_um=(400.0,))
    assert (section.name, section.mpp, section.mpp_source) == ("two", 8.0, "slide")
    assert section.ids.tolist() == ["x6_y0", *BLOCK]
    other = grid(path, tile_um=(400.0,), mpp=4.0, section="S")
    assert (other.name, other.mpp, other.mpp_source) == ("S", 4.0, "option")


@pytest.mark.parametrize("colour", [(244, 243, 244), (230, 170, 200), (0, 0, 0)])
def test_blank_and_plain_slides_have_no_tissue(tmp_path, colour):
    Image.new("RGB", (211, 197), colour).save(tmp_path / "plain.png")
    with pytest.raises(SlideError, match=r"plain\.png.* 16 cells every 50 px .*25%.*--csv"):
        grid(tmp_path / "plain.png", tile_px=(50,))


def test_steps_that_are_too_large_or_too_small(slide, tmp_path):
    """No cell lies on the slide (a step of twice its size), one is cut off, or one shows glass."""
    tiny = painted(tmp_path / "tiny.png", 13, 11, (0, 0, 13, 11))
    for path, options, error, words in (
        (tiny, {"tile_px": (50,)}, SlideError, r"tiny\.png' \(13 x 11 px\).* 50 px .*--stride-um"),
        (slide, {"tile_um": (4008.0,), "mpp": 8.0}, SlideError, r"501 px \(4008 µm\).*--mpp"),
        (slide, {"tile_um": (80.0,), "stride_um": 3600.0, "mpp": 8.0}, SlideError, r"450 px \(3600 µm\)"),
        (
            slide,
            {"stride_um": 0.4, "mpp": 8.0},
            ConfigError,
            r"0\.05 px \(0\.4 µm\).*530 x 350 px.*7\.4e\+07.*--mpp",
        ),
        (slide, {"tile_um": (8e-6,), "mpp": 8.0}, ConfigError, "1e-06 px"),
        (slide, {"mpp": 250.0}, ConfigError, r"--mpp .* 100, not 250"),
    ):
        with pytest.raises(error, match=words):
            grid(path, **options)
    full = painted(tmp_path / "full.png", 350, 250, (0, 0, 350, 250))
    assert grid(full, tile_px=(260,), mpp=8.0).ids.tolist() == ["x0_y0"]
    assert len(grid(full, tile_px=(50,), mpp=8.0).ids) == 7 * 5


def test_no_tiles_are_laid_on_damaged_blocks(tmp_path, caplog):
    path = tmp_path / "hole.tif"
    pixels = np.asarray(Image.open(painted(tmp_path / "full.png", 320, 256, (0, 0, 320, 256))))
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff, path.open("r+b") as file:
        file.seek(tiff.pages.first.dataoffsets[7])  # column 2, row 1
        file.write(bytes(64))
    with caplog.at_level(logging.WARNING):
        section = grid(path, tile_px=(64,), skip_bad_tiles=True)
    laid = set(zip(section.obs["array_col"].tolist(), section.obs["array_row"].tolist(), strict=True))
    assert set(np.ndindex(5, 4)) - laid == {(2, 1)}
    assert "hole.tif: 1 blocks" in caplog.text
    assert "no tiles" in caplog.text


def test_a_folder_gives_its_slides_and_names_the_rest(tmp_path, caplog):
    folder = tmp_path / "slides"
    with pytest.raises(MissingInputError, match=r"slides \(--root\)"):
        grid_slides(folder)
    (folder / "notes").mkdir(parents=True)
    with pytest.raises(SlideError, match=r"no slide.*'notes'"):
        grid_slides(folder)
    for name in ("b.png", "a.png", ".hidden.png"):
        painted(folder / name, 60, 50)
    (folder / "clinical.csv").write_text("id,age\n")
    with caplog.at_level(logging.WARNING):
        assert grid_slides(folder) == (folder / "a.png", folder / "b.png")
    assert "2 entries are no slides: 'clinical.csv', 'notes'" in caplog.text
    assert grid_slides(folder / "a.png", section="S") == (folder / "a.png",)
    with pytest.raises(ConfigError, match=r"--section 'S' .*2 slides"):
        grid_slides(folder, section="S")
    Image.new("RGB", (60, 50)).save(folder / "a.jpg")
    with pytest.raises(SectionError, match=r"named 'a'"):
        grid_slides(folder)
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(SlideError, match=r"'a\.jpg'.*cannot be read"):
        grid_slides(folder)


def test_grids_cover_the_spots_of_real_sections(shared_data):
    """Spots under tissue, according to their authors, lie in kept cells; most of the glass does not."""
    anndata = pytest.importorskip("anndata")
    section = grid(shared_data / "her2st" / "pyramid" / "C3.tif")
    spots = anndata.read_h5ad(shared_data / "her2st" / "C3.h5ad").obsm["spatial"]
    step = 112 / section.mpp
    kept = set(zip(section.obs["array_col"], section.obs["array_row"], strict=True))
    assert np.mean([(int(x // step), int(y // step)) in kept for x, y in spots]) > 0.95
    assert len(kept) < 0.25 * (9270 / step) * (9936 / step)  # the pink haze beside the section is left out
