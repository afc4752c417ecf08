"""Simulating a whole cohort into a folder."""

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from spam.errors import ConfigError, OutputExistsError
from spam.progress import SILENT, Progress
from spam.schemas.simulate_config import SimulateConfig

from .files import MANIFEST, replace_file, write_manifest, write_section
from .section import simulate_section

__all__ = ["SimulationReport", "simulate"]

_RECORD = "simulation.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """What `simulate` wrote: the folder, the manifest for ``spam embed``, sections and donors, and sizes."""

    out_dir: Path
    manifest: Path
    sections: tuple[str, ...]
    donors: tuple[str, ...]
    n_spots: int
    n_genes: int

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        plain = dataclasses.asdict(self)
        return {key: str(value) if isinstance(value, Path) else value for key, value in plain.items()}

    def summary(self) -> str:
        """Say in a few lines of plain text what was written, and what to do with it."""
        return (
            f"{len(self.sections)} sections of {len(set(self.donors))} donors, {self.n_spots} spots x "
            f"{self.n_genes} genes, are in {self.out_dir}\n"
            f"next: spam embed --manifest {self.manifest} --store {self.out_dir}.zarr"
        )


def simulate(config: SimulateConfig, *, progress: Progress = SILENT) -> SimulationReport:
    """Write a cohort whose true expression is known, as the files that `spam embed` reads.

    Into ``config.out_dir`` go, for each section, what `write_section` describes; then ``simulation.json``
    (the options and versions) and last ``sections.csv``, so that a folder with a manifest is complete. With
    ``config.overwrite`` files of the same names are replaced and all others are left alone.

    Raises
    ------
    ConfigError
        If the options ask for something that cannot be drawn, see `simulate_section`.
    OutputExistsError
        If the folder holds anything and ``config.overwrite`` is not set.
    """
    if config.out_dir is None:
        message = "--out-dir is missing: say where the cohort goes"
        raise ConfigError(message)
    out_dir = config.out_dir
    if out_dir.exists() and not out_dir.is_dir():
        message = f"{str(out_dir)!r} is a file, but the cohort needs a folder; give another --out-dir"
        raise OutputExistsError(message)
    if not config.overwrite and out_dir.exists() and any(out_dir.iterdir()):
        message = (
            f"folder {str(out_dir)!r} is not empty; give another --out-dir, or --overwrite to replace the "
            "cohort in it"
        )
        raise OutputExistsError(message)
    plan = [(donor, section) for donor in range(config.n_donors) for section in range(config.n_sections)]
    written: list[tuple[str, str]] = []
    with progress.task("simulating sections", len(plan)) as advance:
        for donor, number in plan:
            section = simulate_section(config, donor=donor, section=number)
            if not written:  # the first section shows that the options work: now the old cohort ends
                (out_dir / MANIFEST).unlink(missing_ok=True)
            write_section(section, out_dir)
            written.append((section.name, section.donor))
            advance(note=section.name)
    replace_file(out_dir / _RECORD, lambda path: path.write_text(_record(config), encoding="utf-8"))
    return SimulationReport(
        out_dir=out_dir,
        manifest=write_manifest(written, out_dir),
        sections=tuple(name for name, _ in written),
        donors=tuple(donor for _, donor in written),
        n_spots=config.n_spots * len(written),
        n_genes=config.n_genes,
    )


def _record(config: SimulateConfig) -> str:
    """Describe how the cohort was made, without where."""
    options = config.to_mapping()
    del options["out_dir"], options["overwrite"]
    versions = {name: importlib.metadata.version(name) for name in ("spam-st", "numpy", "scipy", "pillow")}
    return json.dumps({"options": options, "versions": versions}, indent=2) + "\n"
