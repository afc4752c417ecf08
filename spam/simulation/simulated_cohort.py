"""Simulated sections with known expression, and their files as a laboratory would deliver them."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse, special

from spam.atomic import claimed, holds_results, staged, write_text
from spam.errors import ConfigError, OutputExistsError, counted
from spam.h5ad_output import write_h5ad
from spam.progress import SILENT, Progress
from spam.schemas.records import Record
from spam.schemas.simulate_config import SimulateConfig
from spam.typing import Array, Float, Int, UInt8
from spam.versions import software_versions

from .histology import Frame, draw_histology, draw_stain
from .simulated_tissue import KINDS, SmoothFields, lay_spots, random_stream, share_moments

_SPOT_PER_PITCH = 0.55  # Visium: spots of 55 µm at a pitch of 100 µm
_MARGIN_PER_PITCH = 1.5  # glass around the outermost spots, so that most tiles lie inside the image
_POINTS_PER_SPOT = 31  # points over which a spot's mixture is averaged
_BASE_SD = 1.2  # spread of mean log expression between genes, as in a panel of expressed genes
_DEPTH_SD = 0.35  # spread of log library size between spots
_JPEG_QUALITY = 92  # as slide scanners use


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSection:
    """A section and its truth.

    Attributes
    ----------
    name, donor
        Section and donor, e.g. ``D1S2`` and ``D1``.
    mpp, pitch_um
        Resolution of the image and distance between spots.
    image
        H&E-like image.
    row_col, xy_px
        Position of each spot in the array, and its centre in pixels (x = column, y = row), to the hundredth.
    counts
        Raw counts.
    rates, depths
        True expression (expected share of a gene in a spot's library; rows sum to 1) and expected library size:
        counts have mean ``depths * rates``.
    programmes
        Share of each expression programme in a spot's tissue; programme ``j`` is ``KINDS[j]``.
    gene_table
        Genes: mean log rate (``base_log_rate``), ``donor_effect``, ``section_effect``, change per unit of each
        programme (``loading_<name>``), and ``is_null`` where all loadings are 0.
    """

    name: str
    donor: str
    mpp: float
    pitch_um: float
    image: UInt8[Array, "height width 3"]
    row_col: Int[Array, "n_spots 2"]
    xy_px: Float[Array, "n_spots 2"]
    counts: Int[Array, "n_spots n_genes"]
    rates: Float[Array, "n_spots n_genes"]
    depths: Float[Array, " n_spots"]
    programmes: Float[Array, "n_spots n_programmes"]
    gene_table: pd.DataFrame

    @property
    def ids(self) -> tuple[str, ...]:
        """Spot ids, ``<section>_<column>x<row>``."""
        return tuple(f"{self.name}_{column}x{row}" for row, column in self.row_col)

    @property
    def genes(self) -> tuple[str, ...]:
        """Gene names."""
        return tuple(self.gene_table.index)


def simulate_section(config: SimulateConfig, *, donor: int = 0, section: int = 0) -> SimulatedSection:
    """Simulate one section of a cohort in memory.

    The result does not depend on ``config.n_donors`` and ``config.n_sections``; `donor` and `section` count from 0 and
    may exceed them.

    Raises
    ------
    ConfigError
        If there are fewer kinds of tissue than programmes, or the image would be too large.
    """
    if config.n_programmes > len(KINDS):
        message = f"--n-programmes must be at most {len(KINDS)}, not {config.n_programmes}"
        raise ConfigError(message)

    stream, here = functools.partial(random_stream, config.seed), (donor, section)
    tissue = stream("tissue", *here)
    outline, row_col, xy_um = lay_spots(config.n_spots, config.pitch_um, tissue)
    mixture = SmoothFields.draw(tissue)
    frame = Frame.around(xy_um, margin_um=_MARGIN_PER_PITCH * config.pitch_um, mpp=config.mpp)
    stain = draw_stain(stream("stain", donor), stream("stain", *here))
    image = draw_histology(outline, mixture, frame, stain, stream("image", *here))

    shares = _mean_shares(mixture, xy_um, _SPOT_PER_PITCH * config.pitch_um)
    genes = draw_gene_table(config)
    genes["donor_effect"] = stream("effect", donor).normal(0, config.donor_effect, config.n_genes)
    genes["section_effect"] = stream("effect", *here).normal(0, config.section_effect, config.n_genes)
    hidden: Any = 0.0
    if config.hidden:
        hidden = config.hidden * SmoothFields.draw(stream("hidden", *here), config.n_genes).at(xy_um)
    rates = expression_rates(genes, shares, hidden)
    depths, counts = draw_counts(rates, depth=config.depth, theta=config.theta, rng=stream("counts", *here))
    return SimulatedSection(
        name=f"D{donor + 1}S{section + 1}",
        donor=f"D{donor + 1}",
        mpp=config.mpp,
        pitch_um=config.pitch_um,
        image=image,
        row_col=row_col,
        xy_px=np.round(frame.to_px(xy_um), 2),
        counts=counts,
        rates=rates,
        depths=depths,
        programmes=shares[:, : config.n_programmes],
        gene_table=genes,
    )


def _mean_shares(
    mixture: SmoothFields, xy_um: Float[Array, "n_spots 2"], diameter_um: float
) -> Float[Array, "n_spots n_kinds"]:
    """Average the mixture over the disc of each spot, at the evenly spread points of a sunflower spiral."""
    number = np.arange(_POINTS_PER_SPOT)
    radius_um = diameter_um / 2 * np.sqrt((number + 0.5) / _POINTS_PER_SPOT)
    angle = number * np.pi * (3 - np.sqrt(5))
    disc_um = np.stack([radius_um * np.cos(angle), radius_um * np.sin(angle)], axis=1)
    return np.asarray(mixture.shares(xy_um[:, None, :] + disc_um).mean(axis=1))


def draw_gene_table(config: SimulateConfig) -> pd.DataFrame:
    """Draw base rates and loadings, the same for all donors of a cohort; the effects are 0.

    Loadings are scaled so that ``loadings @ shares`` has standard deviation ``config.signal`` over all possible tissue
    (`share_moments`). A random share ``config.null_share`` of the genes has none.
    """
    rng = random_stream(config.seed, "gene")
    base = rng.normal(0, _BASE_SD, config.n_genes)
    loadings = rng.standard_normal((config.n_genes, config.n_programmes))
    covariance = share_moments()[1][: config.n_programmes, : config.n_programmes]
    loadings *= config.signal / np.sqrt(np.einsum("gi,ij,gj->g", loadings, covariance, loadings))[:, None]
    order = random_stream(config.seed, "null").permutation(config.n_genes)
    is_null = order < round(config.null_share * config.n_genes)
    loadings[is_null] = 0.0
    columns = {"base_log_rate": base, "donor_effect": 0.0, "section_effect": 0.0, "is_null": is_null}
    columns |= {
        f"loading_{kind.name}": values
        for kind, values in zip(KINDS[: config.n_programmes], loadings.T, strict=True)
    }
    names = [f"SIM{number:04d}" for number in range(1, config.n_genes + 1)]
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def expression_rates(
    genes: pd.DataFrame, shares: Float[Array, "n_spots n_kinds"], hidden: Any = 0.0
) -> Float[Array, "n_spots n_genes"]:
    """Compute the true expression of each spot as shares of its library, which sum to 1 over the genes.

    ``rate = softmax_g(base_g + effects_g + loadings_g . (shares - mean shares) + hidden_g)``, within the null genes and
    within the others: the null genes have a constant part of the library, as they would otherwise fall where others
    rise.
    """
    loadings = genes.filter(like="loading_").to_numpy()
    level = genes[["base_log_rate", "donor_effect", "section_effect"]].sum(axis=1).to_numpy()
    log_rate = level + (shares - share_moments()[0])[:, : loadings.shape[1]] @ loadings.T + hidden
    rates: Array = np.empty_like(log_rate)
    is_null = genes["is_null"].to_numpy()
    for part in (is_null, ~is_null):
        if part.any():
            rates[:, part] = special.softmax(level)[part].sum() * special.softmax(log_rate[:, part], axis=1)
    return rates


def draw_counts(
    rates: Float[Array, "n_spots n_genes"], *, depth: float, theta: float, rng: np.random.Generator
) -> tuple[Float[Array, " n_spots"], Int[Array, "n_spots n_genes"]]:
    """Draw library sizes (log-normal with mean `depth`) and negative binomial counts.

    Counts have mean ``library size * rate`` and variance ``mean + mean**2 / theta``, as Poisson counts with a gamma
    distributed rate.

    Returns
    -------
    depths, counts
        Expected library size of each spot, and the counts.
    """
    depths = depth * np.exp(rng.normal(-(_DEPTH_SD**2) / 2, _DEPTH_SD, len(rates)))
    mean = depths[:, None] * rates
    return depths, rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape)).astype(np.int32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport(Record):
    """Result of `simulate`: the folder, the manifest for `spam embed`, sections and donors, and sizes."""

    out_dir: Path
    manifest: Path
    sections: tuple[str, ...]
    donors: tuple[str, ...]
    n_spots: int
    n_genes: int

    def summary(self) -> str:
        """Describe the cohort and the next command."""
        return (
            f"{counted(len(self.sections), 'section')} of {counted(len(set(self.donors)), 'donor')}, {self.n_spots} spots x "
            f"{self.n_genes} genes, are in {self.out_dir}\n"
            f"next: spam embed --manifest {self.manifest} --store {self.out_dir}.zarr"
        )


def simulate(config: SimulateConfig, *, progress: Progress = SILENT) -> SimulationReport:
    """Write a cohort whose true expression is known, as the files that `spam embed` reads.

    ``config.out_dir`` receives the files of each section (see `write_section`), then ``simulation.json`` (options and
    versions) and last the manifest ``sections.csv``, so a folder with a manifest is complete.

    Raises
    ------
    ConfigError
        If the options cannot be drawn, see `simulate_section`.
    OutputExistsError
        If the folder is a file, or is not empty and ``config.overwrite`` is not set, or another process writes to it.
    """
    assert config.out_dir is not None  # checked by the configuration
    out_dir = config.out_dir
    if out_dir.is_file() or (not config.overwrite and holds_results(out_dir)):
        message = f"{out_dir} (--out-dir) is not an empty folder; choose another one, or add --overwrite"
        raise OutputExistsError(message)
    manifest = out_dir / "sections.csv"
    lines: list[dict[str, str]] = []
    with (
        claimed(out_dir, "--out-dir"),
        staged(out_dir, last=manifest.name) as folder,
        progress.task("simulating sections", config.n_donors * config.n_sections) as advance,
    ):
        for donor, number in np.ndindex(config.n_donors, config.n_sections):
            section = simulate_section(config, donor=donor, section=number)
            write_section(section, folder)
            files = {"h5ad": f"{section.name}.h5ad", "csv": f"{section.name}.csv", "root": "images"}
            lines.append({"section": section.name, "donor": section.donor, **files})
            advance(note=section.name)
        options = {
            key: value for key, value in config.to_mapping().items() if key not in ("out_dir", "overwrite")
        }
        record = {"options": options, "software": software_versions()}
        write_text(folder / "simulation.json", json.dumps(record, indent=2))
        pd.DataFrame(lines).to_csv(folder / manifest.name, index=False)
    return SimulationReport(
        out_dir=out_dir,
        manifest=manifest,
        sections=tuple(line["section"] for line in lines),
        donors=tuple(line["donor"] for line in lines),
        n_spots=config.n_spots * len(lines),
        n_genes=config.n_genes,
    )


def write_section(section: SimulatedSection, folder: Path) -> None:
    """Write ``<section>.h5ad``, ``<section>.csv`` and ``images/<section>.jpg`` into `folder`.

    The h5ad holds raw counts in ``X`` and the truth: ``layers['true_rate']`` (expected expression per 10k),
    ``obs['true_depth']``, ``obsm['true_programmes']`` (named by ``uns['true_programmes']``) and `gene_table` in ``var``.
    """
    image = folder / "images" / f"{section.name}.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(section.image).save(image, format="JPEG", quality=_JPEG_QUALITY)
    table = pd.DataFrame(section.xy_px, columns=["x", "y"]).assign(
        source_image=image.name, spot_id=section.ids, section=section.name, patient=section.donor
    )
    table.to_csv(folder / f"{section.name}.csv", index=False)
    write_h5ad(_to_anndata(section, image.name), folder / f"{section.name}.h5ad")


def _to_anndata(section: SimulatedSection, image: str) -> anndata.AnnData:
    n_spots, n_programmes = section.programmes.shape
    obs = pd.DataFrame(section.row_col, columns=["array_row", "array_col"]).assign(
        section=pd.Categorical([section.name] * n_spots),
        patient=pd.Categorical([section.donor] * n_spots),
        true_depth=section.depths,
    )
    obs.index = pd.Index(section.ids, name="spot_id", dtype=object)
    diameter_um = round(_SPOT_PER_PITCH * section.pitch_um, 6)
    facts = {"mpp": section.mpp, "spot_diameter_um": diameter_um, "pitch_um": section.pitch_um}
    spatial = {
        "images": {},
        "scalefactors": {"spot_diameter_fullres": diameter_um / section.mpp, "tissue_hires_scalef": 1.0},
        "metadata": {**facts, "source_image": image, "technology": "simulated"},
    }
    names = np.array([kind.name for kind in KINDS[:n_programmes]], dtype=object)
    return anndata.AnnData(
        X=sparse.csr_matrix(section.counts),
        obs=obs,
        var=section.gene_table,
        obsm={"spatial": section.xy_px, "true_programmes": section.programmes},
        layers={"true_rate": (1e4 * section.rates).astype(np.float32)},
        uns={"spatial": {section.name: spatial}, "true_programmes": names},
    )
