"""What is taken out of a section before it is shared: counts, genes, coordinates, names."""

import dataclasses
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import sparse

from spam.schemas.store_format import SectionMeta
from spam.store import Graph, SectionRecord, StoredSection, spots_digest
from spam.typing import Array, Int

__all__ = ["Redacted", "Redaction", "moved_graph", "redacted"]

_ID_DIGITS = 16  # 64 bits: among ten million spots two alike have a chance of 3 in a million
_SALT_BYTES = 32

_Taken: TypeAlias = Literal["counts", "coordinates", "ids", "genes"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """What is taken out of every section of one copy.

    Attributes
    ----------
    genes
        Genes to keep; None for all.
    without_counts, without_coordinates, salted_ids
        See `spam.schemas.store_config.SelectConfig`.
    salt
        Random bytes that make salted names unguessable; they are thrown away with this object.
    """

    genes: frozenset[str] | None = None
    without_counts: bool = False
    without_coordinates: bool = False
    salted_ids: bool = False
    salt: bytes = dataclasses.field(default_factory=lambda: secrets.token_bytes(_SALT_BYTES), repr=False)

    @property
    def hides_spots(self) -> bool:
        """Whether spots get other names and another order."""
        return self.without_coordinates or self.salted_ids

    def kept_genes(self, section: StoredSection) -> list[str]:
        """List the genes of a section that are kept, in the section's order."""
        genes = [] if section.genes is None or self.without_counts else section.genes.tolist()
        return [gene for gene in genes if self.genes is None or gene in self.genes]

    def touches(self, section: StoredSection) -> bool:
        """Tell whether anything in a section is taken out: else it is copied as it is."""
        return self.hides_spots or len(self.kept_genes(section)) < section.meta.n_genes

    def name(self, *parts: str) -> str:
        """Replace a name, given with what it is and where it stands, by the beginning of its salted digest.

        The digest is HMAC-SHA-256 (RFC 2104).
        """
        text = "\0".join(parts)  # no name in a store holds it
        return hmac.new(self.salt, text.encode(), hashlib.sha256).hexdigest()[:_ID_DIGITS]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Redacted:
    """The tables of a redacted section.

    Attributes
    ----------
    record
        What is written.
    order
        For each spot of the copy its place in the section, (n_spots,); None if the order is the same.
    """

    record: SectionRecord
    order: Array | None


def redacted(section: StoredSection, redaction: Redaction) -> Redacted:
    """Take out of a section's tables what does not go into the copy.

    The arguments for what goes are in `spam.sharing.select`.

    Raises
    ------
    StoreError
        If the section is damaged.
    """
    meta, ids, order = section.meta, section.ids, None
    if redaction.hides_spots:
        names = np.array([redaction.name("spot", meta.name, name) for name in ids.tolist()])
        order = np.argsort(names)
        ids = names[order]
    has_coordinates = meta.has_coordinates and not redaction.without_coordinates
    xy_px = _rows(section.xy_px, order) if has_coordinates else None
    xy_um = _rows(section.xy_um, order) if has_coordinates and section.xy_um is not None else None
    has_counts = meta.has_counts and not redaction.without_counts
    genes = redaction.kept_genes(section)
    changed = dataclasses.replace(
        meta,
        n_genes=len(genes),
        has_counts=has_counts,
        has_coordinates=has_coordinates,
        redacted=_redacted(meta, redaction, genes),
    )
    if redaction.without_coordinates:
        changed = dataclasses.replace(changed, slide_width_px=None, slide_height_px=None)
    if redaction.salted_ids and meta.donor is not None:
        changed = dataclasses.replace(changed, donor=redaction.name("donor", meta.donor))
    if redaction.hides_spots:
        digest = None if xy_px is None else spots_digest(ids, xy_px)
        changed = dataclasses.replace(changed, sources=(), spots_sha256=digest)
    record = SectionRecord(
        meta=changed,
        ids=ids,
        xy_px=xy_px,
        xy_um=xy_um,
        counts=_rows(section.counts(genes), order) if has_counts else None,
        genes=np.array(genes, dtype=str) if has_counts else None,
        obs={} if redaction.hides_spots else section.obs,
        overview=None if redaction.without_coordinates else section.overview(),
    )
    return Redacted(record=record, order=order)


def moved_graph(graph: Graph, order: Int[Array, " n_spots"], *, features_identity: str | None) -> Graph:
    """Give a graph over the spots in another order.

    The entries of a row come in the order of the new columns, so nothing of the old order remains.

    Parameters
    ----------
    graph
        Graph over the old order.
    order
        For each spot of the new order its place in the old one.
    features_identity
        Identity of the features that the graph is over, as they are stored now; None for a spatial graph.
    """
    place = np.argsort(order)  # for each spot of the old order its place in the new one

    def move(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
        rows = matrix[order]
        moved = sparse.csr_matrix((rows.data, place[rows.indices], rows.indptr), shape=matrix.shape)
        moved.sort_indices()
        return moved

    meta = dataclasses.replace(graph.meta, features_identity=features_identity)
    return Graph(connectivities=move(graph.connectivities), distances=move(graph.distances), meta=meta)


def _redacted(meta: SectionMeta, redaction: Redaction, genes: Sequence[str]) -> tuple[_Taken, ...]:
    taken: dict[_Taken, bool] = {
        "counts": redaction.without_counts and meta.has_counts,
        "coordinates": redaction.without_coordinates and meta.has_coordinates,
        "ids": redaction.hides_spots,
        "genes": len(genes) < meta.n_genes and not redaction.without_counts,
    }
    return tuple(what for what, is_taken in taken.items() if is_taken or what in meta.redacted)


def _rows(values: Any, order: Array | None) -> Any:
    """Give the rows of an array or sparse matrix in another order."""
    return values if order is None else values[order]
