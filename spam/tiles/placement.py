"""Spots on the tissue of their slide: as given, exchanged, mirrored and turned, scored by tissue and expression."""

import dataclasses
import math

import numpy as np
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from spam.errors import SlideError, TileError
from spam.sections import Section
from spam.typing import Array, Float64, Int64, UInt8

from .slide import Slide
from .tile_cutting import Thumbnail, overview
from .tissue_grid import tissue_mask

AS_GIVEN, EXCHANGED = "as given", "with x and y exchanged"

# Mean score of the spots, see `Evidence`. In 16 real sections, no other placement than the right one had more (0.06 to 0.9
# less with counts), and all 16 are recognised if x and y are exchanged.
_NOTABLE, _CERTAIN = 0.05, 0.1
_LEAST_SPOTS = 12
# Of the tissue, in the box around the spots. A part of a section often has more tissue in some turned place by chance (9 of 112
# halves and quarters of real sections, none of them with x and y exchanged); the boxes of whole sections hold 0.65 or more.
LEAST_COVERED = 0.6
# Standard errors of the mean difference, as if spots were independent. They are not: this was chosen on the 16 sections.
_ERRORS = 3.3

_MOST_SPOTS = 1000  # that are scored: more change no mean by more than its error
# Expression is summarised by the principal components of the most frequent genes and by the total counts.
_LEAST_FITTED, _N_GENES, _N_COMPONENTS, _WEIGHT_OF_TOTAL = 40, 500, 8, 0.3
_BLURS = (0.2, 0.5)  # of the distance of neighbouring spots: within a spot, and around it
_PX_PER_DISTANCE = 8  # of the maps of colour
_PX_OF_BOXES = 256  # of the slide, for the tissue in a box
_RIDGE = 1.0  # for standardised colours


def placements(xy_px: Float64[Array, "n 2"], width: int, height: int) -> dict[str, Float64[Array, "n 2"]]:
    """Return the coordinates on a slide of `width` x `height` px if they were meant in each of eight ways.

    A turn or a mirrored picture is one of the slide: coordinates may have been marked on a copy of it that was turned.
    """
    x, y = xy_px.T
    right, low = width - x, height - y
    ways = {
        AS_GIVEN: (x, y),
        EXCHANGED: (y, x),
        "mirrored from left to right": (right, y),
        "mirrored from top to bottom": (x, low),
        "turned by 180°": (right, low),
        "turned by 90° clockwise": (width - y, x),
        "turned by 90° counterclockwise": (y, height - x),
        "mirrored at the other diagonal": (width - y, height - x),
    }
    return {name: np.stack(axes, axis=1) for name, axes in ways.items()}


