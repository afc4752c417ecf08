"""The cohort in memory, as both stages train on it, and its metadata in a checkpoint."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.sparse import block_diag, csr_array, csr_matrix, vstack

from spam.errors import CheckpointError, ConfigError
from spam.memory import budget_bytes
from spam.models.expression import dense, sparse_log1p_cp10k
from spam.models.fusion import TokenTable, retrieve
from spam.models.inputs import InputTransform, SectionContext, contexts_of
from spam.models.rate_path import group_means
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.config import flag
from spam.schemas.training_config import FinetuneConfig, TrainingConfig
from spam.store import Profiles, describe_losses, open_store, profiles_of
from spam.typing import Array, Bool, Float, Float32, Float64, Int64, Shaped
from spam.versions import software_versions

from .cohort import SpotData, data_digest, fit_in_memory, read_spots, split_sections
from .feature_choice import FeatureChoice, check_features, choose_shared_features
from .genes import GeneChoice, choose_genes
from .groups import Groups, assign_groups, at_most, check_duplicates, folds_of

_LOG = logging.getLogger(__name__)
_MOST_VALIDATED = 8192  # spots; the mean correlation over genes is then known to a few thousandths

# Options that do not change the result of an epoch, so that a run can resume with other values of them.
NOT_IN_DIGEST = (
    *("store", "save_dir", "device", "num_workers", "overwrite", "epochs", "pretrained_ckpt"),
    *("grad_checkpointing", "memory_budget"),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSet:
    """All spots of a cohort side by side, section after section.

    Attributes
    ----------
    spots
        The sections.
    features
        Which features were used.
    genes
        Modelled genes and their subsets.
    groups
        Group and role of every spot.
    contexts
        Context features of each section, that `transform` is fitted on.
    n_components
        Components to keep.
    given_transform
        Transform of a pretrained checkpoint, in place of a fitted one.
    counts, totals
        Raw counts of the modelled genes (n, n_genes); library size over all genes (n,).
    expression
        Log1p(CP10k), (n, n_genes).
    digest
        Hash of the data that were read.
    profiles
        Digests of each section, over the modelled genes.
    """

    spots: tuple[SpotData, ...]
    features: FeatureChoice
    genes: GeneChoice
    groups: Groups
    contexts: tuple[SectionContext, ...]
    n_components: int
    given_transform: InputTransform | None
    counts: csr_matrix
    totals: Float64[Array, " n"]
    expression: csr_array
    digest: str
    profiles: tuple[Profiles, ...]

    @functools.cached_property
    def transform(self) -> InputTransform:
        """From context features to `inputs`, fitted without the held-out spots.

        These stand for new tissue: with few spots, minor components describe the spots that they were fitted on, and new
        tissue hardly varies along them.
        """
        is_fitted = _by_section(~self.groups.is_val, self.spots)
        return self.given_transform or InputTransform.fit(
            self.contexts, self.n_components, is_fitted=is_fitted
        )

    @functools.cached_property
    def inputs(self) -> Float32[Array, "n q"]:
        """Image inputs."""
        sections = zip(self.spots, self.contexts, strict=True)
        return np.concatenate(
            [self.transform.apply(s.features, s.graph.connectivities, context) for s, context in sections]
        )

    @functools.cached_property
    def level(self) -> Float32[Array, "n_sections n_genes"]:
        """Mean expression of each section over training spots (over all spots if the whole section is held out).

        Spots without counts are not part of a mean.
        """
        has_counts = self.totals > 0
        is_train = has_counts & ~self.groups.is_val
        is_mixed = np.isin(self.section_of, self.section_of[is_train])
        rows = np.flatnonzero(np.where(is_mixed, is_train, has_counts))
        level = np.zeros((len(self.spots), self.counts.shape[1]), dtype=np.float32)
        if len(rows):
            level[np.unique(self.section_of[rows])] = group_means(
                self.expression[rows], self.section_of[rows]
            )
        return level

    def features_of(self, rows: Int64[Array, " b"], *, dim: int | None = None) -> Float[Array, "b d"]:
        """Features of some spots (ascending), or the first `dim` of them."""
        starts = np.cumsum([0, *(s.n_spots for s in self.spots)])
        cuts = np.searchsorted(rows, starts)
        parts = zip(self.spots, starts[:-1], itertools.pairwise(cuts), strict=True)
        return np.concatenate([s.features[rows[a:b] - start, :dim] for s, start, (a, b) in parts])

    def expression_of(self, rows: Int64[Array, " b"]) -> Float32[Array, "b n_genes"]:
        """Expression of some spots."""
        return dense(self.expression[rows])

    def centred_of(self, rows: Int64[Array, " b"]) -> Float32[Array, "b n_genes"]:
        """Expression of some spots minus the `level` of their section."""
        centred: Array = self.expression_of(rows) - self.level[self.section_of[rows]]
        return centred

    @functools.cached_property
    def train_rows(self) -> Int64[Array, " n_train"]:
        """Rows that are trained on: not held out, and with at least one count."""
        return np.flatnonzero(~self.groups.is_val & (self.totals > 0))

    @functools.cached_property
    def val_rows(self) -> Int64[Array, " n_val"]:
        """Rows that validate: held out, with at least one count; a random sample of them if there are more than 8192."""
        return at_most(np.flatnonzero(self.groups.is_val & (self.totals > 0)), _MOST_VALIDATED)

    def step_size(self, config: TrainingConfig) -> int:
        """Spots times genes of a training step."""
        return config.batch_for(min(len(self.train_rows), config.spots_per_epoch)) * len(self.genes.genes)

    @property
    def held_out_sections(self) -> tuple[str, ...]:
        """Names of the sections with a held-out spot."""
        return self.sections_of(self.groups.is_val)

    def sections_of(self, rows: Bool[Array, " n"]) -> tuple[str, ...]:
        """Names of the sections with any of these spots."""
        return tuple(self.spots[i].name for i in np.unique(self.section_of[rows]))

    @functools.cached_property
    def section_of(self) -> Int64[Array, " n"]:
        """Number of each spot's section."""
        return np.repeat(np.arange(len(self.spots)), [s.n_spots for s in self.spots])

    @functools.cached_property
    def weights(self) -> csr_matrix:
        """Spatial weights (n, n); no edge between sections."""
        return csr_matrix(block_diag([s.graph.connectivities for s in self.spots], format="csr"))


