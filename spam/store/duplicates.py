"""A new section beside those of a store: the same tissue under two names (by digests), and gene names that differ."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from spam.sections import Section
from spam.sections.h5ad import read_h5ad
from spam.typing import Array, Num, Rows, Shaped, UInt64

from .feature_store import Store
from .gene_names import ENOUGH, advice_on_names

_log = logging.getLogger(__name__)

_N_COMPARED = 64  # digests of a section that are looked up in another, and kept in a checkpoint
_FEWEST = 8  # counts above 0 in a profile; shorter ones may be equal by chance
# A subset of a section has all of its profiles in the whole, so only a partial overlap is below 1.
_SAME_SPOTS, _SAME_GENES = 0.1, 0.5
_BLOCK, _ROWS = 1 << 22, 8192  # entries, and rows of features, that are hashed at a time
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))  # of SplitMix64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profiles:
    """Digests of a section, from which no count can be read; profiles that occur twice in it are left out.

    Attributes
    ----------
    spots
        Counts of each spot over a given list of genes, in any order; spots with most genes first.
    genes
        Counts of each gene over the spots, in any order and under any name.
    images
        Features of each spot, bit by bit.
    """

    spots: UInt64[Array, " _"]
    genes: UInt64[Array, " _"]
    images: UInt64[Array, " _"]

    def share_of_counts(self, other: "Profiles") -> float:
        """Share of compared spots (or genes, if more) with equal counts; 0 if too few for the same tissue."""
        spots, genes = _share(self.spots, other.spots), _share(self.genes, other.genes)
        return max(spots if spots >= _SAME_SPOTS else 0.0, genes if genes >= _SAME_GENES else 0.0)

    def share_of_images(self, other: "Profiles") -> float:
        """Share of compared spots with equal features; 0 if too few for the same tissue."""
        share = _share(self.images, other.images)
        return share if share >= _SAME_SPOTS else 0.0

    def to_mapping(self) -> dict[str, list[int]]:
        """Return up to 64 digests of each kind, for a checkpoint."""
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name)[:_N_COMPARED].tolist() for field in fields}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Sequence[int]]) -> "Profiles":
        """Read what `to_mapping` returned."""
        return cls(**{name: np.array(digests, dtype=np.uint64) for name, digests in values.items()})


def profiles_of(
    counts: csr_matrix | None,
    genes: Sequence[str] | Shaped[Array, " n_genes"] | None,
    features: Num[Rows, "n_spots dim"] | None = None,
    *,
    among: Sequence[str] | None = None,
) -> Profiles:
    """Compute the digests of a section.

    Parameters
    ----------
    counts, genes
        Raw counts and names of their columns; None without counts.
    features
        Image features, or None.
    among
        Genes of the profiles of spots (default: all): compared sections must have them all.
    """
    nothing: Array = np.empty(0, dtype=np.uint64)
    spots = by_gene = images = nothing
    if counts is not None and genes is not None:
        names = [str(gene) for gene in genes]
        if not counts.data.all():
            counts = counts.copy()
            counts.eliminate_zeros()
        by_gene = _column_digests(counts)
        if among is not None:
            place = {name: i for i, name in enumerate(names)}
            names = [str(gene) for gene in among]
            columns = [place[name] for name in names if name in place]
            counts = counts[:, columns if len(columns) == len(names) else []]
        salts = [int.from_bytes(hashlib.blake2b(n.encode(), digest_size=8).digest()) for n in names]
        spots = _row_digests(counts, np.array(salts, dtype=np.uint64))
    if features is not None:
        parts = (features[start : start + _ROWS] for start in range(0, len(features), _ROWS))
        # equal, whatever the number format of the store
        rows = (row.astype(np.float32) for part in parts for row in part)
        hashed = [int.from_bytes(hashlib.blake2b(row, digest_size=8).digest()) for row in rows]
        images = _once(np.array(hashed, dtype=np.uint64))
    return Profiles(spots=spots, genes=by_gene, images=images)


def duplicates_in(store: Store, name: str, counts: csr_matrix, genes: Shaped[Array, " n_genes"]) -> list[str]:
    """Find sections of a store with other names that hold the same counts, in any order of spots and genes.

    Counts are read only of sections in which most of the shared genes occur in as many spots, or each in at most as many
    spots (the spots of one may be a part of the other's).
    """
    n_spots_of = dict(zip(genes.tolist(), np.bincount(counts.indices, minlength=len(genes)), strict=True))
    found = []
    for section in (store.section(other) for other in store.section_names if other != name):
        if section.genes is None:
            continue
        pairs = [
            (n_spots_of[gene], n)
            for gene, n in zip(section.genes.tolist(), section.n_detected, strict=True)
            if gene in n_spots_of
        ]
        more = np.array([a - b for a, b in pairs], dtype=np.int64)
        if len(more) and ((more == 0).mean() > _SAME_GENES or (more <= 0).all() or (more >= 0).all()):
            shared = [gene for gene in section.genes.tolist() if gene in n_spots_of]
            own = profiles_of(counts, genes, among=shared)
            if own.share_of_counts(profiles_of(section.counts(), section.genes, among=shared)):
                found.append(section.meta.name)
    return found


def warn_of_duplicates(sections: Sequence[Section], store: Store | None) -> None:
    """Warn if the counts of a section are in the store, or earlier in the manifest, under another name."""
    before: dict[str, Profiles] = {}
    for section in sections:
        if section.counts is None or section.genes is None:
            continue
        own = profiles_of(section.counts, section.genes)
        found = [name for name, profiles in before.items() if own.share_of_counts(profiles)]
        if store is not None:
            found += duplicates_in(store, section.name, section.counts, section.genes)
        before[section.name] = own
        if found:
            _log.warning(
                "section %s has the counts of section %s: do not train on one and test on the other",
                *(section.name, ", ".join(dict.fromkeys(found))),
            )


def warn_of_gene_names(
    section: Section, h5ad: Path | None, planned: Sequence[Section], store: Store | None
) -> None:
    """Warn if a section shares fewer than half of its gene names with the first other section."""
    stored = () if store is None else (store.section(name) for name in store.section_names)
    others = (*((s.meta.name, s.genes) for s in stored), *((s.name, s.genes) for s in planned))
    known = ((name, genes) for name, genes in others if name != section.name and genes is not None)
    name, genes = next(known, ("", None))
    if section.genes is None or genes is None:
        return
    n_shared = len({*section.genes.tolist()} & {*genes.tolist()})
    if n_shared < ENOUGH * min(len(section.genes), len(genes)):
        _log.warning(
            "section %s shares only %d of its %d gene names with section %s. %s",
            *(section.name, n_shared, len(section.genes), name),
            advice_on_names(
                section.genes, genes, None if h5ad is None else read_h5ad(h5ad).other_gene_names()
            ),
        )


def _share(a: UInt64[Array, " _"], b: UInt64[Array, " _"]) -> float:
    if not (len(a) and len(b)):
        return 0.0
    return float(max(np.isin(a[:_N_COMPARED], b).mean(), np.isin(b[:_N_COMPARED], a).mean()))


def _row_digests(counts: csr_matrix, salts: UInt64[Array, " n_genes"]) -> UInt64[Array, " _"]:
    """Digest the spots: sums of a hash of each gene and count, so in any order; spots with most genes first."""
    lengths, digests = np.diff(counts.indptr), np.zeros(counts.shape[0], dtype=np.uint64)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    for block in _blocks(counts.nnz):
        mixed = _mixed(counts.data[block].astype(np.uint64) + salts[counts.indices[block]])
        np.add.at(digests, rows[block], mixed)
    order = np.argsort(-lengths, kind="stable")
    return _once(digests[order[lengths[order] >= _FEWEST]], is_sorted=False)


def _column_digests(counts: csr_matrix) -> UInt64[Array, " _"]:
    """Digest the genes: sums of a hash of each count, so in any order and under any name."""
    digests = np.zeros(counts.shape[1], dtype=np.uint64)
    for block in _blocks(counts.nnz):
        np.add.at(digests, counts.indices[block], _mixed(counts.data[block].astype(np.uint64)))
    return _once(digests[np.bincount(counts.indices, minlength=len(digests)) >= _FEWEST])


def _blocks(n_entries: int) -> list[slice]:
    """Cut the entries of a matrix into blocks, so that memory stays small."""
    return [slice(start, start + _BLOCK) for start in range(0, n_entries, _BLOCK)]


def _once(digests: UInt64[Array, " n"], *, is_sorted: bool = True) -> UInt64[Array, " _"]:
    """Keep the digests that occur once, sorted or in their order."""
    values, first, n = np.unique(digests, return_index=True, return_counts=True)
    kept: Array = values[n == 1] if is_sorted else digests[np.sort(first[n == 1])]
    return kept


def _mixed(values: UInt64[Array, " n"]) -> UInt64[Array, " n"]:
    """Hash whole numbers (the finaliser of SplitMix64; Steele et al. 2014, doi 10.1145/2660193.2660195)."""
    for shift, factor in _MIXERS:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values
