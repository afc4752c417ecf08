"""Options and report of `spam import`."""

import dataclasses
from pathlib import Path

from .config import data, option, output
from .embed_config import FolderOptions, InputConfig
from .records import Record


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig(FolderOptions):
    """Options of `spam import`."""

    folder: Path | None = option(
        None,
        "folder that an instrument wrote",
        is_argument=True,
        required="give the folder that the instrument wrote, e.g. outs",
    )
    out_dir: Path | None = output(
        None,
        "folder for the files",
        required="give a folder for the files, e.g. --out-dir lab",
    )
    section: str | None = data(None, "name of the section (default: from the folder)")
    donor: str | None = data(None, "donor of the section")
    mpp: float | None = data(
        None, "µm per full-resolution pixel (default: from the folder)", limits="[0.01,100]"
    )
    overwrite: bool = output(False, "replace existing files of the section")

    def inputs(self) -> InputConfig:
        """Return the same options as `spam embed --from` takes them."""
        shared = {field.name for field in dataclasses.fields(self)} & {
            field.name for field in dataclasses.fields(InputConfig)
        }
        return InputConfig(from_=self.folder, **{name: getattr(self, name) for name in shared})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport(Record):
    """Outcome of `spam import`.

    Attributes
    ----------
    section
        Name of the section.
    found
        What the folder holds.
    notes
        What was left out or assumed.
    n_spots, n_genes, mpp
        Spots or cells, genes, µm per pixel of the H&E image (None if unknown).
    files
        The files written.
    next_step
        The command that works on them.
    """

    section: str
    found: str
    notes: tuple[str, ...]
    n_spots: int
    n_genes: int
    mpp: float | None
    files: tuple[Path, ...]
    next_step: str

    def summary(self) -> str:
        """Describe what was found, what was written, and the next command."""
        files = [f"Wrote {file}" for file in self.files]
        return "\n".join([f"Section {self.section}: {self.found}", *self.notes, *files, self.next_step])
