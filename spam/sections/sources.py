"""Digests of the files that a section was read from."""

import hashlib
from pathlib import Path

from spam.schemas.store_meta import SourceFile

from .section import SlideSource, TileSource

__all__ = ["describe_sources"]


def describe_sources(*, h5ad: Path | None, csv: Path, tiles: TileSource) -> tuple[SourceFile, ...]:
    """Return name, size and SHA-256 of the h5ad (if any), the table and the images.

    Tile files count as one source, named after their folder: the digest runs over the bytes of all files in
    order.
    """
    described = [SourceFile(role="csv", name=csv.name, n_bytes=csv.stat().st_size, sha256=_digest([csv]))]
    if h5ad is not None:
        size = h5ad.stat().st_size
        described.insert(0, SourceFile(role="h5ad", name=h5ad.name, n_bytes=size, sha256=_digest([h5ad])))
    if isinstance(tiles, SlideSource):
        size = tiles.path.stat().st_size
        image = SourceFile(role="slide", name=tiles.path.name, n_bytes=size, sha256=_digest([tiles.path]))
    else:
        size = sum(path.stat().st_size for path in tiles.paths)
        name = tiles.paths[0].parent.name
        image = SourceFile(role="tiles", name=name, n_bytes=size, sha256=_digest(tiles.paths))
    return (*described, image)


def _digest(paths: tuple[Path, ...] | list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with the same digest: one over all files
    return digest.hexdigest()
