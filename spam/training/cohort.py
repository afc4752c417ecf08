"""Read sections from the store for training and prediction: features, graph and counts, checked for consistency."""

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from spam.errors import ConfigError, StoreError
from spam.graphs import ensure_spatial_graph
from spam.models.fusion import TokenTable
from spam.schemas.training_config import TrainingConfig
from spam.store import (
    Graph,
    Store,
    StoredRows,
    StoredSection,
    advice_on_names,
    choose_sections,
    readable_spots,
)
from spam.typing import Array, Float, Float64, Rows, Shaped

_LOG = logging.getLogger(__name__)
_ROWS = 8192  # whose features are hashed at a time
_DONORS_TO_SPARE_ONE = 3  # with two donors, holding one out would leave a single one to train on


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpotData:
    """One section as the models see it.

    Attributes
    ----------
    name, donor
        Section and donor.
    features
        Features of all tile sizes side by side, (n_spots, dim), as they are stored: float16 takes half the memory. In memory,
        or read from the store whenever they are needed (`fit_in_memory`).
    xy
        Coordinates (n_spots, 2) in the unit of the graph.
    graph
        Spatial neighbours within the section.
    counts, genes
        Raw counts (n_spots, n_genes) and gene names, or None.
    totals
        Library size over *all* genes of the section, (n_spots,), or None.
    licence
        Licence of counts and images, or None if unstated.
    """

    name: str
    donor: str | None
    features: Float[Rows, "n_spots dim"]
    xy: Float64[Array, "n_spots 2"]
    graph: Graph
    counts: csr_matrix | None
    genes: Shaped[Array, " n_genes"] | None
    totals: Float64[Array, " n_spots"] | None
    licence: str | None = None

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
            message = f"Section {self.name!r} has no counts. Embed it with --h5ad and raw counts to train or score on it."
            raise StoreError(message)
        position = {str(gene): i for i, gene in enumerate(self.genes)}
        missing = [gene for gene in genes if gene not in position]
        if missing:
            message = (
                f"Section {self.name!r} lacks {len(missing)} of {len(genes)} genes (first: {', '.join(missing[:5])}). "
                f"{advice_on_names(self.genes, genes) or 'Train on sections that share the genes.'} Or leave this one out "
                "(--sections)."
            )
            raise StoreError(message)
        return self.counts[:, [position[gene] for gene in genes]]


