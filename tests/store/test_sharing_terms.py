"""The table of licences, the guard that reads it, and the dataset card of a shared store."""

from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from spam.encoders import encoder_card, list_encoders
from spam.errors import StoreError
from spam.schemas.licences import encoder_terms, known_licences, licence
from spam.schemas.store_format import FeatureMeta, SectionMeta
from spam.store.sharing_terms import (
    dataset_card,
    encoder_licences,
    model_objections,
    require_sharing_allowed,
    section_licence,
    sharing_objections,
    terms_lines,
)

UNI = "hf-hub:MahmoodLab/uni"


def section(name: str = "C2", licence: str | None = None, **changes: Any) -> SectionMeta:
    values: dict[str, Any] = {
        "name": name, "donor": "p1", "n_spots": 13, "n_genes": 7, "has_counts": True, "mpp": 0.5, "mpp_source": "option",
        "slide_width_px": 100, "slide_height_px": 90, "sources": (), "software": {}, "licence": licence,
    }  # fmt: skip
    return SectionMeta(**(values | changes))


def features(licence: str | None = "Apache-2.0", source: str = "package:lite", **changes: Any) -> FeatureMeta:
    values: dict[str, Any] = {
        "key": "lite_112um", "origin": "embed", "weights_sha256": "cd" * 32, "lora_sha256": None, "sampling": None,
        "encoder": {"name": "lite", "source": source, "licence": licence}, "tile": {"tile_um": 112.0}, "dim": 17,
        "precision": "float32", "dtype": "float16", "chunk_rows": 11, "software": {},
    }  # fmt: skip
    return FeatureMeta(**(values | changes))


def test_only_no_derivatives_licences_forbid_sharing():
    forbidding = {name for name in known_licences() if not licence(name).allows_sharing}
    assert forbidding == {"CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"}


@pytest.mark.parametrize("name", known_licences())
def test_table_of_licences(name):
    known = licence(name)
    assert known.url.startswith("https://")
    assert known.clause
    if known.is_spdx:
        assert canonicalize_license_expression(name.lower()) == name
    else:
        with pytest.raises(InvalidLicenseExpression):
            canonicalize_license_expression(name)
    if name.startswith("CC-BY"):  # the letters say what the conditions are
        conditions = " ".join(known.conditions)
        assert ("non-commercial" in conditions) == ("-NC" in name)
        assert ("same licence" in conditions) == ("-SA" in name)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("cc_by  4.0 ", "CC-BY-4.0"),
        ("Apache License 2.0", "Apache-2.0"),
        ("cc0", "CC0-1.0"),
        ("Owkin non-commercial license", "Owkin-Non-Commercial"),
        ("CC-BY", None),
        ("AGPL-3.0-only", None),
    ],
)
def test_ways_to_write_a_licence(written, name):
    found = licence(written)
    assert (found and found.name) == name


def test_every_encoder_card_has_a_known_licence_that_its_makers_publish():
    for card in list_encoders():
        found, published = licence(card.licence), encoder_terms(card.source)
        if card.name in ("plip", "genbio_pathfm"):  # no licence is named; its clauses could not be read
            assert found is published is None
            assert any(
                card.source in line for line in sharing_objections([], [features(card.licence, card.source)])
            )
        elif card.source.startswith("hf-hub:"):
            assert published.licence == found.name, card.name
        else:
            assert found is not None, card.name


def test_licences_that_allow_sharing_raise_no_objection():
    sections = [section(licence="cc by 4.0"), section("C3", licence="CC-BY-NC-SA-4.0")]
    assert section_licence(sections[0]) == "CC-BY-4.0"
    assert sharing_objections(sections, [features(), features("mit", key="other")]) == ()
    require_sharing_allowed("store", (), "State it", has_the_right=False)


@pytest.mark.parametrize("unstated", [None, "", "unknown", " Unknown "])
def test_unstated_licences_are_objections(unstated):
    about_section, about_features = sharing_objections([section(licence=unstated)], [features(unstated)])
    assert "section 'C2': " in about_section
    assert "not stated" in about_section
    assert "features 'lite_112um': " in about_features
    assert "'package:lite'" in about_features


def test_unknown_licences_are_objections_that_list_the_known_ones():
    found = sharing_objections([section(licence="House rules")], [features("House rules")])
    assert len(found) == 2
    for objection in found:
        assert "'House rules'" in objection
        assert "CC-BY-4.0" in objection


