"""Spots on tissue: the right placement of real sections wins, wrong ones are named, and an empty slide is refused."""

import dataclasses

import anndata
import numpy as np
import pytest
from PIL import Image

from spam.errors import SlideError, TileError
from spam.store import create_store
from spam.tiles import check_placement, open_slide, overview
from spam.tiles.placement import (
    AS_GIVEN,
    EXCHANGED,
    Evidence,
    better_placement,
    placements,
)

UNDO = {
    "turned by 90° clockwise": "turned by 90° counterclockwise",
    "turned by 90° counterclockwise": "turned by 90° clockwise",
}
# Section, image, and placements that are not told from the right one (round tissue, or tissue everywhere).
REAL = {
    "her2st/C3": ("C3.jpg", {"mirrored from left to right"}),
    "her2st/A1": ("A1_lowres.jpg", set()),
    "her2st/C2": ("C2.jpg", set()),
    "mob_st2k/MOB2": ("MOB2.jpg", set()),
    "xenium_lung_ncbi858/NCBI858": ("NCBI858.jpg", set()),
}


def test_placements_are_turns_of_the_picture():
    """A marked pixel of a picture that is turned lies where the placement says."""
    width, height, x, y = 13, 7, 3.5, 1.5
    picture = np.zeros((height, width), dtype=bool)
    picture[1, 3] = True
    for name, turned in (
        (AS_GIVEN, picture),
        (EXCHANGED, picture.T),
        ("mirrored from left to right", picture[:, ::-1]),
        ("mirrored from top to bottom", picture[::-1]),
        ("turned by 180°", picture[::-1, ::-1]),
        ("turned by 90° clockwise", np.rot90(picture, -1)),
        ("turned by 90° counterclockwise", np.rot90(picture)),
        ("mirrored at the other diagonal", picture[::-1, ::-1].T),
    ):
        h, w = turned.shape
        (at,) = placements(np.array([[x, y]]), w, h)[name]
        assert np.argwhere(turned).tolist() == [[int(at[1]), int(at[0])]], name


FAST = ("her2st/C2", "xenium_lung_ncbi858/NCBI858")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in REAL]
)
def test_real_sections(shared_data, name):
    image, alike = REAL[name]
    adata = anndata.read_h5ad(shared_data / f"{name}.h5ad", backed="r")
    xy = np.asarray(adata.obsm["spatial"], dtype=np.float64)[:, :2]
    with open_slide(shared_data / name.split("/")[0] / "images" / image) as slide:
        picture, size = overview(slide).image, (slide.width, slide.height)
    for way, wrong in placements(xy, *size).items():
        if way not in alike:
            better = better_placement(Evidence(picture, wrong, *size))
            if way == AS_GIVEN:
                assert better is None
            # else the picture has other sides
            elif size[0] == size[1] or ("diagonal" not in way and "90" not in way):
                assert better is not None, way
                assert better[0] == UNDO.get(way, way)


def picture_of(mask, *, seed=1):
    """Grainy pink where the mask is true, on white glass."""
    grain = np.random.default_rng(seed).integers(-30, 31, (*mask.shape, 1))
    return np.where(mask[..., None], np.clip(np.array([180, 90, 160]) + grain, 0, 255), 244).astype(np.uint8)


@pytest.fixture
def strip(tmp_path, make_section):
    """A slide with a strip of tissue at its left, and a function that makes a section of spots on it or elsewhere."""
    mask = np.zeros((400, 400), dtype=bool)
    mask[20:300, 30:170] = True
    Image.fromarray(picture_of(mask)).save(tmp_path / "strip.png")
    columns, rows = np.meshgrid(np.arange(50, 170, 20.0), np.arange(50, 300, 40.0))
    xy = np.stack([columns.ravel(), rows.ravel()], axis=1)
    return (
        tmp_path / "strip.png",
        xy,
        lambda at: make_section(list(map(tuple, at)), tmp_path / "strip.png", mpp=0.5),
    )


def check(path, section, *, is_decided=False, is_forgiving=False):
    with open_slide(path) as slide:
        return check_placement(section, slide, is_decided=is_decided, is_forgiving=is_forgiving)


def test_exchanged_axes_are_an_error_unless_they_are_decided(strip):
    path, xy, section = strip
    for good in (xy, xy[:11], xy[::-1]):
        made = section(good)
        assert check(path, made) is made
    for bad in (xy[:, ::-1], xy[::3, ::-1], np.concatenate([xy[:, ::-1], [[399.0, 399.0]] * 3])):
        words = (
            r"'S1'.*'strip\.png'.*exchanged \d+%.*--swap-xy.*--no-swap-xy.*--manifest.*spam check-alignment"
        )
        with pytest.raises(TileError, match=words):
            check(path, section(bad))
        (note,) = check(path, section(bad), is_decided=True).join.notes
        assert EXCHANGED in note


