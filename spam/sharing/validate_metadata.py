"""Metadata of a store against the schemas of the format: every fault, in words."""

import functools
import reprlib
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from jsonschema import Draft202012Validator, ValidationError

from spam.schemas.json_schema import STORE_SCHEMAS, json_schema

__all__ = ["MetadataKind", "metadata_faults"]

MetadataKind: TypeAlias = Literal["section", "feature", "graph", "root", "index"]

_SCHEMAS: dict[MetadataKind, str] = {
    "section": "section_meta",
    "feature": "feature_meta",
    "graph": "graph_meta",
    "root": "root_attributes",
    "index": "section_attribute",
}
_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}

_SHORT = reprlib.Repr()
_SHORT.maxstring = 120  # a path within a store fits; Python 3.11 takes it only this way


def metadata_faults(values: Any, kind: MetadataKind) -> list[str]:
    """List everything by which metadata, as read from JSON, differ from their schema.

    Each fault names its place (``sources.0.sha256``) and is one line, whatever a stranger wrote there; they are
    sorted by it. No fault means that the dataclass behind the schema can be built from `values`.

    Parameters
    ----------
    values
        What stands in the store; nothing is assumed of it.
    kind
        ``section``, ``feature`` and ``graph`` are the entries ``meta`` of such a node, ``index`` is the
        attribute ``spam`` of a section, and ``root`` are all attributes of the root.
    """
    return sorted({fault for error in _validator(kind).iter_errors(values) for fault in _faults_of(error)})


@functools.cache
def _validator(kind: MetadataKind) -> Draft202012Validator:
    return Draft202012Validator(json_schema(STORE_SCHEMAS[_SCHEMAS[kind]]))


def _faults_of(error: ValidationError) -> Iterator[str]:
    place = [*error.absolute_path]
    if error.validator == "required":
        # There is such an error for each missing key, and none says which: each names them all, and the set drops doubles.
        yield from (
            f"{_place([*place, key])} is missing"
            for key in error.validator_value
            if key not in error.instance
        )
    elif error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = sorted(key for key in error.instance if key not in known)
        yield from (f"{_place([*place, key])} is not part of the format" for key in unknown)
    else:
        yield f"{_place(place)} must be {_expected(error)}, not {_SHORT.repr(error.instance)}"


def _expected(error: ValidationError) -> str:
    """Say what a schema wants where the value has another type or is none of those allowed."""
    if error.validator == "enum":
        words = ["null" if value is None else repr(value) for value in error.validator_value]
    else:
        types = error.validator_value
        words = [_WORDS[name] for name in ([types] if isinstance(types, str) else types)]
    return " or ".join(words)


def _place(path: list[str | int]) -> str:
    """Write a path with dots; a stranger's key that is no plain word is quoted."""
    parts = [
        str(part) if str(part).isidentifier() or isinstance(part, int) else _SHORT.repr(part) for part in path
    ]
    return ".".join(parts) or "the metadata"