def build_training_set(
    config: TrainingConfig, pretrained: tuple[CheckpointMeta, InputTransform] | None = None
) -> TrainingSet:
    """Read, check and prepare all that a stage trains on.

    Genes are chosen on the sections of the run, and the principal components come from their images; sections to be
    predicted later are in neither. After pretraining, both are those of the pretrained checkpoint, because its weights
    depend on them.

    Raises
    ------
    ConfigError, StoreError
        If sections, features or genes do not fit together, or the same tissue is held out and trained on, or has two donors.
    CheckpointError
        If the pretrained checkpoint was made from other features.
    """
    assert config.store is not None  # checked by the configuration
    store = open_store(config.store)
    train, held_out = split_sections(store, config)
    sections = [store.section(name) for name in dict.fromkeys((*train, *held_out))]
    features = choose_shared_features(sections, config.enc_name, config.tile_um, is_averaged=config.dihedral)
    if pretrained is not None:
        check_features(pretrained[0], features)
        _check_as_pretrained(pretrained[0], config)
    is_in_memory = fit_in_memory(sections, features.keys, budget_bytes(config.memory_budget))
    spots = tuple(read_spots(s, features.keys, k=config.k, is_in_memory=is_in_memory) for s in sections)
    lines, is_low = describe_losses({s.name: s.genes.tolist() for s in spots if s.genes is not None})
    for line in lines:
        _LOG.log(logging.WARNING if is_low else logging.INFO, "%s", line)
    data = training_set_of(
        spots,
        features,
        config,
        held_out=held_out if held_out != train else (),
        genes=None
        if pretrained is None
        else GeneChoice(genes=pretrained[0].genes, sets=pretrained[0].gene_sets),
        transform=None if pretrained is None else pretrained[1],
    )
    folds = (data.groups,) if has_one_split(config, features) else folds_of(spots, data.totals)
    check_duplicates(spots, data.profiles, [data.sections_of(groups.is_val) for groups in folds])
    return data


