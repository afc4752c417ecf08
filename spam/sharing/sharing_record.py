"""What was overridden to share a store: a copy says of itself what the stores that it was made from say."""

import json
from collections.abc import Iterable
from typing import Any

from spam.store import Store
from spam.store.layout import SPAM

from .changed_index import SHARED

__all__ = ["sharing_record"]


def sharing_record(stores: Iterable[Store], copy: Store) -> dict[str, Any]:
    """Join what the roots of stores say was overridden to share what is in a copy, whatever the order of the stores.

    Returns
    -------
    dict
        Entries for `spam.store.store.write_root`; none if nothing was overridden.
    """
    roots = (json.loads(store.location.read_index("") or b"")["attributes"][SPAM] for store in stores)
    found = {
        json.dumps(one, sort_keys=True): one
        for root in roots
        for one in root.get(SHARED, {}).get("overridden", [])
    }
    there = _things(copy) if found else set()
    kept = [
        one for _, one in sorted(found.items()) if isinstance(one, dict) and str(one.get("what")) in there
    ]
    return {SHARED: {"overridden": kept}} if kept else {}


def _things(copy: Store) -> set[str]:
    """Name sections and features as `spam.sharing.licence_guard.Objection` does."""
    features = {key for name in copy.section_names for key in copy.section(name).feature_keys}
    return {f"section {name!r}" for name in copy.section_names} | {f"features {key!r}" for key in features}
