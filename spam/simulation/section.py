"""One simulated section, as arrays."""

import dataclasses

import numpy as np

from spam.errors import ConfigError
from spam.schemas.simulate_config import SimulateConfig
from spam.typing import Array, Bool, Float, Int, UInt8

from .expression import draw_counts, draw_gene_programmes, expression_rates
from .frame import Frame
from .histology import Stain, draw_histology
from .lattice import lay_spots
from .morphology import KINDS, MixtureField, smooth_patterns
from .streams import random_stream

__all__ = ["SimulatedSection", "simulate_section"]

_SPOT_PER_PITCH = 0.55  # Visium: spots of 55 µm at a pitch of 100 µm
_MARGIN_PER_PITCH = 1.5  # glass around the outermost spots, so that most tiles lie inside the image
_POINTS_PER_SPOT = 31  # points that a spot's mixture is averaged over


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSection:
    """A section and the truth behind it.

    Attributes
    ----------
    name, donor
        Section and donor, e.g. ``D1S2`` and ``D1``.
    mpp, pitch_um, spot_diameter_um
        Resolution of the image, distance and diameter of the spots, in µm.
    image
        H&E-like image.
    ids
        Spot ids ``<section>_<column>x<row>``.
    row_col
        Position of each spot in the array.
    xy_px
        Spot centres in pixels (x = column, y = row), to the hundredth.
    counts
        Raw counts.
    genes
        Gene names.
    rates
        True expression: expected share of a gene in a spot's library; rows sum to 1.
    depths
        Expected library size of each spot: counts have mean ``depths * rates``.
    programme_names, programmes
        Programmes that drive expression, and their share in each spot's tissue.
    base, loadings
        Mean log rate of each gene and its change per unit of each programme's share.
    is_null
        Genes that morphology does not move.
    donor_effect, section_effect
        Shifts of each gene's log rate.
    """

    name: str
    donor: str
    mpp: float
    pitch_um: float
    spot_diameter_um: float
    image: UInt8[Array, "height width 3"]
    ids: tuple[str, ...]
    row_col: Int[Array, "n_spots 2"]
    xy_px: Float[Array, "n_spots 2"]
    counts: Int[Array, "n_spots n_genes"]
    genes: tuple[str, ...]
    rates: Float[Array, "n_spots n_genes"]
    depths: Float[Array, " n_spots"]
    programme_names: tuple[str, ...]
    programmes: Float[Array, "n_spots n_programmes"]
    base: Float[Array, " n_genes"]
    loadings: Float[Array, "n_genes n_programmes"]
    is_null: Bool[Array, " n_genes"]
    donor_effect: Float[Array, " n_genes"]
    section_effect: Float[Array, " n_genes"]


def simulate_section(config: SimulateConfig, *, donor: int = 0, section: int = 0) -> SimulatedSection:
    """Simulate one section of a cohort, without any file.

    The same configuration gives the same section whatever ``config.n_donors`` and ``config.n_sections`` are;
    ``config.out_dir`` and ``config.overwrite`` are not looked at.

    Parameters
    ----------
    config
        Options of the cohort.
    donor, section
        Numbers from 0; they may lie beyond the cohort's size.

    Raises
    ------
    ConfigError
        If more programmes are asked for than kinds of tissue can be drawn, the image would be too large, or
        the seed is negative.
    """
    if config.n_programmes > len(KINDS):
        message = (
            f"--n-programmes is {config.n_programmes}, but only {len(KINDS)} kinds of tissue can be drawn "
            f"({', '.join(kind.name for kind in KINDS)}); give at most {len(KINDS)}"
        )
        raise ConfigError(message)
    name = f"D{donor + 1}S{section + 1}"
    tissue = random_stream(config.seed, "tissue", donor, section)
    outline, row_col, xy_um = lay_spots(config.n_spots, config.pitch_um, tissue)
    mixture = MixtureField.draw(tissue)
    frame = Frame.around(xy_um, margin_um=_MARGIN_PER_PITCH * config.pitch_um, mpp=config.mpp)
    stain = Stain.draw(
        random_stream(config.seed, "stain", donor), random_stream(config.seed, "stain", donor, section)
    )
    drawing = random_stream(config.seed, "image", donor, section)
    image = draw_histology(outline, mixture, frame, stain, drawing)

    genes = draw_gene_programmes(config)
    donor_effect = random_stream(config.seed, "effect", donor).normal(0, config.donor_effect, config.n_genes)
    section_effect = random_stream(config.seed, "effect", donor, section).normal(
        0, config.section_effect, config.n_genes
    )
    spot_diameter_um = round(_SPOT_PER_PITCH * config.pitch_um, 6)
    shares = _mean_shares(mixture, xy_um, spot_diameter_um)
    unseen = random_stream(config.seed, "hidden", donor, section)
    hidden = config.hidden * smooth_patterns(unseen, xy_um, config.n_genes) if config.hidden else 0.0
    rates = expression_rates(genes, shares, donor_effect + section_effect, hidden)
    depths, counts = draw_counts(
        rates,
        depth=config.depth,
        theta=config.theta,
        rng=random_stream(config.seed, "counts", donor, section),
    )
    return SimulatedSection(
        name=name,
        donor=f"D{donor + 1}",
        mpp=config.mpp,
        pitch_um=config.pitch_um,
        spot_diameter_um=spot_diameter_um,
        image=image,
        ids=tuple(f"{name}_{column}x{row}" for row, column in row_col),
        row_col=row_col,
        xy_px=np.round(frame.to_px(xy_um), 2),
        counts=counts,
        genes=genes.names,
        rates=rates,
        depths=depths,
        programme_names=tuple(kind.name for kind in KINDS[: config.n_programmes]),
        programmes=shares[:, : config.n_programmes],
        base=genes.base,
        loadings=genes.loadings,
        is_null=genes.is_null,
        donor_effect=donor_effect,
        section_effect=section_effect,
    )


def _mean_shares(
    mixture: MixtureField, xy_um: Float[Array, "n_spots 2"], diameter_um: float
) -> Float[Array, "n_spots n_kinds"]:
    """Average the mixture over the disc of each spot, at points of a sunflower spiral (evenly spread)."""
    number = np.arange(_POINTS_PER_SPOT)
    radius_um = diameter_um / 2 * np.sqrt((number + 0.5) / _POINTS_PER_SPOT)
    angle = number * np.pi * (3 - np.sqrt(5))
    disc_um = np.stack([radius_um * np.cos(angle), radius_um * np.sin(angle)], axis=1)
    return np.asarray(mixture.shares(xy_um[:, None, :] + disc_um).mean(axis=1))
