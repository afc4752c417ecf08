"""Sections as the store holds them, and whether it holds the same already."""

import numpy as np

from spam.sections import Section
from spam.store import StoredSection

__all__ = ["differences"]


def differences(stored: StoredSection, section: Section, licence: str | None) -> list[str]:
    """Name what a stored section and a new one of its name do not share.

    The table itself may have changed, as it does when a cohort grows: what it says of these spots must not
    have.
    """
    old, new = stored.meta, section
    n_genes = 0 if section.genes is None else len(section.genes)
    found = [
        f"{what} was {before!r}, is {after!r}"
        for what, before, after in (
            ("donor", old.donor, new.donor),
            ("µm per pixel (--mpp)", old.mpp, new.mpp),
            ("number of spots", old.n_spots, new.n_spots),
            ("number of genes", old.n_genes, n_genes),
        )
        if before != after
    ]
    if licence is not None and licence != old.licence:
        found.append(f"licence was {old.licence!r}, is {licence!r}")
    if old.redacted:
        return [*found, f"the store holds a copy without {', '.join(old.redacted)}"]
    before, after = (
        {source.role: source for source in meta.sources if source.role != "csv"} for meta in (old, new)
    )
    for role in sorted({*before, *after}):
        digests = [one[role].sha256[:12] if role in one else "absent" for one in (before, after)]
        if digests[0] != digests[1]:
            found.append(f"{role} was {digests[0]}, is {digests[1]} (SHA-256)")
    if old.n_spots == new.n_spots:
        if not np.array_equal(stored.ids, section.ids):
            found.append("ids of the spots differ")
        if not np.array_equal(stored.xy_px, section.xy_px):
            found.append("coordinates of the spots differ")
    if section.counts is not None and section.genes is not None and stored.genes is not None and not found:
        is_same = np.array_equal(stored.genes, section.genes) and not (stored.counts() != section.counts).nnz
        found += [] if is_same else ["counts differ (--counts-layer)"]
    return found
