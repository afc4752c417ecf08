"""The folder that an instrument wrote: recognise its layout, read it, and write the files that `spam embed` reads."""

import shlex
from pathlib import Path

from spam.errors import ConfigError, MissingInputError, OutputExistsError, SectionError
from spam.progress import SILENT, Progress
from spam.schemas.embed_config import InputConfig
from spam.schemas.import_config import ImportConfig, ImportReport

from .instrument_section import InstrumentSection, lab_file_names, notes_of, to_section, write_lab_files
from .lab_section import Section, quoted
from .legacy_st import is_legacy_st, read_legacy_st
from .public_collections import is_hest, is_stimage, read_hest, read_stimage
from .space_ranger import is_space_ranger, read_space_ranger
from .xenium import is_xenium, read_xenium

# Layout -> what it is, how it is recognised and read; the first that fits is taken.
_LAYOUTS = (
    ("Xenium", is_xenium, read_xenium),
    ("Space Ranger", is_space_ranger, read_space_ranger),
    ("HEST-1k", is_hest, read_hest),
    ("STimage-1K4M", is_stimage, read_stimage),
    ("legacy ST", is_legacy_st, read_legacy_st),
)
_OUTPUTS = ("outs", "data")  # of Space Ranger, of the her2st repository
_INNER = (*_OUTPUTS, "binned_outputs", "segmented_outputs", "spatial")  # folders that do not name a section
_N_SEARCHED = 200  # folders below a wrong one in which a known layout is looked for


def read_folder_section(config: InputConfig) -> Section:
    """Read the section of ``--from`` with the H&E image of ``--image``.

    Raises
    ------
    ConfigError, MissingInputError, SectionError
        If the layout is not known, a file is missing, damaged or of another section, or the image cannot be used.
    """
    name, found = read_folder(config)
    return to_section(found, config, name=name)


def import_folder(config: ImportConfig, *, progress: Progress = SILENT) -> ImportReport:
    """Write an instrument's folder as h5ad, table of tiles and manifest.

    Several sections can be imported into one folder, whose ``sections.csv`` then lists all of them.

    Raises
    ------
    ConfigError, MissingInputError, SectionError
        As `read_folder_section`; without ``--image``, only the h5ad is written.
    OutputExistsError
        If the section was imported before, without ``--overwrite``.
    """
    inputs = config.inputs()
    assert config.out_dir is not None  # checked by the configuration
    with progress.task("import", 1) as advance:
        name, found = read_folder(inputs)
        if inputs.image is not None:
            to_section(found, inputs, name=name)  # the same checks as `spam embed --from`
        existing = [path for path in lab_file_names(config.out_dir, name) if path.exists()]
        if existing and not config.overwrite:
            message = f"{existing[0]} exists. Choose another --out-dir or --section, or add --overwrite."
            raise OutputExistsError(message)
        files = write_lab_files(found, inputs, name=name, folder=config.out_dir)
        advance()
    words = ["spam", "embed", "--manifest", str(files[-1]), "--store", "cohort.zarr"]
    without = "No table of tiles was written, because no H&E image is known; give --image"
    without += " and --alignment" if found.xy_px is None else ""
    return ImportReport(
        section=name,
        found=found.found(),
        notes=notes_of(found, inputs),
        n_spots=len(found.ids),
        n_genes=len(found.genes),
        mpp=inputs.mpp or found.mpp,
        files=files,
        next_step=f"Next: {shlex.join(words)}" if len(files) > 1 else without,
    )


def read_folder(config: InputConfig) -> tuple[str, InstrumentSection]:
    """Recognise the layout of ``--from`` and read its section; return its name too.

    Raises
    ------
    ConfigError, MissingInputError, SectionError
        If the layout is not known, or as its reader.
    """
    folder = config.from_
    if folder is None or not folder.is_dir():
        message = f"Folder not found: {folder}."
        raise MissingInputError(message)
    root = next((place for place in (folder, *(folder / name for name in _OUTPUTS)) if _layout(place)), None)
    layout = None if root is None else _layout(root)
    if root is None or layout is None:
        raise SectionError(_unknown(folder))
    found = layout[2](root, config)
    name = config.section or found.name or _name_of(root)
    if not name or "/" in name or name.startswith("."):
        message = f"--section {name!r} cannot be the name of a file. Give another --section."
        raise ConfigError(message)
    return name, found


def _layout(folder: Path):  # type: ignore[no-untyped-def]
    if not folder.is_dir():
        return None
    return next((layout for layout in _LAYOUTS if layout[1](folder)), None)


def _name_of(folder: Path) -> str:
    """Name a section by its folder, or by the first folder above it that is not part of a layout."""
    parts = folder.absolute().parts
    return next(
        (part for part in reversed(parts) if part not in _INNER and not part.startswith("square_")), "section"
    )


def _unknown(folder: Path) -> str:
    """Describe a folder of unknown layout, and name the folders around it that have a known one."""
    known = ", ".join(layout[0] for layout in _LAYOUTS)
    around = [folder.parent, folder.parent.parent]
    below = (path for depth in ("*", "*/*", "*/*/*") for path in sorted(folder.glob(depth)))
    for _, place in zip(range(_N_SEARCHED), below, strict=False):
        around.append(place)
    near = [str(place) for place in around if _layout(place)]
    found = quoted(sorted(path.name for path in folder.iterdir())) or "nothing"
    message = f"{folder} has no layout that is known ({known}); it holds {found}."
    return message + (
        f" Did you mean {' or '.join(near[:3])}?" if near else " Give the folder that the instrument wrote."
    )
