"""Spam's own metadata on the nodes of a store, and the error for a node that is not as it must be."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import zarr

from spam.errors import StoreError

from .layout import META, SPAM

__all__ = ["Node", "damaged", "read_entry", "read_meta"]

Node: TypeAlias = zarr.Group | zarr.Array[Any]

_Meta = TypeVar("_Meta")


def damaged(node: Node, fault: str, *, child: str = "") -> StoreError:
    """Make the error for a node, or for a child of it, that a whole store would not have."""
    place = f"{str(node.store_path).removeprefix('file://')}/{child}".rstrip("/")
    message = (
        f"the store is damaged at {place}: {fault}; take a fresh copy of the store, or write that part again "
        "with `spam embed --overwrite`"
    )
    return StoreError(message)


def read_entry(node: Node, entry: str) -> Any:
    """Read one entry of spam's metadata on a node.

    Raises
    ------
    StoreError
        If the node has no such entry.
    """
    described = node.attrs.get(SPAM)
    if not isinstance(described, dict) or entry not in described:
        raise damaged(node, f"its attribute {SPAM!r} has no entry {entry!r}")
    return described[entry]


def read_meta(node: Node, build: Callable[[dict[str, Any]], _Meta]) -> _Meta:
    """Rebuild the dataclass that describes a node, with its ``from_mapping``.

    Raises
    ------
    StoreError
        If the node has no metadata, or they lack a field or have one too many.
    """
    values = read_entry(node, META)
    try:
        return build(values)
    except (KeyError, TypeError) as error:
        raise damaged(node, f"its metadata do not fit format version 1 ({error})") from error
