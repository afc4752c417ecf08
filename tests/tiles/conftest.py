"""Pictures and sections that the tests of tiles are made of."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from spam.sections import JoinReport, Section, SlideSource, TileFiles
from spam.typing import Array, UInt8

MakeSection = Callable[..., Section]


@pytest.fixture(scope="session")
def picture() -> UInt8[Array, "h w 3"]:
    """A picture of 401 x 307 px (width x height): blobs with grain, with detail at every scale and no two places alike."""
    noise = np.random.default_rng(1).normal(size=(307, 401, 3))
    layers = [ndimage.gaussian_filter(noise, (s, s, 0), mode="wrap") * s for s in (0.5, 2.0, 7.0)]
    return np.clip(150 + 45 * sum(layers), 0, 255).astype(np.uint8)


@pytest.fixture
def slide_path(tmp_path: Path, picture: UInt8[Array, "h w 3"]) -> Path:
    """The picture as a PNG."""
    path = tmp_path / "slide.png"
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture
def painted_pyramid(tmp_path: Path) -> Path:
    """A tiled TIFF whose levels (1, 4 and 16) are painted red, green and blue, so that a read shows its level."""
    path = tmp_path / "painted.tif"
    with tifffile.TiffWriter(path) as writer:
        for level, side in enumerate((1024, 256, 64)):
            pixels = np.zeros((side, side, 3), dtype=np.uint8)
            pixels[..., level] = 255
            writer.write(
                pixels,
                tile=(64, 64),
                photometric="rgb",
                subfiletype=int(level > 0),
                resolution=(20_000 / 4**level, 20_000 / 4**level),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


@pytest.fixture
def make_section() -> MakeSection:
    """Make a section without counts from coordinates and either a slide or tile files."""

    def make(
        xy_px: list[tuple[float, float]],
        tiles: Path | list[Path],
        *,
        mpp: float | None = None,
        mpp_source: str | None = None,
        **values: float,
    ) -> Section:
        xy = np.array(xy_px, dtype=np.float64).reshape(-1, 2)
        return Section(
            name="S1",
            ids=np.array([f"spot{i}" for i in range(len(xy))], dtype=np.str_),
            xy_px=xy,
            mpp=mpp,
            mpp_source=mpp_source or (None if mpp is None else "h5ad"),
            obs={},
            tiles=SlideSource(path=tiles) if isinstance(tiles, Path) else TileFiles(paths=tuple(tiles)),
            join=JoinReport(n_matched=len(xy)),
            sources=(),
            **values,
        )

    return make
