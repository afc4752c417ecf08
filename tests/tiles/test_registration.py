"""Rotation, scale and shift of real sections, applied on purpose and found again; nuclei around cells; angles of lattices."""

import anndata
import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.spatial import transform

from spam.tiles import Evidence, lattice_angle, nuclear_offset, open_slide, overview, placements, register
from spam.tiles.placement import AS_GIVEN, EXCHANGED, better_placement
from spam.tiles.registration import moved

SECTIONS = {
    "mob_st1k_mouseA/rep1": "rep1.jpg",
    "her2st/A2": "A2_lowres.jpg",
    "xenium_lung_ncbi858/NCBI858": "NCBI858.jpg",
    "her2st/C3": "C3.jpg",
    "colon_visium/colon_d0": "colon_d0.jpg",
}


class Real:
    """A real section: counts, places, and a small picture of its slide."""

    def __init__(self, folder, name):
        adata = anndata.read_h5ad(folder / f"{name}.h5ad")
        self.counts = csr_matrix(adata.X)
        self.xy = np.asarray(adata.obsm["spatial"], dtype=np.float64)[:, :2]
        self.path = folder / name.split("/")[0] / "images" / SECTIONS[name]
        with open_slide(self.path) as slide:
            self.picture, self.size = overview(slide).image, (slide.width, slide.height)

    def evidence(self, xy, counts="own"):
        counts = self.counts if isinstance(counts, str) else counts
        return Evidence(self.picture, xy, *self.size, counts=counts)

    def register(self, xy):
        """Register wrong places; return the result and the remaining error (root mean square, in distances of spots)."""
        found = register(self.evidence(xy))
        error = np.sqrt(((found.apply(xy) - self.xy) ** 2).sum(axis=1).mean())
        return found, float(error / self.evidence(self.xy).distance_px)


@pytest.fixture(scope="module")
def real(shared_data):
    made = {}
    return lambda name: made.setdefault(name, Real(shared_data, name))


def test_moved_is_scipys_rotation():
    xy = np.random.default_rng(3).uniform(0, 100, (7, 2))
    turn = transform.Rotation.from_euler("z", 30, degrees=True).as_matrix()[:2, :2]
    centre = xy.mean(axis=0)
    expected = (turn @ (xy - centre).T).T * 1.5 + centre + (2, -3)
    np.testing.assert_allclose(moved(xy, 30, 1.5, (2, -3)), expected)


def test_the_fit_is_that_of_leaving_each_spot_out(real):
    """The explained part equals that of ridge regressions without the spot, one by one, by scikit-learn."""
    from sklearn.linear_model import Ridge

    one = real("mob_st1k_mouseA/rep1")
    evidence = one.evidence(one.xy)
    colours = evidence._colours((one.xy * evidence._to_picture)[:, ::-1])
    colours = (colours - colours.mean(axis=0)) / (colours.std(axis=0) + 1e-6)
    for spot in (0, 17, 266):
        others = np.arange(len(one.xy)) != spot
        ridge = Ridge(alpha=1.0).fit(colours[others], evidence._targets[others])
        error = evidence._targets[spot] - ridge.predict(colours[spot : spot + 1])[0]
        assert evidence.fits(one.xy)[spot] == pytest.approx(1 - (error**2).sum(), abs=1e-3)
    assert (evidence._targets**2).sum(axis=1).mean() == pytest.approx(1)


def test_counts_tell_a_round_section_with_exchanged_axes(real):
    """rep1 is round, in the middle of a nearly square picture: tissue alone tells nothing."""
    one = real("mob_st1k_mouseA/rep1")
    assert better_placement(one.evidence(one.xy[:, ::-1], counts=None)) is None
    name, gain = better_placement(one.evidence(one.xy[:, ::-1]))
    assert name == EXCHANGED
    assert gain > 0.2
    assert better_placement(one.evidence(one.xy)) is None
    shuffled = np.random.default_rng(0).permutation(len(one.xy))
    assert one.evidence(one.xy, counts=one.counts[shuffled]).fits(one.xy).mean() < 0.02


CHANGES = {
    "exchanged": (lambda xy, d: xy[:, ::-1], (EXCHANGED, 0, 1)),
    "turned by 6 degrees and shifted": (lambda xy, d: moved(xy, 6, 1, (d, -d)), (AS_GIVEN, -6, 1)),
    "half as large": (lambda xy, d: xy / 2, (AS_GIVEN, 0, 2)),
    "a tenth too large": (lambda xy, d: xy * 1.1, (AS_GIVEN, 0, 1 / 1.1)),
    "three spots too far": (lambda xy, d: xy + np.array([3 * d, 0]), (AS_GIVEN, 0, 1)),
}


