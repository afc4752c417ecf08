"""Sections as the store holds them, and whether it holds the same already."""

import numpy as np

from spam.schemas.store_meta import SectionMeta
from spam.sections import Section
from spam.store import SectionRecord, StoredSection, spots_digest
from spam.versions import software_versions

__all__ = ["differences", "record_of"]


def record_of(
    section: Section, slide_width_px: int | None, slide_height_px: int | None, *, licence: str | None
) -> SectionRecord:
    """Put a section into the form in which the store holds it, without an overview."""
    meta = SectionMeta(
        name=section.name,
        donor=section.donor,
        n_spots=len(section.ids),
        n_genes=0 if section.genes is None else len(section.genes),
        has_counts=section.counts is not None,
        mpp=section.mpp,
        mpp_source=section.mpp_source,
        slide_width_px=slide_width_px,
        slide_height_px=slide_height_px,
        sources=section.sources,
        software=software_versions(),
        spots_sha256=spots_digest(section.ids, section.xy_px),
        licence=licence,
    )
    return SectionRecord(
        meta=meta,
        ids=section.ids,
        xy_px=section.xy_px,
        xy_um=section.xy_um,
        counts=section.counts,
        genes=section.genes,
        obs=section.obs,
        overview=None,
    )


def differences(stored: StoredSection, record: SectionRecord) -> list[str]:
    """Name what a stored section and a new one of its name do not share.

    The table itself may have changed, as it does when a cohort grows: what it says of these spots must not
    have.
    """
    old, new = stored.meta, record.meta
    found = [
        f"{what} was {before!r}, is {after!r}"
        for what, before, after in (
            ("donor", old.donor, new.donor),
            ("µm per pixel (--mpp)", old.mpp, new.mpp),
            ("number of spots", old.n_spots, new.n_spots),
            ("number of genes", old.n_genes, new.n_genes),
        )
        if before != after
    ]
    if new.licence is not None and new.licence != old.licence:
        found.append(f"licence was {old.licence!r}, is {new.licence!r}")
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
        if not np.array_equal(stored.ids, record.ids):
            found.append("ids of the spots differ")
        if record.xy_px is None or not np.array_equal(stored.xy_px, record.xy_px):
            found.append("coordinates of the spots differ")
    if record.counts is not None and record.genes is not None and stored.genes is not None and not found:
        is_same = np.array_equal(stored.genes, record.genes) and not (stored.counts() != record.counts).nnz
        found += [] if is_same else ["counts differ (--counts-layer)"]
    return found
