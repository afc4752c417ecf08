"""Which tile sizes a section gets."""

from pathlib import Path

import pytest
from PIL import Image

from spam.errors import ConfigError, SlideError
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.tile_spec import TileSpec
from spam.tiles import resolve_tile_specs


def _config(**values):
    return EmbedConfig(store=Path("s.zarr"), csv=Path("t.csv"), root=Path(), **values)


@pytest.fixture
def tile_paths(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        Image.new("RGB", (61, 61)).save(path)
    return paths


def test_sizes_are_taken_as_given_each_once(make_section, slide_path):
    section = make_section([(1.0, 2.0)], slide_path, mpp=0.5, patch_px=99)
    assert resolve_tile_specs(section, _config(tile_um=(224.0, 112.0, 224.0)), input_px=37) == (
        TileSpec(tile_um=224.0, out_px=37),
        TileSpec(tile_um=112.0, out_px=37),
    )
    assert resolve_tile_specs(section, _config(tile_px=(55,)), input_px=37) == (
        TileSpec(tile_px=55, out_px=37),
    )


def test_defaults_are_the_files_then_the_table_then_112_um(make_section, slide_path, tile_paths):
    def default(section):
        (spec,) = resolve_tile_specs(section, _config(), input_px=37)
        return spec

    xy = [(1.0, 2.0), (3.0, 4.0)]
    assert default(make_section(xy, tile_paths, mpp=0.69, patch_px=99)) == TileSpec(tile_um=42.1, out_px=37)
    assert default(make_section(xy, tile_paths, patch_px=99)) == TileSpec(tile_px=61, out_px=37)
    assert default(make_section(xy, slide_path, mpp=0.5, patch_px=99)) == TileSpec(tile_px=99, out_px=37)
    assert default(make_section(xy, slide_path, mpp=0.5)) == TileSpec(tile_um=112.0, out_px=37)


@pytest.mark.parametrize("sizes", [(), (112.0, 224.0)])
def test_um_without_a_pixel_size_is_an_error(make_section, slide_path, sizes):
    section = make_section([(1.0, 2.0)], slide_path)
    with pytest.raises(ConfigError, match=r"112um.*'S1'.*--mpp.*--tile-px"):
        resolve_tile_specs(section, _config(tile_um=sizes), input_px=37)


def test_what_the_slide_states_is_part_of_the_error(make_section, slide_path, tile_paths):
    section = make_section([(1.0, 2.0)], slide_path)
    with pytest.raises(ConfigError, match=r"the slide 'slide\.png' states no pixel size; give --mpp"):
        resolve_tile_specs(section, _config(), input_px=37)
    note = "states 353 µm per pixel (72 dpi), the resolution of a screen"
    with pytest.raises(
        ConfigError, match=r"the slide 'slide\.png' states 353 µm per pixel \(72 dpi\).*screen; give --mpp"
    ):
        resolve_tile_specs(section, _config(), input_px=37, mpp_note=note)
    assert resolve_tile_specs(section, _config(tile_px=(55,)), input_px=37, mpp_note=note)
    files = make_section([(1.0, 2.0), (3.0, 4.0)], tile_paths)
    with pytest.raises(ConfigError, match="tile files do not state it; give --mpp"):
        resolve_tile_specs(files, _config(tile_um=(112.0,)), input_px=37)


def test_the_extent_of_tile_files_is_that_of_the_first_that_can_be_read(make_section, tile_paths):
    tile_paths[0].write_bytes(b"")
    section = make_section([(1.0, 2.0), (3.0, 4.0)], tile_paths)
    with pytest.raises(SlideError, match="0 bytes"):
        resolve_tile_specs(section, _config(), input_px=37)
    (spec,) = resolve_tile_specs(section, _config(skip_bad_tiles=True), input_px=37)
    assert spec == TileSpec(tile_px=61, out_px=37)
