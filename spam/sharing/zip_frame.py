"""What a packed store holds around its files: the headers and the list of files, byte for byte."""

import io
import stat
import zipfile
from pathlib import Path

__all__ = ["frame_faults", "packed_entry"]

_BLOCK = 1 << 22
_UNIX = 3  # "made by", so that the permissions count (APPNOTE 6.3, 4.4.2)
_PERMISSIONS = (stat.S_IFREG | 0o644) << 16


def packed_entry(name: str, n_bytes: int) -> zipfile.ZipInfo:
    """Describe a file of a packed store: stored as it is, dated 1980-01-01, the same on every machine.

    Parameters
    ----------
    name
        Path within the store.
    n_bytes
        Size of the file; from 2 GB on the header has room for larger numbers.
    """
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr, info.file_size = _UNIX, _PERMISSIONS, n_bytes
    return info


def frame_faults(path: Path) -> list[str]:
    """List where a packed store differs from what packing its own files again would write.

    So no byte is left out: not the dates, permissions and checksums in the headers, not what lies between or behind
    the entries. The files themselves are compared elsewhere, with their digests.

    Parameters
    ----------
    path
        The ZIP file; its list of entries can be read.
    """
    with zipfile.ZipFile(path) as there, path.open("rb") as file:
        again = _Comparison(file)
        with zipfile.ZipFile(again, "w") as archive:
            for name in sorted(there.namelist()):
                again.name = name
                try:
                    size = there.getinfo(name).file_size
                    with there.open(name) as old, archive.open(packed_entry(name, size), "w") as new:
                        while block := old.read(_BLOCK):
                            new.write(block)
                except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError) as error:
                    return [f"the header of {name!r} is not what was written ({error})"]
            again.name = None
    return again.faults(path.stat().st_size)


class _Comparison(io.RawIOBase):
    """A file to write to that keeps nothing but the places where another file has other bytes."""

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._file, self._at, self._end = file, 0, 0
        self._differing: dict[tuple[int, int], str | None] = {}
        self.name: str | None = None
        """Entry that is being written; None at the end, for the list of entries."""

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        assert whence == io.SEEK_SET
        self._at = offset
        return offset

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # zipfile writes nothing but bytes
        """Compare `data` with what the other file has there; what is written again replaces the first verdict."""
        place = (self._at, self._at + len(data))
        self._file.seek(self._at)
        self._differing.pop(place, None)
        if self._file.read(len(data)) != data:
            self._differing[place] = self.name
        self._at += len(data)
        self._end = max(self._end, self._at)
        return len(data)

    def faults(self, n_bytes: int) -> list[str]:
        """Say where the files differ."""
        found = [
            f"bytes {start}:{stop}, "
            f"{'its list of files' if name is None else f'the header of {name!r}'}, are not what was written"
            for (start, stop), name in sorted(self._differing.items())
        ]
        if n_bytes != self._end:
            found.append(f"it has {n_bytes} bytes, expected {self._end}")
        return found
