"""The data of both sides of a fold, and the leak guard between them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from spam.errors import ConfigError, StoreError
from spam.graphs import knn, spatial_knn_graph
from spam.store import StoredSection, advice_on_names, profiles_of
from spam.training.cohort import SpotData
from spam.training.feature_choice import FeatureChoice
from spam.training.genes import GeneChoice, choose_genes
from spam.training.groups import N_BLOCKS, duplicates_of, spatial_blocks
from spam.typing import Array, Bool

from .boards import SectionTruth
from .fold_plan import Fold

_NEAR_DUPLICATE = 0.999  # cosine; identical pixels are above, recompressed ones at .985 or more


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldSides:
    """Both sides of a fold, with all measurements.

    Attributes
    ----------
    fold
        Its plan.
    train, test
        Sections, or parts of a single section.
    n_dropped
        Spots of a single section on neither side, see `block_roles`.
    buffer
        Minimum distance of training and test spots of one section, in the unit of its coordinates; 0 between sections.
    """

    fold: Fold
    train: tuple[SpotData, ...]
    test: tuple[SpotData, ...]
    n_dropped: int = 0
    buffer: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldTask:
    """One fold as a method sees it, without the expression of the test sections.

    Attributes
    ----------
    name
        Name of the fold.
    train
        Sections (or parts of a single section) with counts, to fit on.
    test
        Sections (or a part of a single section) to predict: images and coordinates, no counts.
    genes
        Genes to predict, in order, and the scored gene sets; chosen on `train` alone.
    features
        Feature arrays that are concatenated in ``SpotData.features``.
    k
        Spatial neighbours in the graphs.
    """

    name: str
    train: tuple[SpotData, ...]
    test: tuple[SpotData, ...]
    genes: GeneChoice
    features: FeatureChoice
    k: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldData:
    """The task of a fold, and the measurements of the task's genes by test section."""

    task: FoldTask
    truths: Mapping[str, SectionTruth]


def split_fold(
    fold: Fold, spots: Mapping[str, SpotData], *, k: int, tile_widths: Mapping[str, float]
) -> FoldSides:
    """Take the sections of both sides, or cut a single section into them with a buffer in between.

    Parameters
    ----------
    spots
        Sections of the benchmark by name, with counts.
    k
        Spatial neighbours in the graphs of the parts.
    tile_widths
        Side of the largest tile of each section that is cut, in the unit of its coordinates.

    Raises
    ------
    ConfigError
        If the buffer leaves fewer than two training spots.
    """
    if fold.block is None:
        train, test = (tuple(spots[name] for name in names) for names in (fold.train, fold.test))
        return FoldSides(fold=fold, train=train, test=test)
    section = spots[fold.test[0]]
    # Tiles whose centres are at least a diagonal apart share no pixel in any direction.
    buffer = float(np.sqrt(2)) * tile_widths[section.name]
    is_train, is_test = block_roles(section, fold.block, buffer)
    if is_train.sum() < 2:
        message = (
            f"Fold {fold.name!r}: a buffer of {buffer:.0f} {section.graph.meta.unit} leaves {int(is_train.sum())} of "
            f"{section.n_spots} spots to train on. Use smaller tiles (--tile-um), fewer neighbours (--k), or --by section."
        )
        raise ConfigError(message)
    return FoldSides(
        fold=fold,
        train=(part_of_section(section, is_train, k=k),),
        test=(part_of_section(section, is_test, k=k),),
        n_dropped=int((~is_train & ~is_test).sum()),
        buffer=buffer,
    )


def part_of_section(section: SpotData, rows: Bool[Array, " n_spots"], *, k: int) -> SpotData:
    """Take some spots of a section; the graph is rebuilt on these spots alone."""
    unit: Literal["px", "um"] = "px" if section.graph.meta.unit == "px" else "um"
    return dataclasses.replace(
        section,
        features=section.features[rows],
        xy=section.xy[rows],
        graph=spatial_knn_graph(section.xy[rows], k=k, unit=unit),
        counts=None if section.counts is None else section.counts[rows],
        totals=None if section.totals is None else section.totals[rows],
    )


def block_roles(
    section: SpotData, block: int, buffer: float
) -> tuple[Bool[Array, " n_spots"], Bool[Array, " n_spots"]]:
    """Assign the spots of a section to training and test side.

    Spots closer than `buffer` to a test spot, or joined to one in the section's graph, are on neither side.
    """
    is_test = spatial_blocks(section.xy, N_BLOCKS) == block
    edges = section.graph.distances
    pattern = csr_matrix((np.ones(len(edges.indices)), edges.indices, edges.indptr), shape=edges.shape)
    is_joined = (pattern + pattern.T) @ is_test.astype(np.float64) > 0
    distance = knn(section.xy[is_test], section.xy, k=1).distances[:, 0]
    return ~is_test & ~is_joined & (distance >= buffer), is_test


def tile_width(section: StoredSection, keys: Sequence[str]) -> float:
    """Side of the largest tile of some features, in the unit of the section's coordinates (µm, or pixels without µm).

    Raises
    ------
    StoreError
        If it is unknown.
    """
    mpp = section.meta.mpp if section.xy_um is not None else None
    widths = []
    for key in keys:
        tile = section.feature_meta(key).tile
        um, px = tile["tile_um"], tile["tile_px"]
        width = (um if um else px * mpp) if mpp else px
        if width is None:
            message = (
                f"Tiles of {key!r} are measured in µm, coordinates of section {section.meta.name!r} in pixels: the buffer "
                "between blocks is undefined. Embed the section with --mpp."
            )
            raise StoreError(message)
        widths.append(float(width))
    return max(widths)


