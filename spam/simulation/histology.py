"""Drawing the H&E-like image of a simulated section."""

import dataclasses

import numpy as np
from scipy import ndimage

from spam.typing import Array, Float, Float32, UInt8

from .cells import Ellipses, place_holes, place_nuclei
from .frame import Frame
from .lattice import TissueOutline
from .morphology import KINDS, MixtureField
from .stamping import stamp_ellipses

__all__ = ["Stain", "draw_histology"]

# Optical density of one unit of stain in red, green and blue: blue-violet haematoxylin, pink eosin.
_HAEMATOXYLIN = np.array([0.90, 0.98, 0.46])
_EOSIN = np.array([0.12, 0.85, 0.42])
_GLASS = np.array([243.0, 242.0, 244.0])  # empty slide
_MIXTURE_STEP_UM = 12.0  # the mixture varies over 200 µm: this is fine enough
_FIBRE_STEP_UM = 2.0
_BEND_CELLS = 90  # cells of the fibre grid over which fibres change direction: 180 µm
_CAMERA_NOISE = 2.5  # grey levels


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stain:
    """How strongly, and in which hue, a slide is stained."""

    haematoxylin: Float[Array, " 3"]
    eosin: Float[Array, " 3"]

    @classmethod
    def draw(cls, donor: np.random.Generator, section: np.random.Generator) -> "Stain":
        """Draw a stain: the donor's (laboratory's) hue and strength, and a little change for the section."""
        hue = 1 + donor.normal(0, 0.06, (2, 3))
        strength = np.exp(donor.normal(0, 0.15, 2) + section.normal(0, 0.05, 2))
        return cls(haematoxylin=_HAEMATOXYLIN * hue[0] * strength[0], eosin=_EOSIN * hue[1] * strength[1])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Fibres:
    """Wavy fibres: texture (mean 0, sd 1) on the image, and direction on a grid of `_FIBRE_STEP_UM`."""

    texture: Float32[Array, "height width"]
    angle: Float[Array, "n_rows n_columns"]

    @classmethod
    def draw(cls, frame: Frame, rng: np.random.Generator) -> "_Fibres":
        """Draw noise that is long along x and thin along y, then bend it."""
        n_rows, n_columns, _ = frame.grid(_FIBRE_STEP_UM).shape
        noise = rng.standard_normal((n_rows, n_columns), dtype=np.float32)
        streaks = ndimage.gaussian_filter(noise, (1.0, 14.0), mode="wrap")
        bend = rng.standard_normal((2, n_rows, n_columns), dtype=np.float32)
        for _ in range(3):  # three running means come close to a Gaussian and cost the same at any width
            bend = ndimage.uniform_filter(bend, (1, _BEND_CELLS, _BEND_CELLS), mode="wrap")
        bend *= _BEND_CELLS / 2 / np.maximum(bend.std(axis=(1, 2), keepdims=True), 1e-12)
        rows, columns = np.indices((n_rows, n_columns), dtype=np.float32)
        bent = [rows + bend[0], columns + bend[1]]
        texture = ndimage.map_coordinates(streaks, bent, order=1, mode="grid-wrap")
        texture = (texture - texture.mean()) / max(float(texture.std()), 1e-12)
        # Fibres run along the lines of equal (bent) row: at right angles to its gradient.
        down, right = (ndimage.sobel(bent[0], axis=axis, mode="nearest") for axis in (0, 1))
        return cls(texture=frame.resample(texture, _FIBRE_STEP_UM), angle=np.arctan2(-right, down))

    def angle_at(self, xy_um: Float[Array, "n 2"], frame: Frame) -> Float[Array, " n"]:
        """Look up the direction of the fibres."""
        cell = ((xy_um - np.array([frame.x_um, frame.y_um])) / _FIBRE_STEP_UM).astype(np.int64)
        columns, rows = (np.clip(cell[:, i], 0, self.angle.shape[1 - i] - 1) for i in (0, 1))
        return np.asarray(self.angle[rows, columns])


