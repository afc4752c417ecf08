"""What is done with whole stores: looking into them, checking, comparing, copying, packing and sharing them.

Names resolve on first use: looking into a store does not wait for the packages that share one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparing import diff
    from .describing import describe
    from .merging import merge
    from .packing import pack
    from .pulling import pull
    from .pushing import push
    from .selecting import select
    from .unpacking import unpack
    from .validating import validate

__all__ = [
    "describe",
    "diff",
    "merge",
    "pack",
    "pull",
    "push",
    "select",
    "unpack",
    "validate",
]

_HOMES = {
    "describe": ".describing",
    "diff": ".comparing",
    "merge": ".merging",
    "pack": ".packing",
    "pull": ".pulling",
    "push": ".pushing",
    "select": ".selecting",
    "unpack": ".unpacking",
    "validate": ".validating",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