def has_one_split(config: TrainingConfig, features: FeatureChoice) -> bool:
    """Whether one set of spots is held out: that of the options, or the one that `spam adapt` left out, too.

    Otherwise each donor, section or block is held out in turn.
    """
    if not isinstance(config, FinetuneConfig):
        return True
    return bool(config.val_sections or features.adapted_on)


def training_set_of(
    spots: tuple[SpotData, ...],
    features: FeatureChoice,
    config: TrainingConfig,
    *,
    held_out: Sequence[str] = (),
    genes: GeneChoice | None = None,
    transform: InputTransform | None = None,
) -> TrainingSet:
    """Prepare spots that were already read.

    Parameters
    ----------
    spots
        Sections with counts.
    features
        Which arrays are concatenated in their features.
    held_out
        Sections that are held out; a block of it if there is a single section.
    genes, transform
        Those of a pretrained checkpoint; None chooses the genes and fits the components on these sections.

    Raises
    ------
    StoreError
        If a section has no counts, or the sections share no gene that can be modelled.
    """
    genes = genes or choose_genes(
        spots, n_top=config.n_top_genes if config.use_hvg else None, also=config.genes
    )
    counts = csr_matrix(vstack([s.counts_of(genes.genes) for s in spots]))
    counts.sort_indices()  # expression shares their order
    totals = np.concatenate([s.totals for s in spots if s.totals is not None])
    return TrainingSet(
        spots=spots,
        features=features,
        genes=genes,
        groups=assign_groups(spots, held_out),
        contexts=contexts_of([(s.features, s.graph.connectivities) for s in spots]),
        n_components=config.n_components,
        given_transform=transform,
        counts=counts,
        totals=totals,
        expression=sparse_log1p_cp10k(counts, totals),
        digest=data_digest(spots),
        profiles=tuple(profiles_of(s.counts_of(genes.genes), genes.genes, s.features) for s in spots),
    )


def _by_section(values: Array, spots: Sequence[SpotData]) -> list[Array]:
    return np.split(values, np.cumsum([s.n_spots for s in spots])[:-1])


def _check_as_pretrained(meta: CheckpointMeta, config: TrainingConfig) -> None:
    """Refuse genes or components that differ from those of pretraining, if they are given explicitly."""
    other = [
        f"{flag(field.name)} {getattr(config, field.name)} (pretrained: {meta.config[field.name]})"
        for field in dataclasses.fields(config)
        if field.name in ("use_hvg", "n_top_genes", "n_components")
        and getattr(config, field.name) not in (field.default, meta.config[field.name])
    ]
    other += [f"--genes {gene}" for gene in config.genes if gene not in meta.genes][:3]
    if other:
        message = (
            f"Genes and components are those of the pretrained checkpoint, which was made with other options: "
            f"{', '.join(other)}. Leave these out, or pretrain again with them."
        )
        raise CheckpointError(message)


def retrieve_across_groups(data: TrainingSet, k: int) -> TokenTable:
    """Retrieve references of every spot among the training spots of *other* groups; rows refer to the training set."""
    n = len(data.inputs)
    index = np.zeros((n, k), dtype=np.int64)
    similarity = np.zeros((n, k, 1), dtype=np.float32)
    is_usable = np.zeros((n, k), dtype=bool)
    for g in np.unique(data.groups.group):
        rows = np.flatnonzero(data.groups.group == g)
        bank = data.train_rows[data.groups.group[data.train_rows] != g]
        found = retrieve(data.inputs[rows], data.inputs[bank], k)
        index[rows], similarity[rows], is_usable[rows] = bank[found.index], found.relation, found.is_usable
    return TokenTable(index=index, relation=similarity, is_usable=is_usable)