def draw_histology(
    outline: TissueOutline, mixture: MixtureField, frame: Frame, stain: Stain, rng: np.random.Generator
) -> UInt8[Array, "height width 3"]:
    """Draw the section as a bright-field image.

    Concentrations of haematoxylin and eosin are laid out first (fibres and cytoplasm from the mixture of
    tissues, nuclei, holes), then light passes through them by the Beer-Lambert law:
    ``intensity = glass * exp(-(haematoxylin * h + eosin * e))``; last comes the noise of the camera. Sizes
    are in µm, so the same tissue looks the same at another resolution.
    """
    fibres = _Fibres.draw(frame, rng)
    holes = place_holes(outline, mixture, frame.reach_um, rng)
    nuclei = place_nuclei(outline, mixture, holes, frame.reach_um, rng)

    haematoxylin, eosin = _ground(outline, mixture, frame, fibres)
    solid = 1 - _draw(holes, frame, np.ones(len(KINDS)), rim=0.0)
    haematoxylin *= solid
    eosin *= solid
    nuclear = _draw_nuclei(nuclei, frame, fibres, rng)
    eosin *= 1 - 0.6 * np.minimum(nuclear, 1)  # nuclei take up little eosin
    haematoxylin = np.maximum(haematoxylin, nuclear)

    image = np.empty((frame.height_px, frame.width_px, 3), dtype=np.uint8)
    for channel in range(3):
        density = haematoxylin * np.float32(stain.haematoxylin[channel])
        density += eosin * np.float32(stain.eosin[channel])
        light = np.float32(_GLASS[channel]) * np.exp(-density)
        light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(_CAMERA_NOISE)
        image[..., channel] = np.clip(np.rint(light), 0, 255)
    return image


def _ground(
    outline: TissueOutline, mixture: MixtureField, frame: Frame, fibres: _Fibres
) -> tuple[Float32[Array, "height width"], Float32[Array, "height width"]]:
    """Lay out both stains between the nuclei."""
    grid = frame.grid(_MIXTURE_STEP_UM)
    shares = mixture.shares(grid)
    haematoxylin, eosin, contrast = (
        frame.resample(shares @ np.array([getattr(kind, field) for kind in KINDS]), _MIXTURE_STEP_UM)
        for field in ("haematoxylin", "eosin", "fibres")
    )
    inside_um = frame.resample(outline.level_um - outline.radius_um(grid), _MIXTURE_STEP_UM)
    tissue = np.clip((inside_um + 2.5 * fibres.texture) / 4, 0, 1)  # the rim frays along the fibres
    eosin = eosin * np.clip(1 + 0.6 * contrast * fibres.texture, 0, 2.2)
    return haematoxylin * tissue, eosin * tissue


def _draw(
    ellipses: Ellipses, frame: Frame, strength: Float[Array, " n_kinds"], *, rim: float
) -> Float32[Array, "height width"]:
    """Draw ellipses on an empty image, each as strong as its kind."""
    canvas = np.zeros((frame.height_px, frame.width_px), dtype=np.float32)
    for kind in np.unique(ellipses.kind):  # one kind has one size: the stamps fit tightly
        chosen = ellipses.kind == kind
        stamp_ellipses(
            canvas,
            frame.to_px(ellipses.xy_um[chosen]),
            ellipses.diameters_um[chosen] / frame.mpp,
            ellipses.angle[chosen],
            np.full(int(chosen.sum()), strength[kind]),
            rim=rim,
        )
    return canvas


def _draw_nuclei(
    nuclei: Ellipses, frame: Frame, fibres: _Fibres, rng: np.random.Generator
) -> Float32[Array, "height width"]:
    """Draw the nuclei: those of the stroma along its fibres, all with mottled chromatin."""
    along = fibres.angle_at(nuclei.xy_um, frame) + rng.normal(0, 0.2, len(nuclei.angle))
    is_spindle = np.array([kind.fibres > 0.5 for kind in KINDS])[nuclei.kind]
    turned = dataclasses.replace(nuclei, angle=np.where(is_spindle, along, nuclei.angle))
    drawn = _draw(turned, frame, np.array([kind.nucleus_stain for kind in KINDS]), rim=0.35)
    mottle = rng.standard_normal(drawn.shape, dtype=np.float32)
    return np.asarray(drawn * np.clip(1 + 0.15 * mottle, 0.5, 1.5))
