"""Chunks of features that wait, each in a file of raw rows, until all are there.

A file's name is the number of the chunk and the SHA-256 of its bytes. It is written under another name, brought to
the disk and renamed: a chunk is done if and only if a file has its name. So any number of processes may add chunks,
and a killed one loses the chunk that it was computing.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta
from spam.typing import Array, Int64, Shaped

from .feature_format import Cut, stored_dtype
from .sealing import write_durably
from .staging import make_folder

__all__ = ["Begun", "StagedChunks"]

_META = "features.json"
_CHUNK = re.compile(r"(\d{8})-([0-9a-f]{64})\.rows")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What some chunks are part of.

    Attributes
    ----------
    meta
        How the features are made.
    identity
        Their `feature_identity`.
    run
        What else decides over their last bits, such as the batch size: a run that goes on must share it.
    replaces
        Content digest of the finished features in whose place they are made, or None.
    """

    meta: FeatureMeta
    identity: str
    run: dict[str, str | int]
    replaces: str | None


class StagedChunks:
    """A folder of chunks.

    Parameters
    ----------
    folder
        The folder; it is made by `begin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def is_begun(self) -> bool:
        """Whether there is a folder that says what its chunks are."""
        return (self.folder / _META).is_file()

    def begin(self, begun: Begun) -> None:
        """Make the folder, and say in it what its chunks are."""
        make_folder(self.folder)
        plain = {**dataclasses.asdict(begun), "meta": begun.meta.to_mapping()}
        write_durably(self.folder / _META, json.dumps(plain).encode())

    def described(self) -> Begun:
        """Read what the chunks are.

        Raises
        ------
        StoreError
            If that cannot be read.
        """
        try:
            values = json.loads((self.folder / _META).read_bytes())
            return Begun(**{**values, "meta": FeatureMeta.from_mapping(values["meta"])})
        except (ValueError, KeyError, TypeError) as error:
            message = (
                f"unfinished features in {str(self.folder)!r} cannot be gone on with ({error!r}); begin anew with "
                "`spam embed --overwrite`"
            )
            raise StoreError(message) from error

    def done(self) -> dict[int, tuple[Path, str]]:
        """Find the chunks that are done: file and digest by number; none if another process has cleared them away."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self.folder.iterdir()):
                match = _CHUNK.fullmatch(path.name)
                if match:
                    found[int(match[1])] = (path, match[2])
        return found

    def write(self, number: int, rows: Shaped[Array, "n dim"]) -> None:
        """Write a chunk; it is done when this returns."""
        data = rows.tobytes()
        name = f"{number:08d}-{hashlib.sha256(data).hexdigest()}.rows"
        write_durably(self.folder / name, data)

    def read(self, number: int, meta: FeatureMeta, cut: Cut) -> Shaped[Array, "n dim"]:
        """Read a chunk back, after comparing it with its digest.

        Raises
        ------
        StoreError
            If it is not what was written (as after a power cut).
        """
        path, digest = self.done()[number]
        data = path.read_bytes()
        rows = cut.chunks[number]
        shape = (rows.stop - rows.start, meta.dim)
        dtype = stored_dtype(meta.dtype)
        if hashlib.sha256(data).hexdigest() != digest or len(data) != shape[0] * shape[1] * dtype.itemsize:
            message = (
                f"rows {rows.start}:{rows.stop} of the unfinished features {meta.key!r} are not what was written; "
                f"check the disk, delete {str(path)!r}, and run `spam embed` again to compute them anew"
            )
            raise StoreError(message)
        return np.frombuffer(data, dtype).reshape(shape)

    def reordered(
        self, order: Int64[Array, " n_spots"], meta: FeatureMeta, cut: Cut
    ) -> Iterator[Shaped[Array, "n dim"]]:
        """Read rows back in the order of the spots, chunk by chunk; `order` names the spot of each row that was written.

        Raises
        ------
        StoreError
            As `read`; every chunk is compared with its digest before the first row is given.
        """
        for number in range(len(cut.chunks)):
            self.read(number, meta, cut)
        files = self.done()
        dtype = stored_dtype(meta.dtype)
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        for chunk in cut.chunks:
            places = position[chunk]
            rows = np.empty((len(places), meta.dim), dtype)
            by_place = np.argsort(places)
            number_of, row_of = np.divmod(places[by_place], cut.chunk_rows)
            for number in np.unique(number_of):
                with files[int(number)][0].open("rb") as file:
                    for i in np.flatnonzero(number_of == number):
                        file.seek(int(row_of[i]) * meta.dim * dtype.itemsize)
                        file.readinto(rows[by_place[i]].data.cast("B"))
            yield rows
