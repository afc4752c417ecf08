"""Grids over the tissue of a slide: where their cells lie, and which of them are kept."""

import logging

import numpy as np
import pytest
import tifffile
from PIL import Image

from spam.errors import ConfigError, MissingInputError, SectionError, SlideError
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.store_format import SourceFile
from spam.sections import SlideSource
from spam.tiles import grid_section, grid_slides, locate, open_slide


def config(root, **values):
    return EmbedConfig(**{"store": root.parent / "s.zarr", "root": root, "tiles": "grid", **values})


def painted(width, height, *boxes):
    """White glass with boxes (left, top, right, bottom) of grainy purple."""
    image = np.full((height, width, 3), 244, dtype=np.uint8)
    rng = np.random.default_rng(2)
    for left, top, right, bottom in boxes:
        grain = rng.integers(-60, 61, (bottom - top, right - left, 1))
        image[top:bottom, left:right] = np.array([150, 90, 160]) + grain
    return Image.fromarray(image)


@pytest.fixture
def slide(tmp_path):
    """A slide of 530 x 350 px; with tiles of 50 px, 10.6 x 7 cells."""
    path = tmp_path / "one.png"
    # A block of exactly 2 x 3 cells; a quarter (within a pixel) of a cell, and a bit less; the right border.
    boxes = [(100, 50, 200, 200), (300, 0, 313, 50), (400, 0, 411, 50), (500, 250, 530, 300)]
    painted(530, 350, *boxes).save(path)
    return path


def test_cells_with_tissue_become_spots(slide):
    section = grid_section(slide, config(slide, tile_px=(50,), mpp=8.0, donor="d"))
    ids = ["x6_y0", "x2_y1", "x3_y1", "x2_y2", "x3_y2", "x2_y3", "x3_y3", "x10_y5"]
    assert section.ids.tolist() == ids
    columns, rows = section.obs["array_col"], section.obs["array_row"]
    assert [f"x{x}_y{y}" for x, y in zip(columns, rows, strict=True)] == ids
    np.testing.assert_array_equal(section.xy_px, np.stack([columns * 50 + 25, rows * 50 + 25], axis=1))
    np.testing.assert_array_equal(section.xy_um, section.xy_px * 8)
    assert (section.name, section.donor, section.mpp, section.mpp_source) == ("one", "d", 8.0, "option")
    assert section.counts is None
    assert section.genes is None
    assert section.tiles == SlideSource(path=slide)
    (source,) = section.sources
    assert isinstance(source, SourceFile)
    assert (source.role, source.name, source.n_bytes) == ("slide", "one.png", slide.stat().st_size)
    with open_slide(slide) as opened:
        assert locate(section, opened) is section


def test_a_cell_is_the_step_or_the_tile_whichever_is_smaller(slide):
    halved = grid_section(slide, config(slide, tile_um=(800.0,), stride_um=200.0, mpp=8.0))
    inside = (halved.xy_px > (100, 50)).all(axis=1) & (halved.xy_px < (200, 200)).all(axis=1)
    assert inside.sum() == 4 * 6
    assert (
        halved.xy_px[:, 0] < 290
    ).sum() == 4 * 6  # no cell beside it, though the tiles there see some of it
    assert len(set(halved.ids.tolist())) == len(halved.ids)
    # Tiles of 20 px every 50: the one in the middle of the quarter-filled cell sees glass.
    wide = grid_section(slide, config(slide, tile_um=(160.0, 1600.0), stride_um=400.0, mpp=8.0))
    assert wide.ids.tolist() == ["x2_y1", "x3_y1", "x2_y2", "x3_y2", "x2_y3", "x3_y3", "x10_y5"]


def test_the_smallest_tile_is_the_default_step_and_112_um_the_default_tile(slide):
    def step(**values):
        section = grid_section(slide, config(slide, **values))
        return (
            section.xy_px[0] / (np.array([section.obs["array_col"][0], section.obs["array_row"][0]]) + 0.5)
        ).tolist()

    assert step(tile_um=(400.0, 200.0), mpp=8.0) == [25, 25]
    assert step(mpp=4.0) == [28, 28]
    assert step(tile_px=(60, 40)) == [40, 40]


