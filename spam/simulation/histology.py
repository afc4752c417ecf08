"""Draws the H&E-like image of a simulated section."""

import dataclasses

import numpy as np
from PIL import Image
from scipy import ndimage

from spam.errors import ConfigError
from spam.typing import Array, Float, Float32, UInt8

from .simulated_tissue import KIND_TABLE, KINDS, SmoothFields, TissueOutline, hexagonal_lattice

# Optical density of one unit of stain in red, green and blue: blue-violet haematoxylin, pink eosin.
_STAINS = np.array([[0.90, 0.98, 0.46], [0.12, 0.85, 0.42]])
_GLASS = np.array([243.0, 242.0, 244.0])  # empty slide
_MAX_SIDE_PX = 9400  # Pillow opens a square of this side without a warning
_MIXTURE_STEP_UM = 12.0  # the mixture varies over 200 µm
_FIBRE_STEP_UM = 2.0
_NUCLEUS_PITCH_UM = 9.0  # fits the densest kind (11000 nuclei per mm²)
_CAMERA_NOISE = 2.5  # grey levels
_PIXELS_AT_ONCE = 4_000_000  # limits the memory for one batch of ellipses to about 100 MB
_FAT, _GLAND = (next(i for i, kind in enumerate(KINDS) if kind.name == name) for name in ("fat", "gland"))
# Kind, pitch, jitter, diameter and its spread: fat vacuoles and gland lumens.
_HOLES = ((_FAT, 56.0, 0.08, 54.0, 0.06), (_GLAND, 95.0, 0.15, 36.0, 0.25))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The rectangle of the image in the plane of the tissue; pixel ``i`` covers ``[i, i + 1)``."""

    corner_um: Float[Array, " 2"]
    width_px: int
    height_px: int
    mpp: float

    @classmethod
    def around(cls, xy_um: Float[Array, "n 2"], *, margin_um: float, mpp: float) -> "Frame":
        """Frame points with a margin.

        Raises
        ------
        ConfigError
            If the image would be too large.
        """
        low, high = xy_um.min(axis=0) - margin_um, xy_um.max(axis=0) + margin_um
        width_px, height_px = (int(n) for n in np.ceil((high - low) / mpp))
        if max(width_px, height_px) > _MAX_SIDE_PX:
            message = f"{width_px} x {height_px} pixels are too many; raise --mpp {mpp:g} or lower --n-spots"
            raise ConfigError(message)
        return cls(corner_um=low, width_px=width_px, height_px=height_px, mpp=mpp)

    @property
    def reach_um(self) -> float:
        """Largest absolute coordinate in the frame."""
        size_um = np.array([self.width_px, self.height_px]) * self.mpp
        return float(np.abs([self.corner_um, self.corner_um + size_um]).max())

    def to_px(self, xy_um: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
        """Convert positions in µm to pixels."""
        return np.asarray((xy_um - self.corner_um) / self.mpp)

    def grid(self, step_um: float) -> Float[Array, "n_rows n_columns 2"]:
        """Return the centres in µm of grid cells of side `step_um` that cover the frame."""
        sides = (int(np.ceil(n * self.mpp / step_um)) for n in (self.width_px, self.height_px))
        x, y = (low + (np.arange(n) + 0.5) * step_um for low, n in zip(self.corner_um, sides, strict=True))
        return np.stack(np.meshgrid(x, y), axis=-1)

    def resample(
        self, values: Float[Array, "n_rows n_columns"], step_um: float
    ) -> Float32[Array, "height width"]:
        """Interpolate values on `grid` to the pixels of the image."""
        size = (self.width_px, self.height_px)
        box = (0.0, 0.0, self.width_px * self.mpp / step_um, self.height_px * self.mpp / step_um)
        image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


def draw_stain(donor: np.random.Generator, section: np.random.Generator) -> Float[Array, "2 3"]:
    """Draw the optical densities of both stains: hue and strength vary by donor, the strength a little by section."""
    hue = 1 + donor.normal(0, 0.06, (2, 3))
    strength = np.exp(donor.normal(0, 0.15, 2) + section.normal(0, 0.05, 2))
    return np.asarray(_STAINS * hue * strength[:, None])


def draw_histology(
    outline: TissueOutline,
    mixture: SmoothFields,
    frame: Frame,
    stain: Float[Array, "2 3"],
    rng: np.random.Generator,
) -> UInt8[Array, "height width 3"]:
    """Draw the section as a bright-field image.

    Concentrations of haematoxylin and eosin (fibres and cytoplasm by the mixture of tissues, nuclei, holes) attenuate
    the light by the Beer-Lambert law, ``intensity = glass * exp(-(haematoxylin * h + eosin * e))``, and the camera adds
    noise. Sizes are in µm, so the same tissue looks the same at another resolution.
    """
    grid = frame.grid(_MIXTURE_STEP_UM)
    shares = mixture.shares(grid)
    eosin, haematoxylin, contrast = (
        frame.resample(shares @ KIND_TABLE[:, column], _MIXTURE_STEP_UM) for column in (1, 2, 3)
    )
    texture = _draw_fibres(frame, rng)
    inside_um = frame.resample(outline.level_um - outline.radius_um(grid), _MIXTURE_STEP_UM)
    tissue = np.clip((inside_um + 2.5 * texture) / 4, 0, 1)  # the border frays along the fibres
    nuclei = _draw_nuclei(outline, mixture, frame, rng)
    eosin = eosin * np.clip(1 + 0.6 * contrast * texture, 0, 2.2) * (1 - 0.6 * np.minimum(nuclei, 1))
    haematoxylin = np.maximum(haematoxylin * tissue, nuclei)
    solid = 1 - _draw_holes(outline, mixture, frame, rng)
    image = np.empty((frame.height_px, frame.width_px, 3), dtype=np.uint8)
    for channel, (h, e) in enumerate(stain.T.astype(np.float32)):
        light = np.float32(_GLASS[channel]) * np.exp(-solid * (haematoxylin * h + eosin * tissue * e))
        light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(_CAMERA_NOISE)
        image[..., channel] = np.clip(np.rint(light), 0, 255)
    return image


def _draw_fibres(frame: Frame, rng: np.random.Generator) -> Float32[Array, "height width"]:
    """Draw wavy fibres of mean 0 and standard deviation 1: noise that is long along x and thin along y."""
    shape = frame.grid(_FIBRE_STEP_UM).shape[:2]
    streaks = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (1.0, 14.0), mode="wrap")
    rows, columns = np.indices(shape, dtype=np.float32)
    rows += 12 * np.sin(columns / 45 + rng.uniform(0, 2 * np.pi))
    texture = ndimage.map_coordinates(streaks, [rows, columns], order=1, mode="grid-wrap")
    return frame.resample((texture - texture.mean()) / max(float(texture.std()), 1e-12), _FIBRE_STEP_UM)


def _jittered(pitch_um: float, jitter: float, frame: Frame, rng: np.random.Generator) -> Float[Array, "n 2"]:
    """Return a hexagonal lattice with each point moved by up to `jitter` pitches: even, but not regular."""
    _, xy_um = hexagonal_lattice(pitch_um, frame.reach_um)
    return np.asarray(xy_um + rng.uniform(-jitter, jitter, xy_um.shape) * pitch_um)


def _draw_holes(
    outline: TissueOutline, mixture: SmoothFields, frame: Frame, rng: np.random.Generator
) -> Float32[Array, "height width"]:
    """Draw fat vacuoles and gland lumens, each with the local share of its kind as probability."""
    canvas = np.zeros((frame.height_px, frame.width_px), dtype=np.float32)
    for kind, pitch_um, jitter, size_um, spread in _HOLES:
        xy_um = _jittered(pitch_um, jitter, frame, rng)
        xy_um = xy_um[outline.radius_um(xy_um) < outline.level_um - size_um / 2]
        xy_um = xy_um[rng.uniform(size=len(xy_um)) < mixture.shares(xy_um)[:, kind]]
        diameters_um = size_um * np.exp(rng.normal(0, spread, (len(xy_um), 2)))
        angle = rng.uniform(0, np.pi, len(xy_um))
        stamp_ellipses(canvas, frame.to_px(xy_um), diameters_um / frame.mpp, angle, np.ones(len(xy_um)))
    return canvas


def _draw_nuclei(
    outline: TissueOutline, mixture: SmoothFields, frame: Frame, rng: np.random.Generator
) -> Float32[Array, "height width"]:
    """Draw nuclei at the density of the local mixture, with mottled chromatin; spindle-shaped ones along the fibres."""
    xy_um = _jittered(_NUCLEUS_PITCH_UM, 0.4, frame, rng)
    xy_um = xy_um[outline.radius_um(xy_um) <= outline.level_um]
    cell_mm2 = _NUCLEUS_PITCH_UM**2 * np.sqrt(0.75) / 1e6
    chance = np.cumsum(mixture.shares(xy_um) * KIND_TABLE[:, 4] * cell_mm2, axis=1)
    kind_of = (rng.uniform(size=len(xy_um))[:, None] >= chance).sum(axis=1)  # len(KINDS): no nucleus
    canvas = np.zeros((frame.height_px, frame.width_px), dtype=np.float32)
    for number, kind in enumerate(KINDS):
        centres = frame.to_px(xy_um[kind_of == number])
        n = len(centres)
        diameters_um = np.array([kind.long_um, kind.short_um]) * np.exp(rng.normal(0, 0.15, (n, 2)))
        angle = rng.normal(0, 0.2, n) if kind.fibres > 0.5 else rng.uniform(0, np.pi, n)
        stamp_ellipses(canvas, centres, diameters_um / frame.mpp, angle, np.full(n, kind.nucleus_stain))
    mottle = rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.asarray(canvas * np.clip(1 + 0.15 * mottle, 0.5, 1.5))


def stamp_ellipses(
    canvas: Float32[Array, "height width"],
    xy_px: Float[Array, "n 2"],
    diameters_px: Float[Array, "n 2"],
    angle: Float[Array, " n"],
    strength: Float[Array, " n"],
) -> None:
    """Draw ellipses onto `canvas` in place; where several overlap, the strongest is kept.

    Parameters
    ----------
    canvas
        Image; pixel ``(row, column)`` covers ``[column, column + 1) x [row, row + 1)``.
    xy_px
        Centres (x = column, y = row); an ellipse is cut at the border of the canvas.
    diameters_px
        Long and short diameter. The edge is one pixel soft, so that ellipses smaller than a pixel fade out.
    angle
        Direction of the long diameter in radians, from x towards y.
    strength
        Value inside.
    """
    if not len(xy_px):
        return
    height, width = canvas.shape
    half = int(np.ceil(diameters_px.max() / 2 + 1))
    offsets = np.arange(-half, half + 1)
    batch = max(1, _PIXELS_AT_ONCE // offsets.size**2)
    for start in range(0, len(xy_px), batch):
        part = slice(start, start + batch)
        corner = np.floor(xy_px[part]).astype(np.int64)
        columns, rows = (corner[:, axis, None] + offsets for axis in (0, 1))  # (batch, side)
        x = (columns + 0.5 - xy_px[part, 0, None])[:, None, :]
        y = (rows + 0.5 - xy_px[part, 1, None])[:, :, None]
        cos, sin = np.cos(angle[part, None, None]), np.sin(angle[part, None, None])
        long_px, short_px = (diameters_px[part, axis, None, None] / 2 for axis in (0, 1))
        radius = np.hypot((x * cos + y * sin) / long_px, (y * cos - x * sin) / short_px)
        # The mean half diameter converts the relative distance from the edge to pixels.
        value = strength[part, None, None] * np.clip((1 - radius) * (long_px + short_px) / 2 + 0.5, 0, 1)
        is_row, is_column = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
        is_inside = is_row[:, :, None] & is_column[:, None, :]
        index = rows[:, :, None] * width + columns[:, None, :]
        np.maximum.at(canvas.reshape(-1), index[is_inside], value[is_inside].astype(np.float32))
