"""Options of `spam simulate` and `spam demo`."""

import dataclasses
from pathlib import Path
from typing import Literal

from .config import Config, check, option

__all__ = ["DemoConfig", "SimulateConfig"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SimulateConfig(Config):
    """Options of `spam simulate`: a cohort whose true expression rates are known."""

    out_dir: Path | None = option(
        None, "folder to write: <section>.h5ad, <section>.csv, images/, sections.csv"
    )
    n_donors: int = option(2, "donors")
    n_sections: int = option(2, "sections per donor")
    n_spots: int = option(150, "spots per section, on a hexagonal lattice under the tissue")
    n_genes: int = option(200, "genes")
    n_programmes: int = option(4, "morphology programmes that drive expression")
    signal: float = option(
        1.0, "standard deviation of the log-rates that morphology explains; 0 is pure noise"
    )
    null_share: float = option(0.0, "share of genes that morphology does not move")
    hidden: float = option(
        0.0,
        "standard deviation of log-rate patterns that are as smooth as the tissue, but that no image shows",
    )
    donor_effect: float = option(0.2, "standard deviation of a gene's log-rate between donors")
    section_effect: float = option(0.1, "standard deviation of a gene's log-rate between sections of a donor")
    depth: float = option(3000.0, "mean library size of a spot")
    theta: float = option(5.0, "inverse dispersion of the negative binomial counts")
    mpp: float = option(1.0, "µm per pixel of the images")
    pitch_um: float = option(100.0, "distance of neighbouring spots in µm")
    seed: int = option(0, "seed of every random number")
    overwrite: bool = option(False, "write over a cohort that is there")  # noqa: FBT003

    def __post_init__(self) -> None:
        counts = ("n_donors", "n_sections", "n_spots", "n_genes", "n_programmes")
        sizes = ("depth", "theta", "mpp", "pitch_um")
        spreads = ("signal", "hidden", "donor_effect", "section_effect")
        check(
            [
                "--out-dir is missing: say where the cohort goes" if self.out_dir is None else None,
                f"--seed must not be negative, not {self.seed}" if self.seed < 0 else None,
                f"--null-share must be in [0, 1], not {self.null_share}"
                if not 0 <= self.null_share <= 1
                else None,
                *(
                    f"--{n.replace('_', '-')} must be at least 1, not {getattr(self, n)}"
                    for n in counts
                    if getattr(self, n) < 1
                ),
                *(
                    f"--{n.replace('_', '-')} must be positive, not {getattr(self, n)}"
                    for n in sizes
                    if not getattr(self, n) > 0
                ),
                *(
                    f"--{n.replace('_', '-')} must not be negative, not {getattr(self, n)}"
                    for n in spreads
                    if getattr(self, n) < 0
                ),
            ]
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig(Config):
    """Options of `spam demo`."""

    name: Literal["simulated", "her2st"] = option(
        "simulated", "simulated (offline) or her2st (downloads five real sections)"
    )
    out_dir: Path = option(
        Path("spam-demo"), "folder for the cohort, the store, the checkpoints and the results"
    )
    data: Path | None = option(
        None, "her2st: a local copy of the almaan/her2st repository, in place of the download"
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    seed: int = option(0, "seed of every random number")
    overwrite: bool = option(False, "run again into a folder that is there")  # noqa: FBT003

    def __post_init__(self) -> None:
        check([f"--seed must not be negative, not {self.seed}" if self.seed < 0 else None])
