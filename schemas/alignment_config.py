"""Options and report of `spam check-alignment`."""

import dataclasses
from pathlib import Path

from .config import output
from .embed_config import SectionsConfig
from .records import Record


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentConfig(SectionsConfig):
    """Options of `spam check-alignment`."""

    out_dir: Path | None = output(
        None,
        "folder for the pictures, alignment.json and corrected tables",
        required="give a folder for the pictures, e.g. --out-dir alignment",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionAlignment(Record):
    """What was found for one section.

    Attributes
    ----------
    name, n_spots
        Section and its spots or cells.
    verdict
        One sentence.
    is_wrong
        Whether the spots are misplaced.
    advice
        What mends it; empty if nothing is wrong.
    tissue, explained
        Mean share of tissue at the spots, and part of the expression that the colours there explain (None without counts), of the
        coordinates as given and with x and y exchanged, mirrored and turned.
    way, angle, scale, shift_px
        What brings the spots to their place: one of these placements, then a rotation (degrees, clockwise), a factor and a shift
        about the centre of the spots.
    gain
        Tissue and explained part, added: how much more they are there.
    lattice_angle
        Angle of the rows of the array against the picture in degrees; None if the spots lie on no lattice.
    nuclei_um
        Mean offset of the nearest nuclei from the cells in µm (right, down); None where it cannot be measured.
    files
        Pictures and tables written.
    """

    name: str
    n_spots: int
    verdict: str
    is_wrong: bool
    advice: str
    tissue: dict[str, float]
    explained: dict[str, float] | None
    way: str
    angle: float
    scale: float
    shift_px: tuple[float, ...]
    gain: float
    lattice_angle: float | None
    nuclei_um: tuple[float, ...] | None
    files: tuple[Path, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentReport(Record):
    """Outcome of `spam check-alignment`."""

    sections: tuple[SectionAlignment, ...]

    def summary(self) -> str:
        """Return verdict, advice and files of each section."""
        lines = []
        for one in self.sections:
            lines += [f"{one.name}: {one.verdict}", *filter(None, [one.advice])]
            lines += [f"Wrote {file}" for file in one.files]
        return "\n".join(lines)