def test_exchanged_axes_that_explain_less_of_the_expression_are_not_better(strip, monkeypatch):
    path, xy, _ = strip
    bad = xy[:, ::-1]
    with open_slide(path) as slide:
        evidence = Evidence(overview(slide).image, bad, 400, 400)
    assert better_placement(evidence)[0] == EXCHANGED
    for fit, found in ((0.3, False), (0.2, True)):
        monkeypatch.setattr(
            evidence, "fits", lambda at, fit=fit: np.full(len(xy), fit if at is evidence.xy_px else 0.2)
        )
        assert (better_placement(evidence) is not None) == found


def test_a_turned_or_mirrored_slide_is_a_note_that_the_store_keeps(strip, tmp_path):
    path, xy, section = strip
    store = create_store(tmp_path / "cohort.zarr")
    for way, bad in placements(xy, 400, 400).items():
        if way not in (AS_GIVEN, EXCHANGED):
            made = check(path, section(bad))
            np.testing.assert_array_equal(made.xy_px, bad)
            (note,) = made.join.notes
            assert f"the places of the {len(xy)} spots are" in note
            stored = store.add_section(
                made, slide_size_px=(400, 400), licence=None, overview=None, is_overwrite=True
            )
            assert stored.meta.placement_doubt == note
    assert check(path, section(xy)).join.placement_doubt is None


@pytest.mark.parametrize(
    "name",
    [
        "mob_st2k/MOB2",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mob_st2k/MOB3", "her2st/C6", "mob_st1k_mouseA/rep2")
        ),
    ],
)
def test_a_part_of_a_real_section_is_not_taken_for_a_turned_slide(shared_data, make_section, name):
    folder, section = name.split("/")
    path = shared_data / folder / "images" / f"{section}.jpg"
    xy = np.asarray(anndata.read_h5ad(shared_data / f"{name}.h5ad", backed="r").obsm["spatial"])[:, :2]
    x, y = (xy < np.median(xy, axis=0)).T
    for part in (x, ~x, y, ~y, x & y, x & ~y, ~x & y, ~x & ~y):
        made = make_section(list(map(tuple, xy[part].astype(float))), path, mpp=1.0)
        assert check(path, made) is made


def test_the_share_of_tissue_around_the_spots(strip):
    _, xy, _ = strip
    mask = np.zeros((400, 400), dtype=bool)
    mask[20:300, 30:170] = True
    picture = picture_of(mask)
    # Spots reach from 50 to 150 and from 50 to 290, ten more on each side: 120 of 140 columns, 260 of 280 rows.
    expected = pytest.approx(121 / 140 * 260 / 280, rel=0.02)
    assert Evidence(picture, xy, 400, 400).covered(xy) == expected
    assert Evidence(picture, xy * 2, 800, 800).covered(xy * 2) == expected
    assert Evidence(picture, xy, 400, 400).covered(xy[:1] + 300) == 0


def test_few_spots_and_tissue_everywhere_tell_nothing(strip, tmp_path):
    path, xy, section = strip
    made = section(xy[:11, ::-1])
    assert check(path, made) is made
    Image.fromarray(picture_of(np.ones((400, 400), dtype=bool))).save(path)
    made = section(xy[:, ::-1])
    assert check(path, made) is made


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (244, 242, 243)])
def test_a_slide_of_one_colour_is_refused(tmp_path, make_section, colour):
    path = tmp_path / "plain.png"
    Image.new("RGB", (97, 89), colour).save(path)
    with pytest.raises(SlideError, match=rf"plain\.png.*\({', '.join(map(str, colour))}\).*copied whole"):
        check(path, make_section([(7.0, 11.0)], path))
    Image.new("RGBA", (97, 89), (*colour, 0)).save(path)  # transparent: white
    with pytest.raises(SlideError, match=r"\(255, 255, 255\)"):
        check(path, make_section([(7.0, 11.0)], path))


def test_damage_that_a_header_shows_is_an_error_unless_bad_tiles_are_skipped(strip):
    path, xy, section = strip
    with open_slide(path) as slide:
        slide.damage = "ends before 3 of the 5 blocks of level 0"
        with pytest.raises(SlideError, match=r"strip\.png' ends before 3 of.*--skip-bad-tiles"):
            check_placement(section(xy), slide, is_decided=False, is_forgiving=False)
        made = section(xy)
        assert check_placement(made, slide, is_decided=False, is_forgiving=True) is made


def test_a_slide_that_cannot_be_decoded_anywhere_is_an_error(strip):
    path, xy, section = strip
    path.write_bytes(path.read_bytes()[:-3000])
    for is_forgiving in (False, True):
        with pytest.raises(SlideError, match="cannot be decoded"):
            check(path, dataclasses.replace(section(xy)), is_forgiving=is_forgiving)
