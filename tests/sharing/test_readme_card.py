"""The README of a shared store, read back by a YAML parser and a Markdown parser that know nothing of spam."""

import ast
import shlex
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from spam.schemas.store_format import FeatureMeta, SectionMeta, SourceFile, feature_identity
from spam.sharing.licence_guard import Objection, sharing_objections
from spam.sharing.readme_card import readme_card

MakeMeta = Callable[..., SectionMeta]
TAGS = ["spatial-transcriptomics", "histology", "pathology", "biology", "zarr", "anndata", "spam"]
HOSTILE = [
    "a|b",
    "a\\|b\\",
    "`code`",
    "```\n# Heading\n```",
    "line\nbreak\r\n\r\n| cell | cell |",
    "---\nlicense: mit\n---",
    "x: [1, 2]\ny: !!python/object:os.system",
    "[click](https://example.org) ![img](x.png)",
    "<script>alert(1)</script><!-- ",
    "&lt;b&gt; &amp; <https://example.org>",
    "**bold** __bold__ ~~gone~~ $x$",
    "\x00\x1b[31m\u202egnp\u200b\u2028end",
    "' ; rm -rf ~ #",
    "half of a pair \ud800",
    "",
]


def features(**changes: Any) -> FeatureMeta:
    values: dict[str, Any] = {
        "key": "lite0_112um",
        "origin": "embed",
        "encoder": {"name": "lite0", "source": "package:lite", "revision": None, "licence": "Apache-2.0"},
        "weights_sha256": "0123456789abcdef" * 4,
        "lora_sha256": None,
        "tile": {"tile_um": 112.0, "tile_px": None, "out_px": 224},
        "sampling": None,
        "precision": "float32",
        "dim": 17,
        "dtype": "float16",
        "chunk_rows": 11,
        "software": {"timm": "1.0.31", "spam": "0.1.0"},
    }
    return FeatureMeta(**(values | changes))


def card(sections: list[SectionMeta], *metas: FeatureMeta, **changes: Any) -> str:
    by_section = {section.name: metas for section in sections}
    values: dict[str, Any] = {"address": "hf://datasets/lab/breast", "overridden": ()}
    values |= {"name": "Breast"} | changes
    return readme_card(values.pop("name"), sections, by_section, **values)


def header(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    values = yaml.safe_load(head)
    assert isinstance(values, dict)
    return values


def tokens(text: str) -> list[Token]:
    body = text.split("\n---\n", 1)[1]
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)


def plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or ())


