"""Name and donor of a section: who states them, and contradictions."""

import pytest

from spam.errors import SectionError
from spam.sections import read_section


def test_the_h5ad_names_the_section_by_obs_then_library_then_file(lab):
    lab.write_csv()
    libraries = {"lib": {"images": {"none": 0}}}
    lab.write_h5ad(obs={"section": ["obs"] * 5}, libraries=libraries)
    assert read_section(lab.config()).name == "obs"
    lab.write_h5ad(libraries=libraries)
    assert read_section(lab.config()).name == "lib"
    lab.write_h5ad(libraries={**libraries, "lib2": libraries["lib"]})
    assert read_section(lab.config()).name == "sample"
    lab.write_h5ad()
    assert read_section(lab.config()).name == "sample"


def test_the_table_names_the_section_by_column_then_file(lab):
    lab.write_csv(section=["T"] * 5)
    assert read_section(lab.config()).name == "T"
    lab.write_csv(section=[""] * 5)
    assert read_section(lab.config()).name == "map"


def test_numbers_are_names(lab):
    lab.write_h5ad(obs={"section": [1, 1, 2, 2, 1]})
    lab.write_csv(section=[1, 2, 1, 1, 2])
    assert read_section(lab.config(section="1")).ids.tolist() == ["s3", "s1", "s2"]


def test_several_sections_without_a_choice_are_listed(lab):
    lab.write_csv(section=["T", "U", "V", "W", "T"])
    with pytest.raises(
        SectionError, match=r"column 'section' of .* holds 4 sections: 'T', 'U', 'V', 'W'; .*--section"
    ):
        read_section(lab.config())
    lab.write_h5ad(obs={"section": ["A", "B", "A", "A", "C"]})
    with pytest.raises(
        SectionError, match=r"obs\['section'\] of sample\.h5ad holds 3 sections: 'A', 'B', 'C'; choose"
    ):
        read_section(lab.config())


def test_a_section_that_is_not_there(lab):
    lab.write_csv(section=["T"] * 5)
    with pytest.raises(
        SectionError, match=r"section 'X' is not in column 'section' of .* holds 'T'; .*--section"
    ):
        read_section(lab.config(section="X"))
    lab.write_h5ad(obs={"section": ["A"] * 5})
    with pytest.raises(SectionError, match=r"section 'X' is not in obs\['section'\]"):
        read_section(lab.config(section="X"))
    with pytest.raises(SectionError, match="has no row of section 'A'; its column 'section' holds 'T'"):
        read_section(lab.config(section="A"))
    with pytest.raises(SectionError, match=r"section 'hint' is not in obs\['section'\]"):
        read_section(lab.config(), name_hint="hint")


@pytest.mark.parametrize("column", ["patient", "donor"])
def test_the_donor_is_stated_by_h5ad_or_table(lab, column):
    lab.write_csv()
    assert read_section(lab.config()).donor is None
    lab.write_csv(**{column: ["D"] * 5})
    assert read_section(lab.config()).donor == "D"
    lab.write_h5ad(obs={column: ["D", None, "D", "D", "D"]})
    assert read_section(lab.config()).donor == "D"
    lab.write_csv()
    assert read_section(lab.config()).donor == "D"
    assert read_section(lab.config(donor="asked")).donor == "asked"


def test_contradicting_donors_are_named_with_their_places(lab):
    lab.write_h5ad(obs={"patient": ["P"] * 5})
    lab.write_csv(donor=["D", "D", "D", "D", ""])
    words = (
        r"one donor, but 2 are stated: 'P' in obs\['patient'\]; 'D' in column 'donor' of map\.csv; .*--donor"
    )
    with pytest.raises(SectionError, match=words):
        read_section(lab.config())
    assert read_section(lab.config(donor="D")).donor == "D"


def test_two_donors_within_one_section(lab):
    lab.write_csv(patient=["D", "E", "D", "D", "D"])
    with pytest.raises(SectionError, match=r"'D' in column 'patient' of map\.csv; 'E' in column 'patient'"):
        read_section(lab.config())