def build_fold(sides: FoldSides, features: FeatureChoice, *, k: int, n_top: int) -> FoldData:
    """Choose the `n_top` most variable genes on the training side, and remove the measurements of the test side.

    Raises
    ------
    StoreError
        If genes cannot be chosen, or a test section has counts of none of them.
    """
    genes = choose_genes(sides.train, n_top=n_top)
    blind = tuple(dataclasses.replace(part, counts=None, genes=None, totals=None) for part in sides.test)
    task = FoldTask(name=sides.fold.name, train=sides.train, test=blind, genes=genes, features=features, k=k)
    return FoldData(task=task, truths={part.name: _truth_of(part, genes.genes) for part in sides.test})


def _truth_of(part: SpotData, genes: Sequence[str]) -> SectionTruth:
    known = set() if part.genes is None else {str(gene) for gene in part.genes}
    measured = [gene for gene in genes if gene in known]
    if not measured or part.totals is None or not part.totals.any():
        message = (
            f"Section {part.name!r} has counts of none of the {len(genes)} training genes ({', '.join(genes[:3])}, ...). "
            f"{advice_on_names(sorted(known), genes) or 'Use the same gene names in all sections.'} Or leave it out (--sections)."
        )
        raise StoreError(message)
    return SectionTruth(
        counts=part.counts_of(measured),
        genes=np.asarray(measured),
        totals=part.totals,
        weights=part.graph.connectivities,
    )


def refuse_adapted(folds: Sequence[Fold], features: FeatureChoice) -> None:
    """Refuse features of an encoder that was adapted on counts of a test section.

    Raises
    ------
    ConfigError
        Naming the sections.
    """
    tested = {name for fold in folds for name in fold.test}
    if seen := [name for name in features.adapted_on if name in tested]:
        message = (
            f"The encoder of features {', '.join(features.keys)} was adapted on counts of test sections {', '.join(seen)}. "
            "Choose other features (--enc-name), or other test sections (--train-sections, --test-sections)."
        )
        raise ConfigError(message)


def refuse_duplicates(spots: Sequence[SpotData]) -> None:
    """Refuse the same tissue under two names: it would be trained on and tested.

    Raises
    ------
    ConfigError
        Naming all such pairs.
    """
    shared = sorted(set.intersection(*({*s.genes.tolist()} for s in spots if s.genes is not None)))
    profiles = [profiles_of(s.counts, s.genes, s.features, among=shared) for s in spots]
    if found := [sentence for *_, sentence in duplicates_of(spots, profiles)]:
        listed = "; ".join(found)
        message = f"{listed[0].upper()}{listed[1:]}. Leave one of each pair out with --sections (or --train-sections)."
        raise ConfigError(message)


def describe_leakage(sides: Sequence[FoldSides], *, only_buffers: bool = False) -> list[str]:
    """List what both sides of the folds share: donors, near-duplicate spots, the buffer of a cut section.

    Each finding is one sentence that starts with the names of its folds.
    """
    folds: dict[str, list[str]] = {}
    for each in sides:
        for sentence in _buffer_of(each) if only_buffers else [*_buffer_of(each), *_shared_by(each)]:
            folds.setdefault(sentence, []).append(each.fold.name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in folds.items()]


def near_duplicates(sides: FoldSides) -> dict[str, float]:
    """Fraction of the spots of each test section with nearly the features (cosine above 0.999) of a training spot."""
    bank = np.concatenate([spots.features for spots in sides.train])
    distances = {s.name: knn(bank, s.features[:], k=1, metric="cosine").distances for s in sides.test}
    return {name: float((d < 1 - _NEAR_DUPLICATE).mean()) for name, d in distances.items()}


def shared_donors(sides: FoldSides) -> set[str | None]:
    """Return the known donors on both sides of a fold."""
    return {spots.donor for spots in sides.train} & {spots.donor for spots in sides.test} - {None}


def _buffer_of(sides: FoldSides) -> list[str]:
    if not sides.buffer:
        return []
    unit = "µm" if sides.test[0].graph.meta.unit == "um" else "px"
    return [
        f"training spots are at least {sides.buffer:.0f} {unit} from test spots and not joined to any in the graph; "
        f"{sides.n_dropped} spots in between are on neither side"
    ]


def _shared_by(sides: FoldSides) -> list[str]:
    lines = [
        f"{share:.1%} of the spots of {section} have nearly the features of a training spot (cosine above "
        f"{_NEAR_DUPLICATE}): check that the same tissue is not stored under two names"
        for section, share in near_duplicates(sides).items()
        if share > 0
    ]
    if sides.buffer:
        return lines
    if donors := shared_donors(sides):
        lines.insert(
            0,
            f"donor {', '.join(sorted(map(str, donors)))} is on both sides: no evidence for other donors, and serial sections of "
            "one tissue block are easy to predict",
        )
    if unknown := [spots.name for spots in (*sides.train, *sides.test) if spots.donor is None]:
        lines.insert(
            0,
            f"the donor of {', '.join(unknown)} is unknown (spam embed --donor): if a donor is on both sides, this is no "
            "evidence for other donors",
        )
    return lines
