"""Sections and features by the names that a user gives."""

from collections.abc import Sequence

from spam.errors import StoreError

from .section import StoredSection
from .store import Store

__all__ = ["choose_features", "choose_sections"]


def choose_sections(store: Store, names: Sequence[str]) -> tuple[str, ...]:
    """Take the sections that are named, in that order; all of them if none is.

    Raises
    ------
    StoreError
        If the store lacks one of them (names all that are missing and all that are there), or has none at all.
    """
    there = store.section_names
    missing = [name for name in names if name not in there]
    if missing or not there:
        what = f"has no section {', '.join(map(repr, missing))}" if missing else "has no section yet"
        message = (
            f"store {store.address!r} {what} (it has: {', '.join(map(repr, there)) or 'none'}); choose among these, or "
            "add them with `spam embed`"
        )
        raise StoreError(message)
    return tuple(dict.fromkeys(names)) or there


def choose_features(section: StoredSection, names: Sequence[str]) -> tuple[str, ...]:
    """Take the features that are named by key or by encoder, sorted; all of them if none is named.

    Raises
    ------
    StoreError
        If a name is that of no feature key and of no encoder of the section.
    """
    there = {key: section.feature_meta(key).encoder.get("name") for key in section.feature_keys}
    missing = [name for name in names if name not in there and name not in there.values()]
    if missing:
        offered = ", ".join(f"{key!r} of {encoder!r}" for key, encoder in there.items()) or "none"
        message = (
            f"section {section.meta.name!r} has no features {', '.join(map(repr, missing))} (it has: {offered}); choose "
            "among these, by key or by encoder"
        )
        raise StoreError(message)
    return tuple(key for key, encoder in there.items() if not names or key in names or encoder in names)
