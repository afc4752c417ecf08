"""What a trainer reads from the store: sections with their features, graph and counts, checked to fit together."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from spam.errors import ConfigError, StoreError
from spam.graphs import ensure_spatial_graph
from spam.models.fusion import TokenTable
from spam.schemas.store_meta import UNKNOWN_WEIGHTS, FeatureMeta
from spam.schemas.training_config import TrainingConfig
from spam.store import Graph, Store, StoredSection, readable_spots
from spam.typing import Array, Float32, Float64, Shaped

_DONORS_TO_SPARE_ONE = 3  # of two, the other one alone would be trained on at first


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureChoice:
    """Which feature arrays are used together.

    Attributes
    ----------
    encoder
        Name of the encoder.
    weights_sha256
        Digest of its weights.
    keys
        Feature keys, one per tile size, from the smallest tile to the largest.
    tiles
        Tile spec of each key, as a mapping.
    dims
        Length of each key's vectors.
    is_averaged
        Whether features are means over the symmetries of the tile.
    adapted_on
        Sections whose counts the encoder has seen, see `FeatureMeta`.
    """

    encoder: str
    weights_sha256: str
    keys: tuple[str, ...]
    tiles: tuple[dict[str, object], ...]
    dims: tuple[int, ...]
    is_averaged: bool = False
    adapted_on: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpotData:
    """One section as the models see it.

    Attributes
    ----------
    name, donor
        Section and donor.
    features
        Features of all tile sizes side by side, (n_spots, dim).
    xy
        Coordinates (n_spots, 2) in the unit of the graph.
    graph
        Spatial neighbours within the section.
    counts
        Raw counts (n_spots, n_genes) of `genes`, or None.
    genes
        Gene names, or None.
    totals
        Library size over *all* genes of the section, (n_spots,), or None.
    """

    name: str
    donor: str | None
    features: Float32[Array, "n_spots dim"]
    xy: Float64[Array, "n_spots 2"]
    graph: Graph
    counts: csr_matrix | None
    genes: Shaped[Array, " n_genes"] | None
    totals: Float64[Array, " n_spots"] | None

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return len(self.features)

    def counts_of(self, genes: Sequence[str]) -> csr_matrix:
        """Raw counts of the named genes, in their order.

        Raises
        ------
        StoreError
            If the section has no counts, or lacks some of the genes.
        """
        if self.counts is None or self.genes is None:
            message = f"section {self.name!r} has no counts; embed it with --h5ad and raw counts to train or score on it"
            raise StoreError(message)
        position = {str(gene): i for i, gene in enumerate(self.genes)}
        missing = [gene for gene in genes if gene not in position]
        if missing:
            message = (
                f"section {self.name!r} lacks {len(missing)} of {len(genes)} genes (first: {', '.join(missing[:5])}); "
                "train again on sections that share the genes, or leave this one out with --sections"
            )
            raise StoreError(message)
        return self.counts[:, [position[gene] for gene in genes]]


def choose_sections(store: Store, config: TrainingConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Settle which sections are trained on and which are held out.

    Without ``--val-sections`` `held_out_by_default` decides; a lone section is both, and is later cut into blocks.

    Returns
    -------
    Names of the training and of the validation sections; they are equal if and only if there is one section.

    Raises
    ------
    ConfigError
        If a section is not in the store, or none is left to train on.
    """
    names = config.sections or store.section_names
    unknown = [name for name in (*names, *config.val_sections) if name not in store.section_names]
    if unknown:
        message = (
            f"--sections: {', '.join(map(repr, unknown))} not in store {store.address!r}, which has "
            f"{', '.join(store.section_names) or 'no section'}; embed them with `spam embed`"
        )
        raise ConfigError(message)
    if not names:
        message = f"store {store.address!r} has no section yet; fill it with `spam embed`"
        raise ConfigError(message)
    if len(set(names)) < len(names):
        message = f"--sections names a section twice: {', '.join(names)}"
        raise ConfigError(message)
    if not config.val_sections and len(names) == 1:
        return names, names
    held_out = config.val_sections or held_out_by_default(
        names, [store.section(name).meta.donor for name in names]
    )
    train = tuple(name for name in names if name not in held_out)
    if not train:
        message = (
            f"--val-sections {','.join(held_out)} leaves no section to train on; name more in --sections"
        )
        raise ConfigError(message)
    return train, held_out


