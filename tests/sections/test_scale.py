"""µm per pixel: who states it, and what is said where nobody does."""

import numpy as np
import pytest

from spam.errors import ConfigError, SectionError
from spam.sections import read_section

PLACES = [
    ("metadata", "mpp"),
    ("metadata", "microns_per_pixel"),
    ("scalefactors", "mpp"),
    ("scalefactors", "microns_per_pixel"),
]


@pytest.mark.parametrize(("group", "key"), PLACES)
def test_every_place_in_the_h5ad(lab, group, key):
    lab.write_csv()
    lab.write_h5ad(libraries={"lib": {group: {key: 0.37}}})
    section = read_section(lab.config())
    assert (section.mpp, section.mpp_source) == (0.37, "h5ad")
    np.testing.assert_array_equal(section.xy_um, section.xy_px * 0.37)
    section = read_section(lab.config(mpp=0.5))
    assert (section.mpp, section.mpp_source) == (0.5, "option")


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.005, 250.0, float("nan"), float("inf")])
def test_an_option_that_is_no_size(lab, mpp):
    lab.write_csv()
    with pytest.raises(ConfigError, match="--mpp must be a positive number"):
        read_section(lab.config(mpp=mpp))


@pytest.mark.parametrize("mpp", [0.0, -0.5, float("nan"), "half"])
def test_an_h5ad_that_states_no_size(lab, mpp):
    lab.write_csv()
    lab.write_h5ad(libraries={"lib": {"metadata": {"mpp": mpp}}})
    with pytest.raises(SectionError, match=r"\['metadata'\]\['mpp'\] of the h5ad must be a positive .*--mpp"):
        read_section(lab.config())
    assert read_section(lab.config(mpp=0.5)).mpp == 0.5


@pytest.mark.parametrize("mpp", [0.04, 352.8])
def test_an_h5ad_that_states_no_microscopes_size(lab, mpp):
    lab.write_csv()
    lab.write_h5ad(libraries={"lib": {"scalefactors": {"microns_per_pixel": mpp}}})
    words = rf"\['microns_per_pixel'\] of the h5ad states {mpp} µm per pixel.* 0\.05 to 20; .*--mpp"
    with pytest.raises(SectionError, match=words):
        read_section(lab.config())
    assert read_section(lab.config(mpp=25.0)).mpp == 25.0


def test_several_libraries_need_the_right_name(lab):
    lab.write_csv()
    lab.write_h5ad(libraries={"A": {"metadata": {"mpp": 0.3}}, "B": {"metadata": {"mpp": 0.7}}})
    assert read_section(lab.config()).mpp is None
    assert read_section(lab.config(section="B")).mpp == 0.7


def test_a_spot_diameter_is_a_hint_and_no_guess(lab):
    lab.write_csv()
    lab.write_h5ad(libraries={"lib": {"scalefactors": {"spot_diameter_fullres": 89.4}}})
    section = read_section(lab.config())
    assert section.mpp is None
    (note,) = section.join.notes
    assert "spot_diameter_fullres 89.4 would mean about 0.62 µm/px for 55 µm spots: pass --mpp" in note
    assert read_section(lab.config(mpp=0.6)).join.notes == ()


def test_an_estimate_is_called_one(lab):
    lab.write_csv()
    lab.write_h5ad(libraries={"lib": {"metadata": {"mpp": 1.0, "mpp_is_estimate": True}}})
    assert "an estimate: give --mpp" in read_section(lab.config()).join.describe()
    assert read_section(lab.config(mpp=1.1)).join.notes == ()
