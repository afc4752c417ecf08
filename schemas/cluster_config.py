"""Options of `spam cluster`."""

import dataclasses
from pathlib import Path

from .config import Config, data, model, option, output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig(Config):
    """Options of `spam cluster`."""

    source: Path | str | None = option(
        None,
        "folder of results of spam predict, or a store: a folder, a packed store (.zip), or an address",
        required="run e.g. spam cluster results --out-dir clusters",
        is_argument=True,
    )
    sections: tuple[str, ...] = data((), "sections of a store, e.g. C2,C3 (default: all)")
    features: tuple[str, ...] = data((), "features of a store, by key or encoder name (default: all)")
    label: str | None = data(
        None, "obs column of labels to compare with (default: label, where there is one)"
    )
    resolution: float = model(
        1.0, "resolution of Leiden: higher values give more clusters", limits="(0,1000]"
    )
    n_neighbours: int = model(15, "neighbours of a spot in the graph of Leiden", limits="[2,1000]")
    seed: int = model(0, "seed of PCA, neighbours and Leiden", limits="[0,4294967295]")
    out_dir: Path | None = output(
        None,
        "new folder for scores.csv, markers.csv, morans_i.csv, and an h5ad and a map of each section",
        required="name a folder to write to",
    )
