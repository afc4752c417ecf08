"""The account of a join: what matched and everything that did not."""

import dataclasses

from .wording import quoted

__all__ = ["JoinReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JoinReport:
    """What an exact join of ids matched, and everything it did not.

    Attributes
    ----------
    n_matched
        Spots that have a row of the table (without an h5ad: rows used).
    n_table_only, table_only_examples
        Rows of this section whose id is not in the h5ad, and the first of these ids.
    n_h5ad_only, h5ad_only_examples
        Spots of the h5ad without a row, left out on request, and the first of their ids.
    n_other_sections
        Rows of the table that belong to other sections.
    n_outside
        Rows of this section that lie outside the H&E image (``inside_he`` is false).
    notes
        What else a user should know.
    """

    n_matched: int
    n_table_only: int
    n_h5ad_only: int
    n_other_sections: int
    n_outside: int
    table_only_examples: tuple[str, ...]
    h5ad_only_examples: tuple[str, ...]
    notes: tuple[str, ...]

    def describe(self) -> str:
        """Say in one line what was joined and what was left out."""
        parts = [f"{self.n_matched} spots with tiles"]
        if self.n_table_only:
            parts.append(
                f"{self.n_table_only} rows without a spot (first {quoted(self.table_only_examples)})"
            )
        if self.n_h5ad_only:
            parts.append(f"{self.n_h5ad_only} spots without a tile (first {quoted(self.h5ad_only_examples)})")
        if self.n_other_sections:
            parts.append(f"{self.n_other_sections} rows of other sections")
        if self.n_outside:
            parts.append(f"{self.n_outside} rows outside the H&E image")
        return "; ".join([*parts, *self.notes])
