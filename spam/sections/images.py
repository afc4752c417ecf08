"""The image files that the table names: one slide, or one tile file per spot."""

from pathlib import Path

from spam.errors import MissingInputError, SectionError

from .section import SlideSource, TileFiles, TileSource
from .slide_files import is_slide
from .table import SLIDE_COLUMN, Table
from .wording import quoted

__all__ = ["find_tiles"]


def find_tiles(table: Table, root: Path) -> TileSource:
    """Find the images of the joined rows below `root`, or below its folder ``images``.

    One image for all rows of ``source_image`` is a slide; as many images as rows, or a column of tile files,
    are tiles.

    Raises
    ------
    SectionError
        If a row names no image, or the rows name several images but not one each.
    MissingInputError
        If images are not there; says how many and where was looked.
    """
    column = table.image_column
    names = [str(name) for name in table.text(column)]
    unnamed = [str(name) for name, image in zip(table.text(table.id_column), names, strict=True) if not image]
    if unnamed:
        message = (
            f"{table.path}: {len(unnamed)} rows have an empty {column!r}, first for the ids "
            f"{quoted(unnamed)}; name the slide or tile file of every row"
        )
        raise SectionError(message)
    different = list(dict.fromkeys(names))
    is_one_slide = column == SLIDE_COLUMN and len(different) == 1
    if column == SLIDE_COLUMN and 1 < len(different) < len(names):
        message = (
            f"{table.path}: {len(names)} rows of this section name {len(different)} images in {column!r} "
            f"({quoted(different)}), but a section has one slide, or one tile file for each row; if these "
            "are several sections, add a column 'section' to the table and choose one with --section"
        )
        raise SectionError(message)
    found = {name: _find(name, root) for name in different}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        kind = "slide" if is_one_slide else "tile files"
        folders = [name for name in missing if (root / name).is_dir() or (root / "images" / name).is_dir()]
        no_slides = (
            f" (there are folders of that name: {quoted(folders)}, but neither an OME-Zarr nor a folder of DICOM "
            "files)"
            if folders
            else ""
        )
        message = (
            f"{len(missing)} of {len(different)} {kind} named in column {column!r} of {table.path} are not "
            f"there: {quoted(missing)}{no_slides}; looked in {root} and {root / 'images'}; --root must be the folder "
            "that these names start from"
        )
        raise MissingInputError(message)
    paths = tuple(path for name in names if (path := found[name]) is not None)
    return SlideSource(path=paths[0]) if is_one_slide else TileFiles(paths=paths)


def _find(name: str, root: Path) -> Path | None:
    """Return the first of ``root/name`` and ``root/images/name`` that is a file, or a folder that is a slide."""
    return next((path for path in (root / name, root / "images" / name) if is_slide(path)), None)
