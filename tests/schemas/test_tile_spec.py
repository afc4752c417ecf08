"""A tile's size in µm, in slide pixels, and for the encoder."""

import pytest

from spam.errors import ConfigError
from spam.schemas.tile_spec import TileSpec


def test_native_size_and_label() -> None:
    um = TileSpec(tile_um=112.0)
    assert (um.label, um.native_px(0.5), um.native_px(0.7)) == ("112um", 224.0, 160.0)
    px = TileSpec(tile_px=97, out_px=31)
    assert (px.label, px.native_px(None), px.native_px(3.0)) == ("97px", 97.0, 97.0)
    assert TileSpec(tile_um=55.5).label == "55.5um"
    assert px.to_mapping() == {"tile_um": None, "tile_px": 97, "out_px": 31}


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"tile_um": 1.0, "tile_px": 1},
        {"tile_um": 0.0},
        {"tile_um": float("nan")},
        {"tile_px": -1},
        {"tile_px": 3, "out_px": 0},
    ],
)
def test_refused_sizes_name_the_flags(sizes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"--tile-um(,| and) --tile-px"):
        TileSpec(**sizes)


def test_unknown_scale_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"112 µm .* give --mpp, or .* --tile-px"):
        TileSpec(tile_um=112.0).native_px(None)
