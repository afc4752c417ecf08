"""Opening the index of a section, with a look at all that it names before anything is read by it."""

from spam.errors import StoreError

from .index import SectionIndex, read_index
from .layout import name_fault
from .location import Location
from .node_rules import node_faults

__all__ = ["open_index"]

_N_SHOWN = 5


def open_index(location: Location, name: str) -> SectionIndex:
    """Read the index of a section, and refuse one that names what no store holds.

    Raises
    ------
    StoreError
        If it is not there, is not what was written, or names unknown codecs, sizes that do not fit, or paths that lead
        outside.
    """
    where = f"{location.address}/{name}"
    data = location.read_index(name)
    if data is None:
        message = (
            f"section {where!r} is not there any more, or is a link, which a store must not hold; open the store "
            "again, or take a copy with the section itself"
        )
        raise StoreError(message)
    index = read_index(data, where)
    faults = node_faults(index)
    if index.meta.name != name:
        faults.insert(0, f"it is named {index.meta.name!r} in its own metadata")
    if fault := name_fault(name, "its name"):  # of a stranger's ZIP: whoever copies it makes a folder of it
        faults.insert(0, fault)
    if faults:
        more = f" and {len(faults) - _N_SHOWN} more" if len(faults) > _N_SHOWN else ""
        message = (
            f"section {where!r} cannot be opened: {'; '.join(faults[:_N_SHOWN])}{more}; it was not written by this "
            "version of spam: look at it with `spam store validate`, or take a fresh copy"
        )
        raise StoreError(message)
    return index