def tables(text: str) -> list[list[list[str]]]:
    """Rows of cells of each table, as a reader sees them."""
    found: list[list[list[str]]] = []
    stream = tokens(text)
    for token, following in zip(stream, [*stream[1:], stream[-1]], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            found[-1][-1].append(plain(following))
    return found


def headings(text: str) -> list[str]:
    stream = tokens(text)
    return [plain(stream[i + 1]) for i, token in enumerate(stream) if token.type == "heading_open"]


def code(text: str, language: str) -> str:
    (block,) = (token.content for token in tokens(text) if token.type == "fence" and token.info == language)
    return block


def shown(value: str) -> str:
    """What a reader should see of `value`, character by character."""
    seen = ""
    for character in value:
        if character.isspace():
            seen += "" if seen.endswith(" ") else " "
        else:
            seen += "�" if unicodedata.category(character).startswith("C") else character
    return seen.strip(" ")


def test_header_is_that_of_a_dataset_card(make_meta: MakeMeta) -> None:
    text = card([make_meta(licence="cc by 4.0", n_spots=613)], features())
    expected = {
        "license": ["apache-2.0", "cc-by-4.0"],
        "size_categories": "n<1K",
        "pretty_name": "Breast",
        "tags": TAGS,
    }
    assert header(text) == expected
    assert DatasetCard(text).data.to_dict() == expected


@pytest.mark.parametrize(
    ("of_section", "of_encoder", "expected"),
    [
        ("MIT", "mit", "mit"),
        (None, "MIT", ["mit", "unknown"]),
        ("MIT", "unknown", ["mit", "unknown"]),
        ("House rules", "Owkin-Non-Commercial", "other"),
    ],
)
def test_header_names_licences_as_the_hub_does(
    of_section: str | None, of_encoder: str, expected: Any, make_meta: MakeMeta
) -> None:
    meta = features(encoder={"licence": of_encoder})
    assert header(card([make_meta(licence=of_section)], meta))["license"] == expected


@pytest.mark.parametrize(
    ("n_spots", "category"),
    [
        ((0,), "n<1K"),
        ((999,), "n<1K"),
        ((499, 501), "1K<n<10K"),
        ((9_999,), "1K<n<10K"),
        ((10_000,), "10K<n<100K"),
        ((100_000,), "100K<n<1M"),
        ((1_000_000,), "1M<n<10M"),
        ((10_000_000,), "10M<n<100M"),
        ((100_000_000,), "100M<n<1B"),
    ],
)
def test_size_category_counts_the_spots(n_spots: tuple[int, ...], category: str, make_meta: MakeMeta) -> None:
    sections = [make_meta(name=f"S{i}", n_spots=n) for i, n in enumerate(n_spots)]
    assert header(card(sections))["size_categories"] == category


def test_tables_hold_what_the_store_says(make_meta: MakeMeta) -> None:
    whole = make_meta(name="C2", n_spots=1613, n_genes=541, licence="CC-BY-4.0", mpp=0.69)
    part = make_meta(
        name="C3",
        donor=None,
        mpp=None,
        n_genes=0,
        has_counts=False,
        sources=(SourceFile(role="slide", name="C3.svs", n_bytes=1_048_573, sha256="ef" * 32),),
        redacted=("counts", "ids"),
    )
    near = features()
    far = features(
        key="own_64px",
        encoder={"name": "own", "source": "hf-hub:lab/own", "revision": "v2", "licence": None},
        weights_sha256=None,
        lora_sha256="fedcba9876543210" * 4,
        tile={"tile_um": None, "tile_px": 64, "out_px": 96},
        dim=19,
        dtype="bfloat16",
    )
    metas = {"C2": [near, far], "C3": [far]}
    text = readme_card("Breast", [whole, part], metas, address="store.zarr", overridden=())
    of_sections, of_features, of_sources = tables(text)
    assert of_sections == [
        ["section", "spots", "genes", "donor", "µm per pixel", "licence", "left out"],
        ["C2", "1,613", "541", "patient µ", "0.69", "CC-BY-4.0", "–"],
        ["C3", "13", "–", "–", "–", "–", "counts, ids"],
    ]
    near_row = ["lite0_112um", "lite0", "package:lite", "–", "0123456789ab", "–", "112.0 µm as 224 px"]
    near_row += ["17 × float16", "Apache-2.0"]
    far_row = ["own_64px", "own", "hf-hub:lab/own", "v2", "–", "fedcba987654", "64 slide px as 96 px"]
    far_row += ["19 × bfloat16", "–"]
    assert of_features[1:] == [
        ["C2", *near_row, feature_identity(whole, near)[:12]],
        ["C2", *far_row, feature_identity(whole, far)[:12]],
        ["C3", *far_row, feature_identity(part, far)[:12]],
    ]
    assert of_sources == [
        ["section", "role", "file", "bytes", "SHA-256"],
        ["C2", "h5ad", "C2.h5ad", "101", "ab" * 32],
        ["C3", "slide", "C3.svs", "1,048,573", "ef" * 32],
    ]
    assert "Made with numpy 2, spam 0.1.0, timm 1.0.31." in text
    assert "- Section C3: the raw counts, the spots' own ids." in text


def test_licences_come_with_their_conditions(make_meta: MakeMeta) -> None:
    uni = features(encoder={"source": "hf-hub:MahmoodLab/uni", "licence": "CC-BY-NC-ND-4.0"})
    text = card([make_meta(licence="cc-by-sa-4.0"), make_meta(name="C3")], uni)
    assert "**CC-BY-SA-4.0** (section C2)" in text
    assert (
        "share under the same licence (Section 3(b)) (<https://creativecommons.org/licenses/by-sa/4.0" in text
    )
    assert "**Not stated** (section C3): nobody said" in text
    assert "**CC-BY-NC-ND-4.0** (features lite0\\_112um): Section 2(a)(1)(B) permits making" in text
    assert "Encoder hf-hub:MahmoodLab/uni: its terms of access count datasets" in text


def test_an_override_is_recorded(make_meta: MakeMeta) -> None:
    section, uni = make_meta(), features(encoder={"source": "hf-hub:MahmoodLab/uni"})
    title = "Shared on the word of whoever pushed it"
    assert title not in headings(card([section], uni))
    text = card([section], uni, overridden=sharing_objections([section], [uni]))
    assert title in headings(text)
    said = [plain(token) for token in tokens(text) if token.type == "inline"]
    assert sum("section 'C2': nobody stated the licence" in line for line in said) == 1
    assert sum("features 'lite0_112um': the licence of their encoder" in line for line in said) == 1


def test_loading_needs_what_is_there(make_meta: MakeMeta) -> None:
    text = card([make_meta()], features())
    commands = [shlex.split(line) for line in code(text, "bash").splitlines()]
    assert ["spam", "store", "pull", "hf://datasets/lab/breast", "cohort.zarr"] in commands
    assert ["spam", "pretrain", "--store", "hf://datasets/lab/breast", "--save-dir", "run"] in commands
    assert "read_zarr('cohort.zarr/C2')" in code(text, "python")
    bare = card([make_meta(has_counts=False, n_genes=0)], features())
    assert "pretrain" not in bare  # nothing to train on


def test_an_empty_store_has_a_card() -> None:
    text = card([])
    assert tables(text) == []
    assert header(text)["size_categories"] == "n<1K"
    assert headings(text) == ["Breast", "Sections", "Features", "Provenance", "Licences", "How to load it"]


def hostile_card(make_meta: MakeMeta, word: str) -> str:
    """A card in which a stranger wrote `word` wherever the store takes text."""
    section = make_meta(
        name=word,
        donor=word,
        licence=word,
        mpp_source=word,
        sources=(SourceFile(role="csv", name=word, n_bytes=7, sha256=word),),
        software={word: word},
        redacted=("genes",),
    )
    meta = features(
        key=word,
        encoder={"name": word, "source": word, "revision": word, "licence": word},
        weights_sha256=word,
        tile={"tile_um": word, "out_px": word},
        software={word: word},
    )
    objection = Objection(what=word, licence=word, clause=word, message=word)
    return card([section], meta, name=word, address=word, overridden=[objection])


def check_hostile(make_meta: MakeMeta, word: str) -> None:
    text = hostile_card(make_meta, word)
    text.encode()  # it can be written at all
    values = header(text)
    assert set(values) == {"license", "size_categories", "pretty_name", "tags"}
    assert values["pretty_name"] == shown(word)
    assert values["license"] in ("other", "unknown", "apache-2.0", "mit")
    assert headings(text) == [
        shown(word),
        "Sections",
        "Features",
        "Provenance",
        "Licences",
        "Shared on the word of whoever pushed it",
        "Left out before sharing",
        "How to load it",
    ]
    of_sections, of_features, of_sources = tables(text)
    assert [len(rows) for rows in (of_sections, of_features, of_sources)] == [2, 2, 2]
    assert (of_sections[1][0], of_sections[1][3]) == (shown(word), shown(word))
    assert of_features[1][1:5] == [shown(word)] * 4
    assert of_sources[1][1:] == ["csv", shown(word), "7", shown(word)]
    children = [child for token in tokens(text) for child in token.children or ()]
    assert {child.type for child in children} <= {
        "text",
        "text_special",
        "strong_open",
        "strong_close",
        "softbreak",
    }
    assert not any(token.type.startswith("html") for token in tokens(text))
    opened = {
        node.value for node in ast.walk(ast.parse(code(text, "python"))) if isinstance(node, ast.Constant)
    }
    assert opened == {shown(word), f"cohort.zarr/{word}"}
    commands = [shlex.split(line) for line in code(text, "bash").splitlines()]
    assert [len(command) for command in commands] == [3, 4, 6, 5]
    assert commands[1][-1] == shown(word)


@pytest.mark.parametrize("word", HOSTILE)
def test_a_strangers_words_stay_words(word: str, make_meta: MakeMeta) -> None:
    check_hostile(make_meta, word)


@given(
    word=st.text(st.one_of(st.sampled_from("|`*_[]()<>!\\&#-:\n\r \t'\"~$"), st.characters()), max_size=23)
)
@settings(max_examples=60, deadline=None)
def test_any_words_stay_words(word: str, make_meta: MakeMeta) -> None:
    check_hostile(make_meta, word)


def test_a_strangers_address_is_no_link(make_meta: MakeMeta) -> None:
    text = hostile_card(make_meta, "https://evil.example")
    before_code = text.split("```bash")[0].split("\n---\n", 1)[1]
    assert "https://evil" not in before_code
    assert "evil.example" in before_code
