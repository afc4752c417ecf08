"""Image features as the models read them: with spatial context, scaled within their section, as principal components."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array, diags_array, eye_array

from spam.errors import StoreError
from spam.typing import Array, Bool, Float, Float32, Float64, Int64, Num, Rows

from .linear import STD_FLOOR, CsrMatrix, FeatureTransform, squares_around

_HOPS = (1, 3)  # the nearest ring, and a wider neighbourhood; chosen in docs/experiments-log.md
_COLUMNS = 128  # features that are averaged over neighbours at a time, to bound the memory
_READ = 1 << 29  # bytes of features that are read for this at a time: a store is read by whole rows
_ROWS = 8192  # spots that are projected at a time, for the same reason
_MOST_VALUES = 1 << 27  # of the sample that components are fitted on: half a gigabyte


def context_features(
    features: Float[Rows, "n_spots dim"], connectivities: CsrMatrix
) -> Float32[Array, "n_spots wide"]:
    """Concatenate a spot's own features with Gaussian-weighted means over its neighbourhood.

    Parameters
    ----------
    features
        Features of the spots of one section.
    connectivities
        Weights of the section's spatial graph; the spot itself is added with weight 1.

    Returns
    -------
    Array of ``3 * dim`` columns: own features, mean over one hop, mean over three hops.
    """
    context = np.empty((len(features), len(_HOPS) + 1, features.shape[1]), dtype=np.float32)
    for columns, origin, parts in _averages(features, connectivities):
        context[:, :, columns] = np.stack(parts, axis=1) + origin
    return context.reshape(len(features), -1)


def _averages(
    features: Float[Rows, "n_spots dim"], connectivities: CsrMatrix
) -> Iterator[tuple[slice, Array, list[Array]]]:
    """Yield some columns at a time: their mean, and what is added to it: own features, mean over one hop, over three hops."""
    weights = _normalised(connectivities)
    n_bytes = max(1, len(features)) * features.dtype.itemsize * _COLUMNS
    n_read = max(1, _READ // n_bytes) * _COLUMNS
    for first in range(0, features.shape[1], n_read):
        read = features[:, first : first + n_read]
        for start in range(0, read.shape[1], _COLUMNS):
            # A copy, which is centred in place.
            own = np.array(read[:, start : start + _COLUMNS], dtype=np.float32, order="C")
            origin = own.mean(axis=0, dtype=np.float64)
            # Centred first: otherwise a constant feature would vary by the rounding of its averages.
            averaged = np.subtract(own, origin, out=own, casting="same_kind")
            parts = [averaged]
            for hop in range(1, max(_HOPS) + 1):
                averaged = weights @ averaged
                parts += [averaged] if hop in _HOPS else []
            yield slice(first + start, first + start + own.shape[1]), origin, parts


def _normalised(connectivities: CsrMatrix) -> csr_array:
    """Weights of a mean over each spot and its neighbours."""
    weights = connectivities.astype(np.float64) + eye_array(connectivities.shape[0], format="csr")
    mean = diags_array(1.0 / np.asarray(weights.sum(axis=1)).ravel()) @ weights
    return csr_array(mean.astype(np.float32))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SectionContext:
    """Context features of one section: mean and standard deviation over all spots, and the values of some.

    Attributes
    ----------
    origin
        Mean of each feature, which the other attributes are relative to.
    mean, std
        Of each context feature, over all spots of the section.
    rows
        Spots of the sample, ascending.
    sample
        Their context features.
    """

    origin: Float64[Array, " dim"]
    mean: Float64[Array, " wide"]
    std: Float64[Array, " wide"]
    rows: Int64[Array, " m"]
    sample: Float32[Array, "m wide"]

    @classmethod
    def of(
        cls, features: Float[Rows, "n_spots dim"], connectivities: CsrMatrix, rows: Int64[Array, " m"]
    ) -> "SectionContext":
        """Compute the context of a section, some features at a time."""
        shape = (len(_HOPS) + 1, features.shape[1])
        moments, sample = np.empty((2, *shape)), np.empty((len(rows), *shape), dtype=np.float32)
        origin = np.empty(shape[1])
        for columns, own, parts in _averages(features, connectivities):
            origin[columns] = own
            for i, part in enumerate(parts):
                moments[0, i, columns] = part.mean(axis=0, dtype=np.float64)
                moments[1, i, columns] = part.std(axis=0, dtype=np.float64)
                sample[:, i, columns] = part[rows]
        mean, std = moments.reshape(2, -1)
        wide: Array = sample.reshape(len(rows), mean.size)
        return cls(origin=origin, mean=mean, std=std, rows=rows, sample=wide)


def contexts_of(
    sections: Sequence[tuple[Float[Rows, "_ dim"], CsrMatrix]],
) -> tuple[SectionContext, ...]:
    """Compute the context of several sections, each with its features and the weights of its graph.

    Components are fitted on all spots, or on a random sample if these have more than 2^27 context features in all
    (43 000 spots of 1024 features): more would hardly change them.
    """
    n_spots, dim = sum(len(features) for features, _ in sections), sections[0][0].shape[1]
    share = min(1.0, _MOST_VALUES / (n_spots * dim * (len(_HOPS) + 1)))
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.permutation(len(f))[: max(1, round(share * len(f)))]) for f, _ in sections]
    return tuple(SectionContext.of(*section, own) for section, own in zip(sections, rows, strict=True))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Components:
    """Principal components of features, divided by one number so that their root mean square is 1.

    The relative sizes of the components stay, so that minor components matter less to a network.
    """

    pca: FeatureTransform
    scale: float

    @classmethod
    def fit(cls, features: Num[Array, "n wide"], n_components: int) -> "Components":
        """Fit on the features of all training spots.

        Raises
        ------
        StoreError
            If the features are constant, or NaN or infinite.
        """
        pca = FeatureTransform.fit(features, n_components)
        if not len(pca.components):
            message = (
                f"The image features of the {len(features)} training spots do not vary within their sections: there is "
                "nothing to learn from. Check the tiles, then run `spam embed --overwrite`, or name other --sections."
            )
            raise StoreError(message)
        # The components are centred, so their mean square is their variance.
        axes = (pca.components / pca.scale).T.astype(np.float32)
        variance = (np.asarray(features, dtype=np.float32) @ axes).var(axis=0, dtype=np.float64)
        return cls(pca=pca, scale=float(np.sqrt(variance.mean())) or 1.0)

    def apply(self, features: Num[Array, "n wide"]) -> Float32[Array, "n n_components"]:
        """Transform features."""
        return (self.pca.apply(features) / self.scale).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputTransform:
    """Transform the context features of a section into image inputs; fitted on the images of the training cohort.

    A feature is centred within its section and divided by its standard deviation there, or by that of the training
    sections if this is larger: a section with little variation is not stretched to the variation of the training
    sections (docs/experiments-log.md, "How features are scaled").

    Attributes
    ----------
    spread
        Standard deviation of each context feature within a section, pooled over the training sections.
    components
        Principal components of the scaled features.
    """

    spread: Float64[Array, " wide"]
    components: Components

    @classmethod
    def fit(
        cls,
        sections: Sequence[SectionContext],
        n_components: int,
        *,
        is_fitted: Sequence[Bool[Array, " _"]] | None = None,
    ) -> "InputTransform":
        """Fit on several sections.

        Parameters
        ----------
        sections
            Context of each section.
        n_components
            Components to keep.
        is_fitted
            Spots of each section used to fit spread and components; None: all. The mean and standard deviation of a
            section are always those of all its spots, as they are for a new section.
        """
        used = [np.ones(len(s.rows), dtype=bool) for s in sections]
        if is_fitted is not None:
            used = [mask[s.rows] for s, mask in zip(sections, is_fitted, strict=True)]
        parts = [(s, rows) for s, rows in zip(sections, used, strict=True) if rows.any()]
        scaled = np.concatenate([s.sample[rows] for s, rows in parts])
        cuts = np.cumsum([rows.sum() for _, rows in parts])
        of_section = list(zip(np.split(scaled, cuts[:-1]), (s for s, _ in parts), strict=True))
        # `FeatureTransform.fit` reports a NaN with its rows; here it must not spread to other sections.
        squares = sum(
            np.nan_to_num(squares_around(part, s.mean), posinf=np.inf)
            for own, s in of_section
            for part in np.array_split(own, range(_ROWS, len(own), _ROWS))
        )
        spread = np.sqrt(squares / len(scaled))
        for own, s in of_section:  # in place: the sample is the largest array
            own -= s.mean.astype(np.float32)
            own /= _scale_of(s, spread).astype(np.float32)
        return cls(spread=spread, components=Components.fit(scaled, n_components))

    def apply(
        self,
        features: Float[Rows, "n dim"],
        connectivities: CsrMatrix,
        section: SectionContext | None = None,
    ) -> Float32[Array, "n n_components"]:
        """Transform the features of one section.

        Projection and means over neighbours are linear, so the components are averaged, which are fewer than the features.

        Parameters
        ----------
        features, connectivities
            Of all spots of the section, as for `context_features`.
        section
            Context of the section, if it is known.
        """
        section = section or SectionContext.of(features, connectivities, np.empty(0, dtype=np.int64))
        pca = self.components.pca
        axes = pca.components / (pca.scale * _scale_of(section, self.spread)) / self.components.scale
        rest = -axes @ section.mean - (pca.components @ (pca.mean / pca.scale)) / self.components.scale
        by_hop = [np.ascontiguousarray(a.T, dtype=np.float32) for a in np.split(axes, len(_HOPS) + 1, axis=1)]
        own, *far = (np.empty((len(features), len(axes)), dtype=np.float32) for _ in by_hop)
        for start in range(0, len(features), _ROWS):
            rows = slice(start, start + _ROWS)
            centred = (features[rows] - section.origin).astype(np.float32)
            for projected, axis in zip((own, *far), by_hop, strict=True):
                projected[rows] = centred @ axis
        weights = _normalised(connectivities)
        averaged = far.pop()
        for hop in range(max(_HOPS) - 1, -1, -1):
            averaged = weights @ averaged
            if hop in _HOPS:
                averaged += far.pop()
        own += averaged
        own += rest.astype(np.float32)
        return own


def _scale_of(section: SectionContext, spread: Float64[Array, " wide"]) -> Float64[Array, " wide"]:
    """Divisor of each context feature of a section."""
    scale: Array = np.maximum(section.std, spread) + STD_FLOOR
    return scale
