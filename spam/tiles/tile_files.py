"""Folders of ready-cut tiles: one file per spot, all squares of one size."""

from collections import Counter
from collections.abc import Sequence
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
        If a file is no readable image.
    TileError
        If a file is not square, or the files are not all of one size; names those that are unlike the most.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    files = tuple(dict.fromkeys(paths))
    for path in files:
        try:
            with open_slide(path) as tile:
                sizes[path] = tile.width, tile.height
        except SlideError:
            if not is_forgiving or (path == paths[-1] and not sizes):
                raise
    (width, height), n_alike = Counter(sizes.values()).most_common(1)[0]
    unlike = [f"{path.name!r} is {w} x {h} px" for path, (w, h) in sizes.items() if (w, h) != (width, height)]
    if unlike:
        more = f" and {len(unlike) - _N_NAMED} more" if len(unlike) > _N_NAMED else ""
        message = (
            f"tile files must all be of one size: {n_alike} of {len(sizes)} are {width} x {height} px, but "
            f"{', '.join(unlike[:_N_NAMED])}{more}; cut them alike, or give the slide itself in --root"
        )
        raise TileError(message)
    if width != height:
        message = (
            f"tile files must be square, but {next(iter(sizes)).name!r} is {width} x {height} px; "
            "cut them as squares, or give the slide itself in --root"
        )
        raise TileError(message)
    return width
