"""Options of `spam report` and `spam plot`."""

import dataclasses
from pathlib import Path

from .config import Config, data, option, output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig(Config):
    """Options of `spam report`."""

    results: Path | None = option(
        None,
        "folder of results of spam predict or spam benchmark",
        required="run e.g. spam report results",
        is_argument=True,
    )
    out: Path | None = output(None, "HTML file to write (default: report.html in RESULTS)")
    genes: tuple[str, ...] = data(
        (), "genes to show even if others are predicted better, where a file cannot hold all"
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlotConfig(Config):
    """Options of `spam plot`."""

    results: Path | None = option(
        None,
        "folder of results of spam predict",
        required="run e.g. spam plot results --gene ERBB2",
        is_argument=True,
    )
    gene: tuple[str, ...] = data((), "genes to draw", required="name genes, e.g. --gene ERBB2,CD74")
    out: Path | None = output(None, "PNG file to write (default: plots/genes/GENE.png in RESULTS)")
