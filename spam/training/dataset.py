"""The cohort in memory, as both stages train on it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import block_diag, csr_matrix, vstack

from spam.errors import CheckpointError, StoreError
from spam.models.expression import log1p_cp10k
from spam.models.fusion import TokenTable, retrieve
from spam.models.inputs import InputTransform, context_features
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.config import flag
from spam.schemas.training_config import TrainingConfig
from spam.store import open_store
from spam.typing import Array, Bool, Float32, Float64, Int64

from .cohort import FeatureChoice, SpotData, choose_features, choose_sections, data_digest, read_spots
from .genes import GeneChoice, choose_genes
from .groups import Groups, assign_groups


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSet:
    """All spots of a cohort side by side, section after section.

    Attributes
    ----------
    spots
        The sections themselves.
    features
        Which features were used.
    genes
        Modelled genes and their subsets.
    transform
        From context features to `inputs`.
    groups
        Group and role of every spot.
    inputs
        Image inputs, (n, q).
    counts, totals
        Raw counts of the modelled genes (n, n_genes); library size over all genes (n,).
    expression
        Log1p(CP10k), (n, n_genes).
    centred
        `expression` relative to the mean of the section's spots with counts that are not held out; of all with counts where
        all are.
    weights
        Spatial weights (n, n); no edge between sections.
    digest
        Hash of what was read.
    """

    spots: tuple[SpotData, ...]
    features: FeatureChoice
    genes: GeneChoice
    transform: InputTransform
    groups: Groups
    inputs: Float32[Array, "n q"]
    counts: csr_matrix
    totals: Float64[Array, " n"]
    expression: Float32[Array, "n n_genes"]
    centred: Float32[Array, "n n_genes"]
    weights: csr_matrix
    digest: str

    @property
    def train_rows(self) -> Int64[Array, " n_train"]:
        """Rows that are trained on: not held out, and with at least one count."""
        return np.flatnonzero(~self.groups.is_val & (self.totals > 0))

    @property
    def val_rows(self) -> Int64[Array, " n_val"]:
        """Rows that are held out, with at least one count."""
        return np.flatnonzero(self.groups.is_val & (self.totals > 0))

    @property
    def held_out_sections(self) -> tuple[str, ...]:
        """Names of the sections with a held-out spot."""
        return tuple(
            s.name for i, s in enumerate(self.spots) if self.groups.is_val[self.section_of == i].any()
        )

    @property
    def section_of(self) -> Int64[Array, " n"]:
        """Number of each spot's section."""
        return np.repeat(np.arange(len(self.spots)), [s.n_spots for s in self.spots])


def build_training_set(
    config: TrainingConfig, pretrained: tuple[CheckpointMeta, InputTransform] | None = None
) -> TrainingSet:
    """Read, check and prepare all that a stage trains on.

    Genes are chosen on the sections of the run, and the principal components come from their images: those to be
    predicted later are in neither. After pretraining, both are those of the pretrained checkpoint, which its weights
    depend on.

    Raises
    ------
    ConfigError, StoreError
        If sections, features or genes do not fit together.
    CheckpointError
        If the pretrained checkpoint was made from other features.
    """
    if config.store is None:
        message = "--store is missing: give the feature store that `spam embed` wrote"
        raise StoreError(message)
    store = open_store(config.store)
    train, held_out = choose_sections(store, config)
    names = tuple(dict.fromkeys((*train, *held_out)))
    sections = [store.section(name) for name in names]
    features = choose_features(sections, config.enc_name, config.tile_um, is_averaged=config.dihedral)
    spots = tuple(read_spots(section, features.keys, k=config.k) for section in sections)
    held_out = held_out if held_out != train else ()
    if pretrained is None:
        return training_set_of(spots, features, config, held_out=held_out)
    meta, transform = pretrained
    check_features(meta, features)
    _check_as_pretrained(meta, config)
    genes = GeneChoice(genes=meta.genes, sets=meta.gene_sets)
    return training_set_of(spots, features, config, held_out=held_out, genes=genes, transform=transform)


def training_set_of(
    spots: tuple[SpotData, ...],
    features: FeatureChoice,
    config: TrainingConfig,
    *,
    held_out: Sequence[str] = (),
    genes: GeneChoice | None = None,
    transform: InputTransform | None = None,
) -> TrainingSet:
    """Prepare spots that were read already.

    Parameters
    ----------
    spots
        Sections with counts.
    features
        What stands side by side in their features.
    held_out
        Sections that are not trained on at first; with a single section, a block of it is held out.
    genes, transform
        As chosen elsewhere; None chooses genes and fits the components on these sections.

    Raises
    ------
    StoreError
        If a section has no counts, or the sections share no gene that can be modelled.
    """
    groups = assign_groups(spots, held_out)
    context = [context_features(s.features, s.graph.connectivities) for s in spots]
    genes = genes or choose_genes(spots, n_top=config.n_top_genes if config.use_hvg else None)
    if transform is None:
        # Held-out spots have no part in it but in the mean of a section that is cut: with few spots, minor components are
        # those of the training spots alone, and new tissue hardly varies along them.
        ends = np.cumsum([s.n_spots for s in spots])[:-1]
        transform = InputTransform.fit(context, config.n_components, is_fitted=np.split(~groups.is_val, ends))
    counts = csr_matrix(vstack([s.counts_of(genes.genes) for s in spots]))
    totals = np.concatenate([s.totals for s in spots if s.totals is not None])
    expression = log1p_cp10k(counts, totals)
    return TrainingSet(
        spots=spots,
        features=features,
        genes=genes,
        transform=transform,
        groups=groups,
        inputs=np.concatenate([transform.apply(c) for c in context]),
        counts=counts,
        totals=totals,
        expression=expression,
        centred=_centred(expression, totals > 0, spots, groups),
        weights=csr_matrix(block_diag([s.graph.connectivities for s in spots], format="csr")),
        digest=data_digest(spots),
    )


