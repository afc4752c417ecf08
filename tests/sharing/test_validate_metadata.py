"""Metadata against their schemas: whatever a dataclass can hold is sound, and any single change is found."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam.schemas.store_attributes import RootAttributes, SectionAttribute
from spam.schemas.store_index import FileEntry
from spam.schemas.store_format import FeatureMeta, GraphMeta, SectionMeta
from spam.sharing.validate_metadata import MetadataKind, metadata_faults
from spam.store import Graph, SectionRecord, create_store

KINDS: dict[MetadataKind, type] = {
    "section": SectionMeta,
    "feature": FeatureMeta,
    "graph": GraphMeta,
    "root": RootAttributes,
    "index": SectionAttribute,
}
# Names that are Python words show unquoted in a fault; others are the business of a test of their own.
WORDS = st.from_regex(r"[a-z]{1,7}", fullmatch=True)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def instances(cls: type) -> st.SearchStrategy[Any]:
    """Any instance of a dataclass, of its type hints alone."""
    return st.builds(cls, **{name: of_kind(kind) for name, kind in get_type_hints(cls).items()})


def of_kind(kind: Any) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return instances(kind)
    if kind is float:
        return NUMBERS
    if kind == dict[str, Any]:
        return st.dictionaries(WORDS, JSON, max_size=3)
    if kind == dict[str, FileEntry]:
        return st.dictionaries(WORDS, instances(FileEntry), max_size=3)
    arguments = get_args(kind)
    if type(None) in arguments:
        return st.none() | of_kind(next(one for one in arguments if one is not type(None)))
    if arguments and arguments[-1] is Ellipsis:
        return st.lists(of_kind(arguments[0]), max_size=3).map(tuple)
    return st.from_type(kind)


def as_json(instance: Any) -> Any:
    """What stands in a store: an instance as its own ``to_mapping`` gives it, where it has one."""
    plain = instance.to_mapping() if hasattr(instance, "to_mapping") else dataclasses.asdict(instance)
    return json.loads(json.dumps(plain))


def records(values: Any, kind: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every mapping within `values` that was a dataclass: its path, itself, its fields' types."""
    if dataclasses.is_dataclass(kind) and isinstance(values, dict):
        hints = get_type_hints(kind)
        yield path, values, hints
        for name, inner in hints.items():
            if name in values:
                yield from records(values[name], inner, f"{path}{name}.")
    for inner in get_args(kind):
        if isinstance(values, list):
            for i, item in enumerate(values):
                yield from records(item, inner, f"{path}{i}.")
        elif isinstance(values, dict) and inner is FileEntry:
            for key, item in values.items():
                yield from records(item, inner, f"{path}{key}.")
        elif isinstance(values, dict) and not isinstance(kind, type):
            yield from records(values, inner, path)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON fits a type, written down plainly."""
    if kind is Any:
        return True
    if kind in (str, bool):
        return type(value) is kind
    if kind is int:
        return type(value) is int or (type(value) is float and value.is_integer())  # as JSON Schema has it
    if kind is float:
        return type(value) in (int, float)
    if dataclasses.is_dataclass(kind):
        return isinstance(value, dict)
    arguments = get_args(kind)
    if type(None) in arguments:
        return value is None or any(fits(value, one) for one in arguments if one is not type(None))
    if arguments and arguments[-1] is Ellipsis:
        return isinstance(value, list)
    if arguments and arguments[0] is str and len(arguments) == 2 and kind.__origin__ is dict:
        return isinstance(value, dict)
    return any(type(value) is type(one) and value == one for one in arguments)


# Written only where something was done.
OF_SOME_FEATURES = ("stain", "is_averaged", "adapted_on")

# The first example of a kind builds its schema, which takes longer than the rest.
few = settings(max_examples=40, deadline=None)
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@few
@given(data=st.data())
def test_whatever_the_dataclass_holds_is_sound(kind: MetadataKind, data: st.DataObject) -> None:
    assert metadata_faults(as_json(data.draw(instances(KINDS[kind]))), kind) == []


@kinds
@few
@given(data=st.data())
def test_one_missing_entry_is_the_one_fault(kind: MetadataKind, data: st.DataObject) -> None:
    values = as_json(data.draw(instances(KINDS[kind])))
    path, record, _ = data.draw(st.sampled_from([*records(values, KINDS[kind])]))
    name = data.draw(st.sampled_from([*record]))
    del record[name]
    may_be_absent = (path, name) in {("spam.", "shared"), *(("", key) for key in OF_SOME_FEATURES)}
    assert metadata_faults(values, kind) == ([] if may_be_absent else [f"{path}{name} is missing"])


@kinds
@few
@given(data=st.data(), name=WORDS, value=JSON)
def test_one_extra_entry_is_the_one_fault(
    kind: MetadataKind, data: st.DataObject, name: str, value: Any
) -> None:
    values = as_json(data.draw(instances(KINDS[kind])))
    path, record, hints = data.draw(st.sampled_from([*records(values, KINDS[kind])]))
    name = f"{name}_" if name in hints else name
    record[name] = value
    assert metadata_faults(values, kind) == [f"{path}{name} is not part of the format"]


@kinds
@few
@given(data=st.data())
def test_one_value_of_another_type_is_the_one_fault(kind: MetadataKind, data: st.DataObject) -> None:
    values = as_json(data.draw(instances(KINDS[kind])))
    path, record, hints = data.draw(st.sampled_from([*records(values, KINDS[kind])]))
    name = data.draw(st.sampled_from([*record]))
    wrong = [value for value in (None, True, 7, 0.5, "word", [], {}) if not fits(value, hints[name])]
    record[name] = data.draw(st.sampled_from(wrong))
    (fault,) = metadata_faults(values, kind)
    assert fault.startswith(f"{path}{name} must be ")
    assert fault.endswith(f", not {record[name]!r}")


def test_all_faults_at_once_in_plain_words() -> None:
    values = {
        "kind": "spatal",
        "k": True,
        "metric": "euclidean",
        "unit": None,
        "sigma": "wide",
        "backend": "scipy",
        "features_key": 3,
        "recall": 1,
        "note": "x",
    }
    assert metadata_faults(values, "graph") == [
        "features_identity is missing",
        "features_key must be text or null, not 3",
        "k must be a whole number, not True",
        "kind must be 'spatial' or 'features', not 'spatal'",
        "note is not part of the format",
        "sigma must be a number, not 'wide'",
        "unit must be text, not None",
    ]


def test_faults_of_a_section_name_their_place(make_meta: Callable[..., SectionMeta]) -> None:
    meta = make_meta().to_mapping()
    meta["sources"][0]["sha256"] = 5
    meta["redacted"] = ["counts", "names"]
    meta["software"] = {"lazy-slide": 1}
    assert metadata_faults(meta, "section") == [
        "redacted.1 must be 'counts' or 'coordinates' or 'ids' or 'genes', not 'names'",
        "software.'lazy-slide' must be text, not 1",
        "sources.0.sha256 must be text, not 5",
    ]


@pytest.mark.parametrize("values", [None, [], "text", 5, True], ids=repr)
@kinds
def test_metadata_must_be_a_mapping(kind: MetadataKind, values: Any) -> None:
    assert metadata_faults(values, kind) == [f"the metadata must be a mapping, not {values!r}"]


def test_a_strangers_words_stay_short_and_on_one_line() -> None:
    values = {"spam_format": "x\n" * 10_000, "spam_version": 1, "spam": {}, "bad\nkey" * 1000: [0] * 10_000}
    faults = metadata_faults(values, "root")
    assert len(faults) == 4
    assert all(len(fault) < 250 and fault.isprintable() for fault in faults)


def test_metadata_that_a_store_writes_are_sound(
    make_record: Callable[..., SectionRecord],
    make_graph: Callable[..., Graph],
    tmp_path: Path,
) -> None:
    section = create_store(tmp_path / "cohort.zarr").add_section(make_record())
    section.write_graph("spatial", make_graph(section.n_spots))
    read = {
        path: json.loads((tmp_path / "cohort.zarr" / path / "zarr.json").read_bytes())["attributes"]
        for path in ("", section.meta.name, f"{section.meta.name}/uns/spatial_neighbors")
    }
    assert metadata_faults(read[""], "root") == []
    assert metadata_faults(read[section.meta.name]["spam"], "index") == []
    assert metadata_faults(read[section.meta.name]["spam"]["meta"], "section") == []
    assert metadata_faults(read[f"{section.meta.name}/uns/spatial_neighbors"]["spam"]["meta"], "graph") == []