def test_without_a_pixel_size_only_pixels_will_do(slide, tmp_path):
    section = grid_section(slide, config(slide, tile_px=(50,)))
    assert section.mpp is section.mpp_source is section.xy_um is None
    assert len(section.ids) > 6
    with pytest.raises(ConfigError, match=r"tiles of 112um .*'one'.*'one\.png' is a PNG.*--mpp.*--tile-px"):
        grid_section(slide, config(slide))
    with pytest.raises(ConfigError, match=r"tiles every 30 µm \(--stride-um\) .*is a PNG.*--mpp"):
        grid_section(slide, config(slide, tile_px=(50,), stride_um=30.0))
    screen = tmp_path / "screen.tif"
    tifffile.imwrite(
        screen, np.asarray(Image.open(slide)), photometric="rgb", resolution=(72, 72), resolutionunit="INCH"
    )
    with pytest.raises(
        ConfigError, match=r"'screen\.tif' states 352\.8 µm per pixel .*72 pixels per inch.*--mpp"
    ):
        grid_section(screen, config(screen))


def test_the_slides_pixel_size_counts_unless_an_option_overrides(slide, tmp_path):
    path = tmp_path / "two.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 8.0, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": 8.0, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, np.asarray(Image.open(slide)), photometric="rgb", metadata=metadata)
    section = grid_section(path, config(path, tile_um=(400.0,)))
    assert (section.name, section.mpp, section.mpp_source) == ("two", 8.0, "slide")
    assert section.ids.tolist()[1:] == ["x2_y1", "x3_y1", "x2_y2", "x3_y2", "x2_y3", "x3_y3", "x10_y5"]
    other = grid_section(path, config(path, tile_um=(400.0,), mpp=4.0, section="S"))
    assert (other.name, other.mpp, other.mpp_source) == ("S", 4.0, "option")


def test_an_option_in_nanometres_is_refused(slide):
    with pytest.raises(ConfigError, match=r"--mpp .* from 0\.01 to 100, not 250"):
        grid_section(slide, config(slide, mpp=250.0))


def test_blank_and_plain_slides_have_no_tissue(tmp_path):
    for name, colour in (
        ("blank.png", (244, 243, 244)),
        ("haze.png", (230, 170, 200)),
        ("black.png", (0, 0, 0)),
    ):
        Image.new("RGB", (211, 197), colour).save(tmp_path / name)
        with pytest.raises(SlideError, match=rf"{name}.*shows no tissue: of 16 cells of 50 px.*25%.*--csv"):
            grid_section(tmp_path / name, config(tmp_path / name, tile_px=(50,)))


def test_a_step_that_is_larger_than_the_slide(slide, tmp_path):
    """Whether no cell lies on it (a step of twice its size), or one that is cut off, or one that shows glass."""
    painted(13, 11, (0, 0, 13, 11)).save(tmp_path / "tiny.png")
    with pytest.raises(
        ConfigError, match=r"tiny\.png' of 13 x 11 px is narrower than a step of the grid, 50 px,"
    ):
        grid_section(tmp_path / "tiny.png", config(tmp_path / "tiny.png", tile_px=(50,)))
    with pytest.raises(
        ConfigError,
        match=r"530 x 350 px is narrower than .* 501 px \(4008 µm\).*--stride-um.*--tile-um.*--mpp",
    ):
        grid_section(slide, config(slide, tile_um=(4008.0,), mpp=8.0))
    with pytest.raises(ConfigError, match=r"a step of the grid, 450 px \(3600 µm\)"):
        grid_section(slide, config(slide, tile_um=(80.0,), stride_um=3600.0, mpp=8.0))
    whole = painted(350, 250, (0, 0, 350, 250))
    whole.save(
        tmp_path / "full.png"
    )  # a step over its shorter side is none of our business where tissue is found
    found = grid_section(tmp_path / "full.png", config(tmp_path / "full.png", tile_px=(260,), mpp=8.0))
    assert found.ids.tolist() == ["x0_y0"]


