"""Which slides a grid is laid over: one, or those of a folder."""

import logging
from pathlib import Path

from spam.errors import ConfigError, MissingInputError, SectionError, SlideError
from spam.sections.lab_section import is_slide_folder, slide_files

from .opening import reader_of

__all__ = ["grid_slides", "section_name"]

_log = logging.getLogger(__name__)

_N_NAMED = 5
_SLIDE_NAMES = (
    ".svs",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".bif",
    ".tif",
    ".tiff",
    ".dcm",
    ".zarr",
    ".png",
    ".jpg",
    ".jpeg",
)


def grid_slides(root: Path, *, section: str | None = None) -> tuple[Path, ...]:
    """Find the slides to lay a grid over: `root` itself, or what slides there are in the folder, sorted.

    Folders are not searched any deeper. What is no slide is named in a warning.

    Parameters
    ----------
    root
        A slide, or a folder of slides.
    section
        Name that was asked for (``--section``), which one slide alone can have.

    Raises
    ------
    MissingInputError
        If there is no such file or folder.
    SlideError
        If there is no slide in the folder, or loose DICOM files, of which nobody can tell what belongs together.
    ConfigError
        If one name is asked for, but there are several slides.
    SectionError
        If two slides would give sections of one name.
    """
    if not root.exists():
        message = f"--root {str(root)!r} is not there; with --tiles grid it is a slide or a folder of slides"
        raise MissingInputError(message)
    if root.is_file() or is_slide_folder(root):
        return (root,)
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    slides = [entry for entry in entries if reader_of(entry) is not None]
    loose = [
        slide.name
        for slide in slides
        if slide.is_file() and root in {f.parent for f in slide_files(slide)[1:]}
    ]
    if loose:
        message = (
            f"folder {str(root)!r} holds DICOM files ({_named(loose)}) among others; give each slide's DICOM files a "
            "folder of their own"
        )
        raise SlideError(message)
    companions = {slide.with_suffix("") for slide in slides if slide.is_file()}
    others = [entry.name for entry in entries if entry not in slides and entry not in companions]
    if not slides:
        message = f"folder {str(root)!r} holds no slide, but {_named(others) or 'nothing'}; give a slide with --root"
        raise SlideError(message)
    broken = [name for name in others if name.lower().endswith(_SLIDE_NAMES)]
    if broken:
        message = (
            f"folder {str(root)!r} holds {_named(broken)}, named like slides, which cannot be read; copy them again, or "
            "move them elsewhere to go on without them"
        )
        raise SlideError(message)
    if others:
        _log.warning("%s: %d entries are no slides: %s", root, len(others), _named(others))
    if section is not None and len(slides) > 1:
        message = f"--section {section!r} is the name of one section, but --root has {len(slides)} slides; leave it out"
        raise ConfigError(message)
    names = [section_name(slide) for slide in slides]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = (
            f"several slides in {str(root)!r} are named {_named(twice)}, but each is a section; rename them"
        )
        raise SectionError(message)
    return tuple(slides)


def section_name(path: Path) -> str:
    """Name a section after its slide: the file without what says its format."""
    return path.stem.removesuffix(".ome")


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return ", ".join(map(repr, names[:_N_NAMED])) + more
