"""JSON Schemas (2020-12) of a store's metadata, generated from the dataclasses that are the contract.

``python -m spam.schemas.json_schema schemas/store`` writes the committed files again; a test keeps them equal.
"""

import dataclasses
import inspect
import json
import re
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .store_attributes import RootAttributes, SectionAttribute
from .store_meta import MAY_BE_ABSENT, FeatureMeta, GraphMeta, SectionMeta

__all__ = ["STORE_SCHEMAS", "json_schema", "write_schemas"]

STORE_SCHEMAS: dict[str, type] = {
    "section_meta": SectionMeta,
    "feature_meta": FeatureMeta,
    "graph_meta": GraphMeta,
    "root_attributes": RootAttributes,
    "section_attribute": SectionAttribute,
}
"""File name, without ``.schema.json``, of each schema -> the dataclass that it is made from."""

_NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def json_schema(cls: type) -> dict[str, Any]:
    """Build the JSON Schema of what a dataclass looks like once written as JSON.

    Every field is required, also one with a default, because whoever writes JSON writes all of them; but for those
    that say of themselves that they may be absent. Entries that are no field are refused. Descriptions come from the
    docstring.

    Raises
    ------
    TypeError
        If a field has a type that JSON has no word for.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__, **_object(cls)}


def write_schemas(folder: Path) -> None:
    """Write the schema of each of `STORE_SCHEMAS` to ``<folder>/<name>.schema.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, cls in STORE_SCHEMAS.items():
        text = json.dumps(json_schema(cls), indent=2, ensure_ascii=False) + "\n"
        (folder / f"{name}.schema.json").write_text(text, encoding="utf-8")


def _object(cls: type) -> dict[str, Any]:
    hints, described = get_type_hints(cls), _descriptions(cls)
    fields = [field.name for field in dataclasses.fields(cls)]
    required = [field.name for field in dataclasses.fields(cls) if MAY_BE_ABSENT not in field.metadata]
    return {
        "description": _plain((inspect.getdoc(cls) or "").split("\n", maxsplit=1)[0]),
        "type": "object",
        "properties": {name: _schema(hints[name]) | described.get(name, {}) for name in fields},
        "required": required,
        "additionalProperties": False,
    }


def _schema(kind: Any) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if kind in _NAMES:
        return {"type": _NAMES[kind]}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _object(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0])}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": _schema(arguments[1])}
    if origin in (Union, types.UnionType) and len(arguments) == 2 and arguments[1] is types.NoneType:
        return _or_null(_schema(arguments[0]))
    message = f"no JSON Schema for a field of type {kind!r}; add it to schemas/json_schema.py"
    raise TypeError(message)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow null besides; within one schema instead of two alternatives, so that a fault has one plain reason."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def _descriptions(cls: type) -> dict[str, dict[str, str]]:
    """Read what the docstring says of each field in its section ``Attributes``, as a piece of its schema."""
    _, _, section = (inspect.getdoc(cls) or "").partition("\nAttributes\n----------\n")
    entries = re.findall(r"^(\S.*)\n((?:[ ]+.*(?:\n|$))+)", section, flags=re.MULTILINE)
    return {
        name.strip(): {"description": _plain(text)} for names, text in entries for name in names.split(",")
    }


def _plain(text: str) -> str:
    """Give the text of a docstring on one line, code between single backticks."""
    return " ".join(text.split()).replace("``", "`")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