def test_a_grid_too_fine_to_compute_is_refused_at_once(slide):
    with pytest.raises(
        ConfigError,
        match=r"every 0\.05 px \(0\.4 µm\) .*'.*one\.png' of 530 x 350 px has 7\.4e\+07 cells, more than 2e\+07; "
        r"take a step of at least 0\.09727 px \(0\.7782 µm\) with --stride-um .*--mpp",
    ):
        grid_section(slide, config(slide, tile_um=(800.0,), stride_um=0.4, mpp=8.0))
    with pytest.raises(ConfigError, match=r"every 1e-06 px"):
        grid_section(slide, config(slide, tile_um=(8e-6,), mpp=8.0))


def test_lost_tissue_is_told_as_such(tmp_path, caplog):
    path = tmp_path / "hole.tif"
    pixels = np.asarray(painted(320, 256, (0, 0, 320, 256)))
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.dataoffsets[7]  # column 2, row 1
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(64))
    with caplog.at_level(logging.WARNING):
        section = grid_section(path, config(path, tile_px=(64,), skip_bad_tiles=True))
    laid = set(zip(section.obs["array_col"].tolist(), section.obs["array_row"].tolist(), strict=True))
    assert set(np.ndindex(5, 4)) - laid == {(2, 1)}
    assert caplog.messages == [
        "slide hole.tif: 1 blocks cannot be decoded, and are white in the picture that shows where its tissue is: "
        "no tiles are laid there"
    ]


def test_a_slide_full_of_tissue_is_kept_whole(tmp_path):
    painted(350, 250, (0, 0, 350, 250)).save(tmp_path / "full.png")
    section = grid_section(tmp_path / "full.png", config(tmp_path / "full.png", tile_px=(50,), mpp=8.0))
    assert len(section.ids) == 7 * 5


def test_a_folder_gives_its_slides_and_names_the_rest(tmp_path, caplog):
    folder = tmp_path / "slides"
    (folder / "notes").mkdir(parents=True)
    for name in ("b.png", "a.png", ".hidden.png"):
        painted(60, 50).save(folder / name)
    (folder / "clinical.csv").write_text("id,age\n")
    (folder / "text.txt").write_text("not a slide")
    with caplog.at_level(logging.WARNING):
        assert grid_slides(folder) == (folder / "a.png", folder / "b.png")
    assert "3 entries are no slides: 'clinical.csv', 'notes', 'text.txt'" in caplog.text
    assert grid_slides(folder / "a.png", section="S") == (folder / "a.png",)
    with pytest.raises(ConfigError, match=r"--section 'S' .*2 slides"):
        grid_slides(folder, section="S")
    Image.new("RGB", (60, 50)).save(folder / "a.jpg")
    with pytest.raises(SectionError, match=r"named 'a', but each is a section; rename"):
        grid_slides(folder)


def test_a_folder_without_slides(tmp_path):
    with pytest.raises(MissingInputError, match=r"gone.*a slide or a folder of slides"):
        grid_slides(tmp_path / "gone")
    with pytest.raises(SlideError, match="holds no slide, but nothing"):
        grid_slides(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(SlideError, match=r"holds no slide, but 'a\.txt'"):
        grid_slides(tmp_path)


def test_grids_cover_the_spots_of_real_sections(shared_data):
    """Spots under tissue, as their authors have it, lie in kept cells; most of the glass does not."""
    anndata = pytest.importorskip("anndata")
    path = shared_data / "her2st" / "pyramid" / "C3.tif"
    section = grid_section(path, config(path))
    spots = anndata.read_h5ad(shared_data / "her2st" / "C3.h5ad").obsm["spatial"]
    step = 112 / section.mpp
    kept = {(x, y) for x, y in zip(section.obs["array_col"], section.obs["array_row"], strict=True)}
    hit = [(int(x // step), int(y // step)) in kept for x, y in spots]
    assert np.mean(hit) > 0.95
    n_cells = (9270 / step) * (9936 / step)
    assert len(kept) < 0.25 * n_cells  # the pink haze beside the section is left out
