"""The same tissue under two names: sections compared by digests of their counts and of their image features."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix

from spam.typing import Array, Num, Shaped, UInt64

from .feature_store import Store

_N_COMPARED = 64  # digests of a section that are looked up in another, and kept in a checkpoint
_FEWEST = 8  # counts above 0 in a profile; shorter ones may be equal by chance
# A subset of a section has all of its profiles in the whole, so only a partial overlap is below 1.
_SAME_SPOTS, _SAME_GENES = 0.1, 0.5
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
    features: Num[Array, "n_spots dim"] | None = None,
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
        counts = csr_matrix(counts, copy=True)
        counts.eliminate_zeros()
        by_gene = _digests(counts.tocsc(), np.zeros(counts.shape[0], dtype=np.uint64), is_richest_first=False)
        if among is not None:
            place = {name: i for i, name in enumerate(names)}
            names = [str(gene) for gene in among]
            columns = [place[name] for name in names if name in place]
            counts = counts[:, columns if len(columns) == len(names) else []]
        salts = [int.from_bytes(hashlib.blake2b(n.encode(), digest_size=8).digest()) for n in names]
        spots = _digests(counts, np.array(salts, dtype=np.uint64), is_richest_first=True)
    if features is not None:
        rows = np.ascontiguousarray(features)
        hashed = [int.from_bytes(hashlib.blake2b(row, digest_size=8).digest()) for row in rows]
        images = _once(np.array(hashed, dtype=np.uint64))
    return Profiles(spots=spots, genes=by_gene, images=images)


def duplicates_in(store: Store, name: str, counts: csr_matrix, genes: Shaped[Array, " n_genes"]) -> list[str]:
    """Find sections of a store with other names that hold the same counts, in any order of spots and genes.

    Counts are read only of sections in which most of the shared genes occur in as many spots.
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
        if pairs and np.mean([a == b for a, b in pairs]) > _SAME_GENES:
            shared = [gene for gene in section.genes.tolist() if gene in n_spots_of]
            own = profiles_of(counts, genes, among=shared)
            if own.share_of_counts(profiles_of(section.counts(), section.genes, among=shared)):
                found.append(section.meta.name)
    return found


def _share(a: UInt64[Array, " _"], b: UInt64[Array, " _"]) -> float:
    if not (len(a) and len(b)):
        return 0.0
    return float(max(np.isin(a[:_N_COMPARED], b).mean(), np.isin(b[:_N_COMPARED], a).mean()))


def _digests(
    matrix: csr_matrix, salts: UInt64[Array, " n"], *, is_richest_first: bool
) -> UInt64[Array, " _"]:
    """Digest the rows of a CSR (columns of a CSC) matrix: sums of hashes of each entry, so in any order."""
    entries = _mixed(matrix.data.astype(np.uint64) + salts[matrix.indices])
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(entries, dtype=np.uint64)])
    digests, lengths = sums[matrix.indptr[1:]] - sums[matrix.indptr[:-1]], np.diff(matrix.indptr)
    order = np.argsort(-lengths, kind="stable") if is_richest_first else np.arange(len(lengths))
    order = order[lengths[order] >= _FEWEST]
    return _once(digests[order], is_sorted=not is_richest_first)


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