def held_out_by_default(names: Sequence[str], donors: Sequence[str | None]) -> tuple[str, ...]:
    """Name the sections that are held out where nobody says which: all of the last one's donor, or the last one alone.

    A whole donor where three or more are known, all of them, and at most half of the sections are this donor's: accuracy
    and intervals that are measured on a donor who is trained on are too good for others ("Intervals for new donors" in
    docs/experiments.md). Stage 2 trains on them afterwards; stage 1 and `spam adapt` never do.
    """
    own = tuple(name for name, donor in zip(names, donors, strict=True) if donor == donors[-1])
    can_be_spared = None not in donors and len(set(donors)) >= _DONORS_TO_SPARE_ONE
    return own if can_be_spared and 2 * len(own) <= len(names) else tuple(names[-1:])


def choose_features(
    sections: Sequence[StoredSection],
    enc_name: str | None,
    tile_um: Sequence[float],
    *,
    is_averaged: bool = False,
) -> FeatureChoice:
    """Settle which features every one of `sections` has and the options ask for.

    Means over symmetries are never mixed with plain features: `is_averaged` chooses, unless the store has one kind only.

    Raises
    ------
    StoreError
        If the choice is open (several encoders), empty, or differs between the sections; says what is there.
    """
    metas = {s.meta.name: {key: s.feature_meta(key) for key in s.feature_keys} for s in sections}
    there = "; ".join(f"{name}: {', '.join(found) or 'nothing finished'}" for name, found in metas.items())
    shared = set.intersection(*(set(found) for found in metas.values()))
    first = metas[sections[0].meta.name]
    chosen = [
        first[key] for key in sorted(shared) if enc_name is None or first[key].encoder["name"] == enc_name
    ]
    if tile_um:
        chosen = [meta for meta in chosen if meta.tile["tile_um"] in tile_um]
        _require_sizes(chosen, tile_um, there)
    encoders = sorted({meta.encoder["name"] for meta in chosen})
    if len(encoders) != 1:
        problem = (
            f"have features of {len(encoders)} encoders ({', '.join(encoders)})"
            if encoders
            else "share no features"
        )
        message = f"the sections {problem} ({there}); choose one with --enc-name, or run `spam embed` for what is missing"
        raise StoreError(message)
    kinds = {meta.is_averaged for meta in chosen}
    if is_averaged and True not in kinds:
        message = (
            f"The sections share no features of {encoders[0]!r} made with --dihedral ({there}). Leave --dihedral out, or "
            "run: spam embed --dihedral"
        )
        raise StoreError(message)
    is_averaged = is_averaged or False not in kinds
    chosen = [meta for meta in chosen if meta.is_averaged == is_averaged]
    _require_sizes(chosen, tile_um, there)
    for key in (meta.key for meta in chosen):
        digests = {found[key].weights_sha256 or UNKNOWN_WEIGHTS for found in metas.values()}
        if len(digests) > 1:
            message = (
                f"features {key!r} were made with different weights in different sections "
                f"({', '.join(sorted(d[:8] for d in digests))}…); embed them again with --overwrite"
            )
            raise StoreError(message)
    chosen.sort(key=lambda meta: (meta.tile["tile_um"] or meta.tile["tile_px"], meta.key))
    return FeatureChoice(
        encoder=encoders[0],
        weights_sha256=chosen[0].weights_sha256 or UNKNOWN_WEIGHTS,
        keys=tuple(meta.key for meta in chosen),
        tiles=tuple(meta.tile for meta in chosen),
        dims=tuple(meta.dim for meta in chosen),
        is_averaged=chosen[0].is_averaged,
        adapted_on=tuple(dict.fromkeys(name for meta in chosen for name in meta.adapted_on)),
    )