FAST = ("mob_st1k_mouseA/rep1", "turned by 6 degrees and shifted")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param(name, change, marks=() if (name, change) == FAST else pytest.mark.slow)
        for name in SECTIONS
        for change in CHANGES
    ],
)
def test_a_change_of_a_real_section_is_found_and_undone(real, name, change):
    one = real(name)
    change, (way, angle, scale) = CHANGES[change]
    found, error = one.register(change(one.xy, one.evidence(one.xy).distance_px))
    assert found.is_wrong
    assert found.way == way
    assert found.angle == pytest.approx(angle, abs=1.0)
    assert found.scale == pytest.approx(scale, rel=0.04)
    assert error < 0.3


@pytest.mark.parametrize(
    "name",
    [
        "mob_st1k_mouseA/rep1",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SECTIONS if name != "mob_st1k_mouseA/rep1"),
    ],
)
def test_right_places_stay(real, name):
    one = real(name)
    found, error = one.register(one.xy)
    assert not found.is_wrong
    assert error == 0


def test_few_spots_are_compared_with_the_placements_alone(real):
    one = real("mob_st1k_mouseA/rep1")
    few = np.random.default_rng(1).permutation(len(one.xy))[:97]
    evidence = Evidence(one.picture, one.xy[few] + 150, *one.size, counts=one.counts[few])
    assert not register(evidence).is_wrong
    swapped = Evidence(one.picture, one.xy[few][:, ::-1], *one.size, counts=one.counts[few])
    assert register(swapped).way == EXCHANGED


def test_nuclei_of_lung_cells_are_found_where_they_are(real):
    one = real("xenium_lung_ncbi858/NCBI858")
    with open_slide(one.path) as slide:
        for shift in ((0.0, 0.0), (9.0, -6.0), (-20.0, 11.0)):
            found = nuclear_offset(slide, one.xy + np.array(shift), 1.0)
            assert found.is_clear
            np.testing.assert_allclose(found.offset_um, -np.array(shift), atol=1.0)
        # 0.5 µm per pixel: the same places in pixels are half as far apart
        found = nuclear_offset(slide, one.xy + np.array([9.0, -6.0]), 0.5)
        np.testing.assert_allclose(found.offset_um, (-4.5, 3.0), atol=1.0)
        assert not nuclear_offset(slide, one.xy[:, ::-1], 1.0).is_clear


def test_drawn_nuclei(tmp_path):
    pixels = np.full((300, 300, 3), 230, dtype=np.uint8)
    noise = np.random.default_rng(2).integers(-20, 21, (300, 300, 1))
    centres = np.stack(np.meshgrid([60, 130, 201], [70, 140, 211]), axis=-1).reshape(-1, 2)
    rows, columns = np.mgrid[:300, :300]
    for x, y in centres:
        pixels[np.hypot(columns - x, rows - y) < 5] = (90, 60, 140)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(tmp_path / "cells.png")
    with open_slide(tmp_path / "cells.png") as slide:
        found = nuclear_offset(slide, centres + 0.5 + (7.0, -4.0), 1.0)
    assert found.is_clear
    np.testing.assert_allclose(found.offset_um, (-7, 4), atol=1)


@pytest.mark.parametrize("angle", [-14.0, -5.4, 0.0, 3.0, 14.0])
def test_angles_of_lattices(angle):
    columns, rows = (axis.ravel() for axis in np.meshgrid(np.arange(11.0), np.arange(13.0)))
    jitter = np.random.default_rng(4).normal(0, 0.1, (143, 2))
    square = np.stack([columns, rows], axis=1) * 50 + jitter * 50
    hexagonal = np.stack([columns + 0.5 * (rows % 2), rows * np.sqrt(0.75)], axis=1) * 50 + jitter * 5
    for lattice in (square, hexagonal, square @ np.array([[1, 1], [-1, 1]]), hexagonal[:, ::-1]):
        assert lattice_angle(moved(lattice, angle, 1, (0, 0))) == pytest.approx(angle, abs=0.8)
    assert lattice_angle(np.random.default_rng(5).uniform(0, 1, (211, 2))) is None
    assert lattice_angle(square[:7]) is None


def test_the_array_of_a2_is_turned(real):
    """The authors aligned A2 to A1 by a rotation of 5.4°; the arrays of the other sections lie straight."""
    assert lattice_angle(real("her2st/A2").xy) == pytest.approx(-5.4, abs=0.5)
    for name in ("her2st/C3", "mob_st1k_mouseA/rep1"):
        assert lattice_angle(real(name).xy) == pytest.approx(0, abs=0.5)
    assert lattice_angle(real("xenium_lung_ncbi858/NCBI858").xy) is None


def test_one_spot_and_no_tissue_tell_nothing():
    white = np.full((50, 60, 3), 255, dtype=np.uint8)
    for xy in (np.array([[10.0, 20.0]]), np.tile([[10.0, 20.0]], (120, 1))):
        counts = csr_matrix(np.ones((len(xy), 3), dtype=np.int32))
        found = register(Evidence(white, xy, 60, 50, counts=counts))
        assert not found.is_wrong
        np.testing.assert_allclose(found.apply(xy), xy)
    assert len(placements(np.array([[1.0, 2.0]]), 60, 50)) == 8
