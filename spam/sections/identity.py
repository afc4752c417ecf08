"""Which section, and whose: the names that options, h5ad and table state, without contradiction."""

from anndata import AnnData

from spam.errors import SectionError

from .h5ad import named_values, spatial_libraries
from .table import Table
from .wording import quoted

__all__ = ["find_donor", "find_section_name", "rows_of_section"]

_DONOR_COLUMNS = ("patient", "donor")


def find_section_name(requested: str | None, *, adata: AnnData | None, h5ad_stem: str, table: Table) -> str:
    """Name the section: as requested, else after the h5ad, else (without an h5ad) after the table.

    The h5ad states it by the one value of ``obs['section']``, else by the one key of ``uns['spatial']``, else
    by its file name; the table by the one value of its column ``section``, else by its file name.

    Raises
    ------
    SectionError
        If the h5ad or the table holds several sections and none was requested, or not the requested one.
    """
    if adata is None:
        stated, place = table.named_values("section"), f"column 'section' of {table.path}"
    else:
        stated, place = named_values(adata, "section"), f"obs['section'] of {h5ad_stem}.h5ad"
    if requested is not None:
        if stated and requested not in stated:
            message = (
                f"section {requested!r} is not in {place}, which holds {quoted(stated)}; choose one of these "
                "with --section"
            )
            raise SectionError(message)
        return requested
    if len(stated) > 1:
        message = (
            f"{place} holds {len(stated)} sections: {', '.join(map(repr, stated))}; choose one with --section"
        )
        raise SectionError(message)
    if stated:
        return stated[0]
    if adata is None:
        return table.path.name.removesuffix(".gz").removesuffix(".csv")
    libraries = spatial_libraries(adata)
    return str(libraries[0]) if len(libraries) == 1 else h5ad_stem


def rows_of_section(table: Table, name: str) -> Table:
    """Keep the rows of one section: all, if the table has no (or an empty) column ``section``.

    Raises
    ------
    SectionError
        If the column names sections, but not this one.
    """
    stated = table.named_values("section")
    if not stated:
        return table
    if name not in stated:
        message = (
            f"{table.path} has no row of section {name!r}; its column 'section' holds {quoted(stated)}; "
            "choose one of these with --section"
        )
        raise SectionError(message)
    return table.where(table.text("section") == name)


def find_donor(requested: str | None, *, adata: AnnData | None, table: Table) -> str | None:
    """Name the donor: as requested, else the one ``patient`` or ``donor`` of the h5ad's obs and the table.

    Both must be cut to one section before. None if nobody states a donor.

    Raises
    ------
    SectionError
        If different donors are stated for the one section.
    """
    if requested is not None:
        return requested
    stated: dict[str, list[str]] = {}
    for column in _DONOR_COLUMNS:
        for donor in named_values(adata, column) if adata is not None else ():
            stated.setdefault(donor, []).append(f"obs[{column!r}]")
        for donor in table.named_values(column):
            stated.setdefault(donor, []).append(f"column {column!r} of {table.path.name}")
    if len(stated) > 1:
        places = "; ".join(f"{donor!r} in {', '.join(where)}" for donor, where in stated.items())
        message = (
            f"one section has one donor, but {len(stated)} are stated: {places}; give the right one with "
            "--donor"
        )
        raise SectionError(message)
    return next(iter(stated), None)