def split_sections(store: Store, config: TrainingConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the training and of the validation sections; equal if and only if there is a single section.

    Without ``--val-sections``, `held_out_by_default` decides; a single section is later cut into blocks.

    Raises
    ------
    ConfigError
        If no section is left to train on.
    """
    names = choose_sections(store, config.sections)
    if config.val_sections:
        held_out = choose_sections(store, config.val_sections, "--val-sections")
    elif len(names) == 1:
        return names, names
    else:
        held_out = held_out_by_default(names, [store.section(name).meta.donor for name in names])
    train = tuple(name for name in names if name not in held_out)
    if not train:
        message = (
            f"--val-sections {','.join(held_out)} leaves no section to train on. Add some to --sections."
        )
        raise ConfigError(message)
    return train, held_out


def held_out_by_default(names: Sequence[str], donors: Sequence[str | None]) -> tuple[str, ...]:
    """Default validation split: all sections of the last donor if three or more donors are known, else the last section.

    The last donor is held out only if all donors are known and at most half of the sections are this donor's. Accuracy
    and intervals measured on a training donor are too optimistic for other donors ("Intervals for new donors" in
    docs/experiments-log.md). Stage 2 trains on the held-out sections afterwards; stage 1 and `spam adapt` never do.
    """
    own = tuple(name for name, donor in zip(names, donors, strict=True) if donor == donors[-1])
    can_be_spared = None not in donors and len(set(donors)) >= _DONORS_TO_SPARE_ONE
    return own if can_be_spared and 2 * len(own) <= len(names) else tuple(names[-1:])


def fit_in_memory(sections: Sequence[StoredSection], keys: Sequence[str], most_bytes: int) -> bool:
    """Whether the features of all sections take at most these bytes, of ``--memory-budget``."""
    n_bytes = sum(
        section.meta.n_spots * meta.dim * np.dtype(meta.dtype).itemsize
        for section in sections
        for meta in map(section.feature_meta, keys)
    )
    if n_bytes > most_bytes:
        message = "image features (%.2g GB) exceed the memory budget (%.2g GB): they stay in the store and are read when needed"
        _LOG.info(message, n_bytes / 1e9, most_bytes / 1e9)
    return n_bytes <= most_bytes


def read_spots(
    section: StoredSection,
    keys: Sequence[str],
    *,
    k: int,
    with_counts: bool = True,
    is_in_memory: bool = True,
) -> SpotData:
    """Read one section; its graph is built if the store has none of this `k`.

    Spots with unreadable tiles (`readable_spots`) are left out: they are not neighbours of other spots, and no statistic
    includes them.

    Parameters
    ----------
    with_counts
        False does not read the counts, so that predictions cannot depend on them.
    is_in_memory
        False reads features whenever they are needed. All results are the same, bit for bit.

    Raises
    ------
    StoreError
        If no tile of the section could be read, or a part of it is damaged.
    """
    is_readable = readable_spots(section, keys)
    rows = slice(None) if is_readable.all() else is_readable  # a slice makes no copy
    graph = ensure_spatial_graph(section, k=k, is_among=is_readable)
    counts = section.counts()[rows] if with_counts and section.meta.has_counts else None
    features = StoredRows(section, keys, is_readable)
    return SpotData(
        name=section.meta.name,
        donor=section.meta.donor,
        features=features[:] if is_in_memory else features,
        xy=(section.xy_px if section.xy_um is None else section.xy_um)[rows],
        graph=graph,
        counts=counts,
        genes=None if counts is None else section.genes,
        totals=None if counts is None else np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(),
        licence=section.meta.licence,
    )


def data_digest(spots: Sequence[SpotData]) -> str:
    """Hash the inputs of training, so that a run is not resumed on other data; donors are included, because they set the split."""
    digest = hashlib.sha256()
    for section in spots:
        digest.update(f"{section.name}\0{section.donor}\0".encode())
        counts = section.counts
        starts = range(0, section.n_spots, _ROWS)
        arrays = itertools.chain(
            (section.features[start : start + _ROWS] for start in starts),
            [section.xy],
            [] if counts is None else [counts.data, counts.indices, counts.indptr],
        )
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
        if section.genes is not None:
            digest.update("\0".join(str(gene) for gene in section.genes).encode())
    return digest.hexdigest()


def neighbour_table(graph: Graph, xy: Float64[Array, "n 2"], t: int) -> TokenTable:
    """Take the `t` nearest neighbours that the graph of one section holds for each spot.

    A spot with fewer neighbours leaves its last places unused.
    """
    distances = graph.distances.tocoo()
    order = np.lexsort((distances.col, distances.data, distances.row))
    rows, columns = distances.row[order], distances.col[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)  # rank among the neighbours of a spot
    index = np.zeros((len(xy), t), dtype=np.int64)
    is_usable = np.zeros((len(xy), t), dtype=bool)
    taken = place < t
    index[rows[taken], place[taken]] = columns[taken]
    is_usable[rows[taken], place[taken]] = True
    step = (xy[index] - xy[:, None, :]) / (graph.meta.sigma or 1.0)
    length = np.log1p(np.linalg.norm(step, axis=2, keepdims=True))
    relation = np.concatenate([step, length], axis=2) * is_usable[:, :, None]
    return TokenTable(index=index, relation=relation.astype(np.float32), is_usable=is_usable)


def cohort_neighbours(spots: Sequence[SpotData], t: int) -> TokenTable:
    """Concatenate the neighbour tables of several sections; rows count through the cohort."""
    tables = [neighbour_table(s.graph, s.xy, t) for s in spots]
    starts = np.cumsum([0, *(s.n_spots for s in spots[:-1])])
    return TokenTable(
        index=np.concatenate([table.index + start for table, start in zip(tables, starts, strict=True)]),
        relation=np.concatenate([table.relation for table in tables]),
        is_usable=np.concatenate([table.is_usable for table in tables]),
    )