def test_forbidding_licence_is_refused_with_its_clause_unless_overridden():
    metas = [features("MIT", UNI), features("MIT", UNI.upper().replace("HF-HUB", "hf-hub"), key="b")]
    assert encoder_licences(metas[0].encoder) == ("MIT", "CC-BY-NC-ND-4.0")  # the published one counts too
    objections = sharing_objections([section(licence="CC-BY-ND-4.0")], metas)
    with pytest.raises(StoreError) as caught:
        require_sharing_allowed("store", objections, "State it", has_the_right=False)
    text = str(caught.value)
    for words in (
        "section 'C2'",
        "CC-BY-ND-4.0",
        "features 'lite_112um'",
        "features 'b'",
        "Section 2(a)(1)(B)",
        "https://creativecommons.org/licenses/by-nc-nd/4.0/legalcode",
        "https://huggingface.co/MahmoodLab/UNI",
        "--i-have-the-right-to-share",
    ):
        assert words in text
    require_sharing_allowed("store", objections, "State it", has_the_right=True)


@pytest.mark.parametrize(
    ("licences", "found"),
    [
        (("apache-2.0", "mit"), ()),
        (("apache-2.0", "unknown"), ("'b' is not stated",)),
        ((None, "mit"), ("'a' is not stated",)),
        (
            ("apache-2.0", "Apache-2.0, with changes"),
            ("'Apache-2.0, with changes' of their encoder 'b' is unknown",),
        ),
    ],
)
def test_each_of_several_encoders_needs_a_licence(licences, found):
    encoders = [{"source": source, "licence": name} for source, name in zip("ab", licences, strict=True)]
    objections = model_objections(encoders, {"C2": "MIT"})
    assert len(objections) == len(found)
    assert all(words in line for words, line in zip(found, objections, strict=True))


def test_terms_of_each_of_several_encoders_are_named():
    cards = [encoder_card(name).to_mapping() for name in ("uni_v1", "uni2_h")]
    lines, objections = [*terms_lines(cards)], model_objections(cards, {})
    assert len(lines) == len(objections) == 2
    for card, line, objection in zip(cards, lines, objections, strict=True):
        terms = encoder_terms(card["source"]).terms
        assert terms in line
        assert f"{card['source']!r}, CC-BY-NC-ND-4.0, forbids it" in objection
        assert terms in objection


def card(sections: list[SectionMeta], *metas: FeatureMeta) -> str:
    return dataset_card("hf://datasets/lab/breast", sections, {meta.name: metas for meta in sections})


def header(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n", 2)[1])
    return found


def tables(text: str) -> list[list[list[str]]]:
    """Rows of cells of each table, as a Markdown parser sees them."""
    found: list[list[list[str]]] = []
    stream = MarkdownIt("commonmark").enable("table").parse(text.split("\n---\n", 1)[1])
    for token, following in zip(stream, [*stream[1:], stream[-1]], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            found[-1][-1].append("".join(child.content for child in following.children or ()))
    return found


def test_card_of_a_store():
    whole = section(licence="cc by 4.0", n_spots=1613)
    part = section("C3", donor=None, mpp=None, n_genes=0, has_counts=False, redacted=("counts",))
    text = card([whole, part], features())
    assert header(text) == DatasetCard(text).data.to_dict()
    assert header(text)["license"] == ["apache-2.0", "cc-by-4.0", "unknown"]
    assert header(text)["pretty_name"] == "breast"
    of_sections, of_features = tables(text)
    assert of_sections[1:] == [
        ["C2", "1613", "7", "p1", "0.5", "CC-BY-4.0", "–"],
        ["C3", "13", "0", "–", "–", "–", "counts"],
    ]
    assert of_features[1] == ["C2", "lite_112um", "lite", "package:lite", "–", "17", "Apache-2.0"]
    assert "name the makers" in text
    assert "spam store pull hf://datasets/lab/breast" in text


def test_card_records_an_override():
    text = card([section(licence="MIT")], features("unknown", UNI))
    assert header(text)["license"] == ["cc-by-nc-nd-4.0", "mit"]
    assert "Shared although" in text
    assert "its terms of access count models trained on its outputs" in text
    assert "Shared although" not in card([section(licence="MIT")], features())


@pytest.mark.parametrize(
    "name", ["a|b", "`code`", "[x](https://a.b)", "<script>", "line\n| break |", "**bold**"]
)
def test_names_are_shown_as_they_are(name):
    (first, *_) = tables(card([section(donor=name, licence="MIT")]))
    assert first[1][3] == " ".join(name.split())