def _require_sizes(chosen: Sequence[FeatureMeta], tile_um: Sequence[float], there: str) -> None:
    absent = set(tile_um) - {meta.tile["tile_um"] for meta in chosen}
    if absent:
        message = (
            f"no features of tiles of {', '.join(f'{um:g} µm' for um in sorted(absent))} that all sections share "
            f"({there}); embed them with `spam embed --tile-um`"
        )
        raise StoreError(message)


def read_spots(section: StoredSection, keys: Sequence[str], *, k: int, with_counts: bool = True) -> SpotData:
    """Read one section; its graph is built if the store has none of this `k`.

    Spots whose tiles could not be read are left out as if they had never been measured (`readable_spots` tells which):
    they are nobody's neighbours, and no statistic counts them.

    Parameters
    ----------
    with_counts
        False reads nothing of the counts: prediction cannot touch what it has not read.

    Raises
    ------
    StoreError
        If no tile of the section could be read, or a part of it is damaged.
    """
    is_readable = readable_spots(section, keys)
    graph = ensure_spatial_graph(section, k=k, is_among=is_readable)
    counts = section.counts()[is_readable] if with_counts and section.meta.has_counts else None
    return SpotData(
        name=section.meta.name,
        donor=section.meta.donor,
        features=np.concatenate([section.features(key) for key in keys], axis=1)[is_readable],
        xy=(section.xy_px if section.xy_um is None else section.xy_um)[is_readable],
        graph=graph,
        counts=counts,
        genes=None if counts is None else section.genes,
        totals=None if counts is None else np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(),
    )


def data_digest(spots: Sequence[SpotData]) -> str:
    """Hash what training sees, so that a run is not resumed on other data."""
    digest = hashlib.sha256()
    for section in spots:
        digest.update(
            f"{section.name}\0{section.donor}\0".encode()
        )  # donors decide which sections are held out
        digest.update(np.ascontiguousarray(section.features).tobytes())
        digest.update(np.ascontiguousarray(section.xy).tobytes())
        if section.counts is not None and section.genes is not None:
            counts = section.counts
            digest.update(counts.data.tobytes() + counts.indices.tobytes() + counts.indptr.tobytes())
            digest.update("\0".join(str(gene) for gene in section.genes).encode())
    return digest.hexdigest()


def neighbour_table(graph: Graph, xy: Float64[Array, "n 2"], t: int) -> TokenTable:
    """Take the `t` nearest neighbours that the graph of one section holds for each spot.

    A spot with fewer neighbours leaves its last places unused.
    """
    n = len(xy)
    index = np.zeros((n, t), dtype=np.int64)
    is_usable = np.zeros((n, t), dtype=bool)
    distances = graph.distances.tocsr()
    for i in range(n):
        columns = distances.indices[distances.indptr[i] : distances.indptr[i + 1]]
        values = distances.data[distances.indptr[i] : distances.indptr[i + 1]]
        nearest = columns[np.lexsort((columns, values))][:t]
        index[i, : len(nearest)], is_usable[i, : len(nearest)] = nearest, True
    unit = graph.meta.sigma or 1.0
    step = (xy[index] - xy[:, None, :]) / unit
    length = np.log1p(np.linalg.norm(step, axis=2, keepdims=True))
    offset = np.concatenate([step, length], axis=2) * is_usable[:, :, None]
    return TokenTable(index=index, relation=offset.astype(np.float32), is_usable=is_usable)


def cohort_neighbours(spots: Sequence[SpotData], t: int) -> TokenTable:
    """Put the tables of several sections under one another; rows count through the cohort."""
    tables = [neighbour_table(s.graph, s.xy, t) for s in spots]
    starts = np.cumsum([0, *(s.n_spots for s in spots)])[:-1]
    return TokenTable(
        index=np.concatenate([table.index + start for table, start in zip(tables, starts, strict=True)]),
        relation=np.concatenate([table.relation for table in tables]),
        is_usable=np.concatenate([table.is_usable for table in tables]),
    )
