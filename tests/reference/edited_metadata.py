"""Edited copies of a JSON document: every entry at every depth, removed or replaced by what does not belong there."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from spam.errors import SpamError

DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]
WRONG: dict[str, Any] = {
    "null": None,
    "text": "\u00e9 text",
    "empty text": "",
    "true": True,
    "negative": -7,
    "huge integer": 10**30,
    "huge number": 1e308,
    "not a number": math.nan,
    "list": [],
    "list of lists": [[1], "x"],
    "table": {},
    "table of tables": {"a": {"b": None}},
    "deep nesting": DEEP,
}


def paths_of(document: Any) -> Iterator[tuple[Any, ...]]:
    """List the keys that lead to each entry; of a list only its first two entries."""
    entries = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document[:2])
        if isinstance(document, list)
        else ()
    )
    for key, value in entries:
        yield (key,)
        yield from ((key, *rest) for rest in paths_of(value))


def edited(document: Any, *, share: int = 1) -> Iterator[tuple[str, Any]]:
    """Edit each entry in turn; yield what was done, and the edited copy. Of all edits, every `share`-th is made."""
    edits = itertools.count()
    for *where, last in paths_of(document):
        shown = ".".join(map(str, (*where, last)))
        for what in ("removed", *WRONG):
            if next(edits) % share:
                continue
            changed = copy.deepcopy(document)
            part = changed
            for key in where:
                part = part[key]
            if what == "removed":
                del part[last]
            else:
                part[last] = WRONG[what]
            yield f"{shown} {what}", changed
    yield from (("unknown key", {**document, "surprise": 1}), ("not an object", [document]))


def outcome(work: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of some work, or None and the message with which it was refused."""
    try:
        return work(), ""
    except SpamError as error:
        return None, str(error)
