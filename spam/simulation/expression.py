"""From morphology to expression: the truth of a simulated cohort, and the counts drawn from it."""

import dataclasses

import numpy as np

from spam.schemas.simulate_config import SimulateConfig
from spam.typing import Array, Bool, Float, Int

from .morphology import share_covariance
from .streams import random_stream

__all__ = ["GeneProgrammes", "draw_counts", "draw_gene_programmes", "expression_rates"]

_BASE_SD = 1.2  # spread of mean log expression between genes, as in a panel of expressed genes
_DEPTH_SD = 0.35  # spread of log library size between spots


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GeneProgrammes:
    """What is known of the genes of a cohort.

    Attributes
    ----------
    names
        Gene names.
    base
        Mean log rate of each gene.
    loadings
        Change of the log rate per unit of a programme's share; programme ``j`` is ``KINDS[j]``.
    is_null
        Genes that morphology does not move: all their loadings are 0.
    """

    names: tuple[str, ...]
    base: Float[Array, " n_genes"]
    loadings: Float[Array, "n_genes n_programmes"]
    is_null: Bool[Array, " n_genes"]


def draw_gene_programmes(config: SimulateConfig) -> GeneProgrammes:
    """Draw base rates and programme loadings, the same for every donor of a cohort.

    The loadings of a gene are scaled so that ``loadings @ shares`` has standard deviation ``config.signal``
    over all the tissue that could be simulated (`share_covariance`); within one section it differs from gene
    to gene. A share ``config.null_share`` of the genes, chosen at random, has none.
    """
    rng = random_stream(config.seed, "gene")
    base = rng.normal(0, _BASE_SD, config.n_genes)
    loadings = rng.standard_normal((config.n_genes, config.n_programmes))
    _, covariance = share_covariance()
    covariance = covariance[: config.n_programmes, : config.n_programmes]
    spread = np.sqrt(np.einsum("gi,ij,gj->g", loadings, covariance, loadings))
    loadings *= config.signal / spread[:, None]
    order = random_stream(config.seed, "null").permutation(config.n_genes)
    is_null = order < round(config.null_share * config.n_genes)
    loadings[is_null] = 0.0
    return GeneProgrammes(
        names=tuple(f"SIM{number:04d}" for number in range(1, config.n_genes + 1)),
        base=base,
        loadings=loadings,
        is_null=is_null,
    )


def expression_rates(
    genes: GeneProgrammes,
    shares: Float[Array, "n_spots n_kinds"],
    effect: Float[Array, " n_genes"],
    hidden: Float[Array, "n_spots n_genes"] | float = 0.0,
) -> Float[Array, "n_spots n_genes"]:
    """Compute the true expression of each spot as shares of its library, which sum to 1 over the genes.

    ``rate = softmax_g(base_g + loadings_g . (shares - mean shares) + effect_g + hidden_g)``; `effect` is the sum of the
    donor's and the section's effect on each gene, and `hidden` what no image shows. Genes that morphology does not
    move share a part of the library among themselves that it does not move either: else they would yield where
    others rise.
    """
    n_programmes = genes.loadings.shape[1]
    mean, _ = share_covariance()
    level = genes.base + effect
    log_rate = level + (shares - mean)[:, :n_programmes] @ genes.loadings.T + hidden
    part_of = _softmax(level[None])[0]
    rates: Array = np.empty_like(log_rate)
    for part in (genes.is_null, ~genes.is_null):
        if part.any():
            rates[:, part] = part_of[part].sum() * _softmax(log_rate[:, part])
    return rates


def _softmax(log_rate: Float[Array, "n n_genes"]) -> Float[Array, "n n_genes"]:
    """Exponentials that sum to 1 in each row."""
    rate = np.exp(log_rate - log_rate.max(axis=1, keepdims=True))
    return np.asarray(rate / rate.sum(axis=1, keepdims=True))


def draw_counts(
    rates: Float[Array, "n_spots n_genes"], *, depth: float, theta: float, rng: np.random.Generator
) -> tuple[Float[Array, " n_spots"], Int[Array, "n_spots n_genes"]]:
    """Draw library sizes and negative binomial counts.

    Library sizes are log-normal with mean `depth` and do not depend on morphology. Counts have mean
    ``library size * rate`` and variance ``mean + mean**2 / theta`` (a Poisson whose rate is gamma
    distributed).

    Returns
    -------
    depths, counts
        Expected library size of each spot, and the counts.
    """
    n_spots = rates.shape[0]
    depths = depth * np.exp(rng.normal(-(_DEPTH_SD**2) / 2, _DEPTH_SD, n_spots))
    mean = depths[:, None] * rates
    counts = rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape))
    return depths, counts.astype(np.int32)
