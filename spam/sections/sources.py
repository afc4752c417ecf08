"""Digests of the files that a section was read from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from spam.schemas.store_format import SourceFile

from .section import SlideSource, TileSource
from .slide_files import slide_files

__all__ = ["describe_sources"]


def describe_sources(*, h5ad: Path | None, csv: Path | None, tiles: TileSource) -> tuple[SourceFile, ...]:
    """Return name, size and SHA-256 of the h5ad and the table (if any), and the images.

    What has several files counts as one source. Tile files are named after their folder, and their digest runs over
    the bytes of all of them in order. The digest of a slide of several files (`slide_files`) runs over the
    path of each within the slide, its size and its bytes, so that a file that is moved or lost changes it.
    """
    described = [
        SourceFile(role=role, name=path.name, n_bytes=path.stat().st_size, sha256=_digest([path]))
        for role, path in _tables(h5ad, csv)
    ]
    if isinstance(tiles, SlideSource):
        image = _describe_slide(tiles.path)
    else:
        size = sum(path.stat().st_size for path in tiles.paths)
        name = tiles.paths[0].parent.name
        image = SourceFile(role="tiles", name=name, n_bytes=size, sha256=_digest(tiles.paths))
    return (*described, image)


def _tables(h5ad: Path | None, csv: Path | None) -> list[tuple[Literal["h5ad", "csv"], Path]]:
    tables: list[tuple[Literal["h5ad", "csv"], Path]] = [("h5ad", h5ad)] if h5ad is not None else []
    return tables if csv is None else [*tables, ("csv", csv)]


def _describe_slide(path: Path) -> SourceFile:
    files = slide_files(path)
    size = sum(file.stat().st_size for file in files)
    if files == (path,):
        return SourceFile(role="slide", name=path.name, n_bytes=size, sha256=_digest(files))
    folder = path if path.is_dir() else path.parent
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        _add_file(digest, file)
    return SourceFile(role="slide", name=path.name, n_bytes=size, sha256=digest.hexdigest())


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        _add_file(digest, path)
    return digest.hexdigest()


def _add_file(digest: "hashlib._Hash", path: Path) -> None:
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)  # goes on with the same digest
