"""What was overridden to share a store: a copy says of itself what the stores that it was made from say."""

import json
from collections.abc import Iterable
from typing import Any

from spam.store import Store
from spam.store.layout import SPAM

from .changed_index import SHARED

__all__ = ["sharing_record"]


def sharing_record(stores: Iterable[Store]) -> dict[str, Any]:
    """Join what the roots of stores say was overridden to share them, in an order that does not depend on theirs.

    Returns
    -------
    dict
        Entries for `spam.store.store.write_root`; none if nothing was overridden.
    """
    roots = (json.loads(store.location.read_index("") or b"")["attributes"][SPAM] for store in stores)
    found = {
        json.dumps(one, sort_keys=True)
        for root in roots
        for one in root.get(SHARED, {}).get("overridden", [])
    }
    return {SHARED: {"overridden": [json.loads(one) for one in sorted(found)]}} if found else {}
