"""Options of `spam simulate` and `spam demo`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, option


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SimulateConfig(Config):
    """Options of `spam simulate`: a cohort whose true expression rates are known."""

    out_dir: Path | None = option(
        None,
        "folder for <section>.h5ad, <section>.csv, images/ and sections.csv",
        required="give a new folder",
    )
    n_donors: int = option(2, "donors", limits="[1,1000]")
    n_sections: int = option(2, "sections per donor", limits="[1,1000]")
    n_spots: int = option(150, "spots per section, on a hexagonal lattice", limits="[1,100000]")
    n_genes: int = option(200, "genes", limits="[1,100000]")
    n_programmes: int = option(4, "morphology programmes that drive expression, at most 6", limits="[1,100]")
    signal: float = option(
        1.0, "standard deviation of log rates explained by morphology; 0 is pure noise", limits="[0,10]"
    )
    null_share: float = option(0.0, "share of genes that do not depend on morphology", limits="[0,1]")
    hidden: float = option(
        0.0, "standard deviation of smooth log-rate patterns that no image shows", limits="[0,10]"
    )
    donor_effect: float = option(
        0.2, "standard deviation of a gene's log rate between donors", limits="[0,10]"
    )
    section_effect: float = option(
        0.1, "standard deviation of a gene's log rate between sections of a donor", limits="[0,10]"
    )
    depth: float = option(3000.0, "mean library size of a spot", limits="(0,1000000000]")
    theta: float = option(5.0, "inverse dispersion of the negative binomial counts", limits="(0,1000000000]")
    mpp: float = option(1.0, "µm per pixel of the images", limits="[0.1,10]")
    pitch_um: float = option(100.0, "distance between neighbouring spots in µm", limits="[10,1000]")
    seed: int = option(0, "random seed", limits="[0,4294967295]")
    overwrite: bool = option(False, "replace an existing cohort")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig(Config):
    """Options of `spam demo`."""

    name: Literal["simulated", "her2st"] = option(
        "simulated", "simulated (offline) or her2st (downloads five real sections)", is_argument=True
    )
    out_dir: Path = option(
        Path("spam-demo"), "folder for the cohort, the store, the checkpoints and the results"
    )
    data: Path | None = option(
        None, "folder of a local copy of the almaan/her2st repository, instead of a download (her2st only)"
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    seed: int = option(0, "random seed", limits="[0,4294967295]")
    overwrite: bool = option(False, "run again in an existing folder")