def random_order(
    rows: Int64[Array, " n"], data: TrainingSet, rng: np.random.Generator, *, balance_donors: bool
) -> Int64[Array, " n_visits"]:
    """Shuffle rows of `data`: all of them, or a random draw of equally many of every donor.

    Balanced, donors take turns, so that every batch has equally many rows of each, or one more of some. No row comes
    twice, because a batch must not contrast a spot with itself.
    """
    shuffled: Array = rng.permutation(rows)
    return balanced(shuffled, _donor_of(data)[shuffled]) if balance_donors else shuffled


def balanced(rows: Int64[Array, " n"], label: Shaped[Array, " n"]) -> Int64[Array, " n_visits"]:
    """Interleave the first rows of each label, as many of each as the rarest label has."""
    each = [rows[label == one] for one in np.unique(label)]
    turns: Array = np.stack([one[: min(map(len, each))] for one in each], axis=1)
    return turns.ravel()


def check_donors(rows: Int64[Array, " n"], data: TrainingSet) -> None:
    """Refuse to balance a single donor.

    Raises
    ------
    ConfigError
        Naming the donor of all rows.
    """
    donors = np.unique(_donor_of(data)[rows])
    if len(donors) < 2:
        message = (
            f"--balance-donors needs two donors, but all training spots are from {str(donors[0])!r}. Leave it out, or name "
            "sections of other donors in --sections."
        )
        raise ConfigError(message)


def _donor_of(data: TrainingSet) -> Shaped[Array, " n"]:
    """Donor of each spot; a section without a donor counts as one."""
    donors: Array = np.array([s.donor or s.name for s in data.spots])[data.section_of]
    return donors


def numbered_donors(data: TrainingSet) -> dict[str, int | None]:
    """Number of the donor of each section, then of those that adapted the encoder; None for an unknown donor."""
    known = list(dict.fromkeys(s.donor for s in data.spots if s.donor is not None))
    # The run's own sections come first: "appearance.section" counts them. Donors of the others are unknown.
    own = {s.name: None if s.donor is None else known.index(s.donor) for s in data.spots}
    return own | {name: None for name in data.features.adapted_on if name not in own}


def describe_training(
    config: TrainingConfig,
    data: TrainingSet,
    *,
    stage: Literal["pretrain", "selection", "finetune", "adapt"],
    settings: dict[str, Any],
    epoch: int,
    history: list[dict[str, float]],
    best: dict[str, float],
) -> CheckpointMeta:
    """Collect the metadata of a checkpoint; they contain neither paths nor names of donors."""
    paths = {"store": None, "save_dir": None, "pretrained_ckpt": None}
    values = config.to_mapping()
    is_trained = np.unique(data.section_of[~data.groups.is_val])
    return CheckpointMeta(
        stage=stage,
        epoch=epoch,
        config={name: paths.get(name, value) for name, value in values.items()},
        config_digest=config.digest(leave_out=NOT_IN_DIGEST),
        data_digest=data.digest,
        feature_keys=data.features.keys,
        tiles=data.features.tiles,
        feature_dims=data.features.dims,
        encoders=data.features.encoders,
        is_averaged=data.features.is_averaged,
        licences={s.name: s.licence for s in data.spots},
        genes=data.genes.genes,
        gene_sets=data.genes.sets,
        train_sections=tuple(data.spots[i].name for i in is_trained),
        val_sections=data.held_out_sections,
        donors=numbered_donors(data),
        depth=float(np.median(data.totals[data.train_rows])),
        metrics=history[-1] if history else {},
        history=history,
        best=best,
        settings=settings,
        software=software_versions(),
        section_digests={s.name: p.to_mapping() for s, p in zip(data.spots, data.profiles, strict=True)},
    )