class Evidence:
    """Scores places of the spots on a slide by the tissue there, and by how well its colours explain the expression.

    The share of tissue is that of a square with half the distance of neighbouring spots as its side; outside of the slide it is
    0. The fit is the explained part of the expression of the spot (1 minus its squared error over the variance): principal
    components of log(1 + CP10k) and the logarithm of the total counts, predicted by a ridge regression on the optical density
    of the three channels and its standard deviation, at two blurs, without the spot itself. It is 0 without counts of 40 spots.

    Parameters
    ----------
    image
        Small picture of the slide.
    xy_px
        Spots as given, which set the distance; at most 1000 are scored (`rows`).
    width, height
        Size of the slide.
    counts
        Raw counts of the spots.
    """

    def __init__(
        self,
        image: UInt8[Array, "h w 3"],
        xy_px: Float64[Array, "n 2"],
        width: int,
        height: int,
        *,
        counts: csr_matrix | None = None,
    ) -> None:
        self.size = (width, height)
        self._to_picture = np.array([image.shape[1] / width, image.shape[0] / height])
        self.distance_px = _distance(xy_px)
        chosen = np.random.default_rng(0).permutation(len(xy_px))[:_MOST_SPOTS]
        self.rows: Int64[Array, " n_rows"] = np.sort(chosen)
        self.xy_px = xy_px[self.rows]
        distance = min(self.distance_px * float(self._to_picture[0]), *image.shape[:2])
        tissue = tissue_mask(image)
        step = max(1, max(tissue.shape) // _PX_OF_BOXES)
        self._tissue_px = (np.argwhere(tissue[::step, ::step])[:, ::-1] + 0.5) * step / self._to_picture
        self._tissue = ndimage.uniform_filter(
            tissue.astype(np.float32), max(1, round(distance / 2)), mode="constant"
        )
        self.has_fit = counts is not None and len(self.rows) >= _LEAST_FITTED and distance > 0
        if counts is not None and self.has_fit:
            self._targets = _summarise(counts[self.rows])
            self._colours = _blurred_density(image, distance)

    def shares(self, xy_px: Float64[Array, "n_rows 2"]) -> Float64[Array, " n_rows"]:
        """Return the share of tissue at places of the scored spots."""
        column, row = np.floor(xy_px * self._to_picture).astype(np.int64).T
        h, w = self._tissue.shape
        is_inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
        found = self._tissue[np.clip(row, 0, h - 1), np.clip(column, 0, w - 1)]
        return np.where(is_inside, found, 0).astype(np.float64)

    def fits(self, xy_px: Float64[Array, "n_rows 2"]) -> Float64[Array, " n_rows"]:
        """Return the explained part of the expression of each scored spot; their mean is that of the section."""
        if not self.has_fit:
            return np.zeros(len(self.rows))
        colours = self._colours((xy_px * self._to_picture)[:, ::-1])
        colours -= colours.mean(axis=0)
        colours /= colours.std(axis=0) + 1e-6  # a colour that is the same everywhere stays 0
        design = np.column_stack([np.ones(len(colours)), colours])
        penalty = _RIDGE * np.diag([0.0] + [1.0] * colours.shape[1])
        solved = np.linalg.solve(design.T @ design + penalty, design.T)
        leverage = np.einsum("ij,ji->i", design, solved)
        errors = (self._targets - design @ (solved @ self._targets)) / (1 - leverage)[:, None]
        return np.asarray(1 - (errors**2).sum(axis=1))

    def covered(self, xy_px: Float64[Array, "n 2"]) -> float:
        """Return which share of the tissue lies in the box around spots, half of their distance wider than they are."""
        margin = _distance(xy_px) / 2
        low, high = xy_px.min(axis=0) - margin, xy_px.max(axis=0) + margin
        is_in = ((self._tissue_px >= low) & (self._tissue_px <= high)).all(axis=1)
        return float(is_in.mean()) if len(is_in) else 0.0

    def scores(self, xy_px: Float64[Array, "n_rows 2"]) -> Float64[Array, " n_rows"]:
        """Return tissue and fit of each scored spot, added."""
        return np.asarray(self.shares(xy_px) + self.fits(xy_px))

    def words(self, xy_px: Float64[Array, "n_rows 2"]) -> str:
        """State the means in words, such as ``84% tissue`` or ``84% tissue, 32% of the expression explained``."""
        fit = (
            f", {max(float(self.fits(xy_px).mean()), 0):.0%} of the expression explained"
            if self.has_fit
            else ""
        )
        return f"{self.shares(xy_px).mean():.0%} tissue{fit}"


def _summarise(counts: csr_matrix) -> Float64[Array, "n n_targets"]:
    """Return components of the expression whose squares add up to 1 per spot on average."""
    counts = counts.astype(np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    frequent = np.sort(np.argsort(-np.asarray(counts.mean(axis=0)).ravel(), kind="stable")[:_N_GENES])
    expression = np.log1p(counts[:, frequent].toarray() * (1e4 / np.maximum(totals, 1.0))[:, None])
    left, values, _ = np.linalg.svd(expression - expression.mean(axis=0), full_matrices=False)
    components = (left * values)[:, :_N_COMPONENTS]
    total = np.log1p(totals) - np.log1p(totals).mean()
    parts = np.column_stack([components / (np.sqrt((components**2).sum()) + 1e-12), total])
    parts[:, -1] *= math.sqrt(_WEIGHT_OF_TOTAL / (float((total**2).sum()) + 1e-12))
    return np.asarray(parts * math.sqrt(len(parts) / (1 + _WEIGHT_OF_TOTAL)))


def _blurred_density(image: UInt8[Array, "h w 3"], distance: float) -> RegularGridInterpolator:
    """Return the optical density of each channel and its deviation, blurred over parts of a distance, by row and column."""
    density = -np.log((image.astype(np.float32) + 1) / 256)
    maps = np.concatenate([density, density.mean(axis=2, keepdims=True) ** 2], axis=2)
    step = max(1, int(distance / _PX_PER_DISTANCE))
    h, w = (-(-side // step) for side in image.shape[:2])
    maps = np.pad(maps, ((0, h * step - image.shape[0]), (0, w * step - image.shape[1]), (0, 0)))
    maps = maps.reshape(h, step, w, step, 4).mean(axis=(1, 3))
    blurred = list[Array]()
    for part in _BLURS:
        sigma = max(part * distance / step, 0.7)
        one = ndimage.gaussian_filter(maps, (sigma, sigma, 0), mode="constant")
        one[..., 3] = np.sqrt(np.maximum(one[..., 3] - one[..., :3].mean(axis=2) ** 2, 0))
        blurred.append(one)
    centres = tuple((np.arange(n) + 0.5) * step for n in (h, w))
    return RegularGridInterpolator(
        centres, np.concatenate(blurred, axis=2), bounds_error=False, fill_value=0.0
    )


def _distance(xy_px: Float64[Array, "n 2"]) -> float:
    """Return the median distance of a spot to its nearest neighbour; 0 for one spot."""
    return float(np.median(cKDTree(xy_px).query(xy_px, k=2)[0][:, 1])) if len(xy_px) > 1 else 0.0


def is_better(scores: Float64[Array, " n"], given: Float64[Array, " n"], least: float = _NOTABLE) -> bool:
    """Return whether scores are higher by at least `least` on average, and that is not chance."""
    more = scores - given
    gain, error = float(more.mean()), float(more.std()) / math.sqrt(len(more))
    return len(more) >= _LEAST_SPOTS and gain >= least and gain > _ERRORS * error


def better_placement(evidence: Evidence) -> tuple[str, float] | None:
    """Return the placement with the highest score and how much more it has, unless that may be chance.

    Exchanged axes are far more frequent than a turned slide, and win if they are as good, unless the colours there explain less.
    Others count only if the spots enclose most of the tissue.
    """
    places = placements(evidence.xy_px, *evidence.size)
    scores = {name: evidence.scores(at) for name, at in places.items()}
    means = {name: float(values.mean()) for name, values in scores.items()}
    best = max(means, key=lambda name: means[name] + _NOTABLE * (name == EXCHANGED))
    is_fitting = (
        evidence.fits(places[best]).mean() >= evidence.fits(evidence.xy_px).mean()  # 0 without counts
        if best == EXCHANGED
        else evidence.covered(places[best]) >= LEAST_COVERED
    )
    is_sure = bool(is_fitting) and is_better(scores[best], scores[AS_GIVEN])
    return (best, means[best] - means[AS_GIVEN]) if is_sure else None


def check_placement(section: Section, slide: Slide, *, is_decided: bool, is_forgiving: bool) -> Section:
    """Check that the spots lie on tissue, and not better with x and y exchanged or on a turned slide.

    Tissue is found in a picture of at most 2048 px. Nothing is found if tissue fills the slide, or if several placements
    score alike. Mirrored and turned placements count only if the spots enclose most of the tissue.

    Parameters
    ----------
    section
        Section whose spots come from a table.
    slide
        Its slide.
    is_decided
        Whether the order of the axes is certain: then an exchange is a note, and no error.
    is_forgiving
        Whether damaged blocks count as glass; otherwise they are an error.

    Returns
    -------
    Section
        The section itself, or a copy with a note, which is also `JoinReport.placement_doubt`.

    Raises
    ------
    SlideError
        If the slide cannot be decoded, or shows one colour alone.
    TileError
        If far more spots lie on tissue with x and y exchanged.
    """
    picture = readable_overview(slide, is_forgiving=is_forgiving)
    evidence = Evidence(picture.image, section.xy_px, slide.width, slide.height, counts=section.counts)
    better = better_placement(evidence)
    if better is None:
        return section
    name, gain = better
    place = placements(evidence.xy_px, slide.width, slide.height)[name]
    before, after = (evidence.words(at) for at in (evidence.xy_px, place))
    found = f"on slide {slide.path.name!r}, the places of the {section.n_spots} spots are {before}; {name} {after}"
    if name == EXCHANGED and gain >= _CERTAIN and not is_decided:
        advice = (
            "Run again with --swap-xy, and exchange obsm['spatial'] of an h5ad too; or keep them with --no-swap-xy (with "
            "--manifest, these act on all its sections). See the places with: spam check-alignment"
        )
        message = f"Section {section.name!r}: {found}. {advice}."
        raise TileError(message)
    doubt = f"{found}: check the coordinates"
    join = dataclasses.replace(section.join, notes=(*section.join.notes, doubt), placement_doubt=doubt)
    return dataclasses.replace(section, join=join)


def readable_overview(slide: Slide, *, is_forgiving: bool = False) -> Thumbnail:
    """Shrink the slide as `overview`, unless it is damaged or shows one colour alone.

    Raises
    ------
    SlideError
        If it is damaged (unless `is_forgiving`), cannot be decoded, or shows one colour alone.
    """
    if slide.damage and not is_forgiving:
        advice = "Check that it was copied whole, or leave out what is missing with --skip-bad-tiles"
        message = f"Slide {str(slide.path)!r} {slide.damage}. {advice}."
        raise SlideError(message)
    picture = overview(slide, is_forgiving=is_forgiving)
    first = picture.image[0, 0]
    if (picture.image == first).all():
        colour = ", ".join(map(str, first.tolist()))
        message = f"Slide {str(slide.path)!r} shows nothing: every pixel is ({colour}). Check that it was copied whole."
        raise SlideError(message)
    return picture
