"""Folders of ready-cut tiles: one file per spot, all squares of one size."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from spam.errors import SlideError, TileError

from .opening import open_slide

__all__ = ["common_side_px", "side_px"]

_N_NAMED = 5  # files named in an error; more do not help


def side_px(path: Path) -> int:
    """Read the side of a square tile file in pixels, from its header alone.

    Raises
    ------
    MissingInputError
        If the file is not there.
    SlideError
        If the file is no readable image.
    TileError
        If it is not square.
    """
    return common_side_px([path])


def common_side_px(paths: Sequence[Path], *, is_forgiving: bool = False) -> int:
    """Read the side that all tile files share, in pixels, from their headers alone.

    Parameters
    ----------
    paths
        The files.
    is_forgiving
        Whether files that are no readable image are passed over, unless all are.

    Raises
    ------
    MissingInputError
        If a file is not there.
    SlideError
        If files are no readable images; counts them, and says what is wrong with the first.
    TileError
        If a file is not square, or the files are not all of one size; names those that are unlike the most.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    unreadable: dict[Path, SlideError] = {}
    files = tuple(dict.fromkeys(paths))
    for path in files:
        try:
            with open_slide(path) as tile:
                sizes[path] = tile.width, tile.height
        except SlideError as error:
            unreadable[path] = error
    if unreadable and not (is_forgiving and sizes):
        raise SlideError(_unreadable(unreadable, len(files))) from next(iter(unreadable.values()))
    (width, height), n_alike = Counter(sizes.values()).most_common(1)[0]
    unlike = [f"{path.name!r} is {w} x {h} px" for path, (w, h) in sizes.items() if (w, h) != (width, height)]
    if unlike:
        message = (
            f"tile files must all be of one size: {n_alike} of {len(sizes)} are {width} x {height} px, but "
            f"{_first_of(unlike)}; cut them alike, or give the slide itself in --root"
        )
        raise TileError(message)
    if width != height:
        message = (
            f"tile files must be square, but {next(iter(sizes)).name!r} is {width} x {height} px; "
            "cut them as squares, or give the slide itself in --root"
        )
        raise TileError(message)
    return width


def _unreadable(errors: Mapping[Path, SlideError], n_files: int) -> str:
    """Count and name files that cannot be read, and say why the first cannot."""
    first = next(iter(errors.values()))
    if n_files == 1:
        return str(first)
    return (
        f"{len(errors)} of {n_files} tile files cannot be read: {_first_of([repr(path.name) for path in errors])}, the "
        f"first because {first}; mend them, or leave them out with --skip-bad-tiles"
    )


def _first_of(words: Sequence[str]) -> str:
    more = f" and {len(words) - _N_NAMED} more" if len(words) > _N_NAMED else ""
    return ", ".join(words[:_N_NAMED]) + more
