"""JSON Schemas made from dataclasses: against schemas written by hand, and against the committed files."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from spam.schemas.json_schema import STORE_SCHEMAS, json_schema, write_schemas
from spam.schemas.store_attributes import RootAttributes
from spam.schemas.store_meta import STORE_FORMAT, STORE_VERSION

COMMITTED = Path(__file__).resolve().parents[2] / "schemas" / "store"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stain:
    """How a slide was stained."""

    dye: Literal["h&e", "pas"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """A slide, as ``json``.

    More words that no schema needs.

    Attributes
    ----------
    name, owner
        Who and
        what, as ``text``.
    stains
        Stains, in order.
    """

    name: str
    owner: str | None
    width: int
    mpp: float | None
    is_whole: bool
    stains: tuple[Stain, ...]
    first: Stain | None
    role: Literal["a", "b"] | None
    software: dict[str, str]
    card: dict[str, Any]
    boxes: dict[str, Stain]
    words: tuple[str, ...] = ()


STAIN = {
    "description": "How a slide was stained.",
    "type": "object",
    "properties": {"dye": {"enum": ["h&e", "pas"]}},
    "required": ["dye"],
    "additionalProperties": False,
}


def test_schema_of_every_kind_of_field() -> None:
    assert json_schema(Slide) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Slide",
        "description": "A slide, as `json`.",
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Who and what, as `text`."},
            "owner": {"type": ["string", "null"], "description": "Who and what, as `text`."},
            "width": {"type": "integer"},
            "mpp": {"type": ["number", "null"]},
            "is_whole": {"type": "boolean"},
            "stains": {"type": "array", "items": STAIN, "description": "Stains, in order."},
            "first": {**STAIN, "type": ["object", "null"]},
            "role": {"enum": ["a", "b", None]},
            "software": {"type": "object", "additionalProperties": {"type": "string"}},
            "card": {"type": "object", "additionalProperties": {}},
            "boxes": {"type": "object", "additionalProperties": STAIN},
            "words": {"type": "array", "items": {"type": "string"}},
        },
        "required": [field.name for field in dataclasses.fields(Slide)],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "kind", [set, tuple[int, str], dict[int, str], int | str, int | str | None, complex], ids=str
)
def test_a_type_that_json_has_no_word_for_is_an_error(kind: Any) -> None:
    odd = dataclasses.make_dataclass("Odd", [("field", kind)])
    with pytest.raises(TypeError, match="no JSON Schema for a field of type"):
        json_schema(odd)


@pytest.mark.parametrize("name", STORE_SCHEMAS)
def test_schemas_are_schemas_and_describe_their_fields(name: str) -> None:
    schema = json_schema(STORE_SCHEMAS[name])
    Draft202012Validator.check_schema(schema)
    undescribed = {key for key, value in schema["properties"].items() if "description" not in value}
    assert undescribed <= {"has_counts"}  # its docstring tells of it under n_genes


def test_committed_schemas_are_those_of_the_dataclasses(tmp_path: Path) -> None:
    write_schemas(tmp_path / "new")
    written = {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "new").iterdir()}
    committed = {file.name: file.read_text(encoding="utf-8") for file in COMMITTED.iterdir()}
    assert written == committed, "run `python -m spam.schemas.json_schema schemas/store`"
    assert set(written) == {f"{name}.schema.json" for name in STORE_SCHEMAS}
    assert all(json.loads(text)["title"] for text in written.values())


def test_root_names_the_format_of_this_version() -> None:
    properties = json_schema(RootAttributes)["properties"]
    assert properties["spam_format"]["enum"] == [STORE_FORMAT]
    assert properties["spam_version"]["enum"] == [STORE_VERSION]