def with_all_trained_on(data: TrainingSet, *, n_components: int | None) -> TrainingSet:
    """Hold nothing out any more.

    Parameters
    ----------
    n_components
        Components to fit again, on all spots; None keeps the transform, which a pretraining has settled.
    """
    groups = dataclasses.replace(data.groups, is_val=np.zeros_like(data.groups.is_val))
    centred = _centred(data.expression, data.totals > 0, data.spots, groups)
    data = dataclasses.replace(data, groups=groups, centred=centred)
    if n_components is None:
        return data
    context = [context_features(s.features, s.graph.connectivities) for s in data.spots]
    transform = InputTransform.fit(context, n_components)
    inputs = np.concatenate([transform.apply(c) for c in context])
    return dataclasses.replace(data, transform=transform, inputs=inputs)


def _centred(
    expression: Float32[Array, "n n_genes"],
    has_counts: Bool[Array, " n"],
    spots: Sequence[SpotData],
    groups: Groups,
) -> Float32[Array, "n n_genes"]:
    """Expression relative to its section, of which held-out spots say nothing where others are there."""
    ends = np.cumsum([s.n_spots for s in spots])[:-1]
    parts = []
    for part, has, is_val in zip(
        *(np.split(values, ends) for values in (expression, has_counts, groups.is_val)), strict=True
    ):
        # A spot without any count says nothing of its section's mean.
        known = part[has & ~is_val] if (has & ~is_val).any() else part[has]
        parts.append(part - known.mean(axis=0, dtype=np.float64) if len(known) else part)
    return np.concatenate(parts).astype(np.float32)


def _check_as_pretrained(meta: CheckpointMeta, config: TrainingConfig) -> None:
    """Refuse options that pretraining has settled, where they are given and say something else."""
    told = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    default = {field.name: field.default for field in dataclasses.fields(config)}
    settled = ("use_hvg", "n_top_genes", "n_components")
    other = [name for name in settled if told[name] not in (default[name], meta.config[name])]
    if other:
        said = ", ".join(f"{flag(name)} {told[name]} (there: {meta.config[name]})" for name in other)
        message = (
            f"the pretrained checkpoint settles genes and components, and was made with others: {said}; leave these "
            "options out, or pretrain again with them"
        )
        raise CheckpointError(message)


def check_features(meta: CheckpointMeta, features: FeatureChoice) -> None:
    """Refuse features that differ from those of a checkpoint.

    Raises
    ------
    CheckpointError
        Naming both encoders, digests and tile sizes.
    """
    same = meta.weights_sha256 == features.weights_sha256 and list(meta.tiles) == list(features.tiles)
    same = same and meta.is_averaged == features.is_averaged
    if meta.encoder_name != features.encoder or not same:
        message = (
            f"the checkpoint was trained on features {', '.join(meta.feature_keys)} (weights {meta.weights_sha256[:8]}…, "
            f"tiles {', '.join(map(str, meta.tiles))}), the store offers {', '.join(features.keys)} (weights "
            f"{features.weights_sha256[:8]}…, tiles {', '.join(map(str, features.tiles))}); choose the same with "
            "--enc-name, --tile-um and --dihedral, or embed them with `spam embed`"
        )
        raise CheckpointError(message)


def retrieve_across_groups(data: TrainingSet, k: int) -> TokenTable:
    """Retrieve references of every spot among the training spots of *other* groups; rows refer to the training set."""
    n = len(data.inputs)
    index = np.zeros((n, k), dtype=np.int64)
    similarity = np.zeros((n, k, 1), dtype=np.float32)
    is_usable = np.zeros((n, k), dtype=bool)
    is_train = np.zeros(n, dtype=bool)
    is_train[data.train_rows] = True
    for g in np.unique(data.groups.group):
        rows = np.flatnonzero(data.groups.group == g)
        bank = np.flatnonzero(is_train & (data.groups.group != g))
        found = retrieve(data.inputs[rows], data.inputs[bank], k)
        index[rows], similarity[rows], is_usable[rows] = bank[found.index], found.relation, found.is_usable
    return TokenTable(index=index, relation=similarity, is_usable=is_usable)
