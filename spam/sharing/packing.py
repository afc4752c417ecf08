"""Packing a store into one file: `spam store pack`."""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spam.atomic import replacing
from spam.errors import StoreError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import PackConfig
from spam.schemas.store_index import FileEntry
from spam.store import Store, open_store
from spam.store.index import SectionIndex
from spam.store.layout import INDEX, SECTIONS, SPAM
from spam.store.lock import live_locks
from spam.store.sealing import sealed, sync

from .copying import checked_blocks
from .new_folder import require_absent
from .zip_frame import packed_entry

__all__ = ["PackReport", "files_of", "pack"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PackReport:
    """What `pack` did.

    Attributes
    ----------
    store, out
        The store and its packed copy.
    sections
        Names of the sections.
    n_files, n_bytes
        Entries and size of the packed copy.
    unfinished
        Features that a writer began and did not finish, ``section/key``; they are left out.
    """

    store: Path
    out: Path
    sections: tuple[str, ...]
    n_files: int
    n_bytes: int
    unfinished: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "store": str(self.store),
            "out": str(self.out),
            "sections": list(self.sections),
            "n_files": self.n_files,
            "n_bytes": self.n_bytes,
            "unfinished": list(self.unfinished),
        }

    def summary(self) -> str:
        """Write what was packed, and what was left out."""
        left_out = [f"unfinished features were left out: {name}" for name in self.unfinished]
        sizes = f"{len(self.sections)} sections, {self.n_files} files, {self.n_bytes} bytes"
        return "\n".join([*left_out, f"packed {self.store} into {self.out}: {sizes}"])


def pack(config: PackConfig, *, progress: Progress = SILENT) -> PackReport:
    """Pack a store into one ZIP file, which opens without being unpacked.

    The entries are stored, not compressed, in the order of their names, dated 1980 and with the same permissions: equal
    stores give equal files. Only what the indexes name is packed, each file compared with its digest on the way; the
    file appears when it is whole.

    Parameters
    ----------
    config
        Which store, and where to.
    progress
        Who watches.

    Raises
    ------
    StoreError
        If there is no store, it is damaged, or another process is writing it.
    OutputExistsError
        If there is something at `out`.
    """
    assert config.store is not None  # held by __post_init__
    out = config.out or config.store.with_name(f"{config.store.name}.zip")
    if config.store.is_file():
        message = (
            f"{str(config.store)!r} is a file; give the folder of a store (a packed store is packed already)"
        )
        raise StoreError(message)
    require_absent(out)
    store = open_store(config.store)
    sections = [store.section(name) for name in store.section_names]
    writers = [name for section in sections for name in live_locks(config.store, section.meta.name)]
    if writers:
        message = (
            f"store {store.address!r} cannot be packed: another process is writing {', '.join(map(repr, writers))}; "
            "wait for it, or stop it, and pack again"
        )
        raise StoreError(message)
    indexes = {section.meta.name: section.index for section in sections}
    files = files_of(indexes)
    small = {INDEX: _root(store), **{f"{name}/{INDEX}": index.data for name, index in indexes.items()}}
    with replacing(out) as partial:
        with (
            zipfile.ZipFile(partial, "w") as archive,
            progress.task("packing", len(files) + len(small)) as advance,
        ):
            for name in sorted([*files, *small]):
                n_bytes = files[name].n_bytes if name in files else len(small[name])
                with archive.open(packed_entry(name, n_bytes), "w") as entry:
                    if name in files:
                        for block in checked_blocks(store.location, name, files[name]):
                            entry.write(block)
                    else:
                        entry.write(small[name])
                advance(note=name.split("/")[0])
        sync(partial)
    return PackReport(
        store=config.store,
        out=out,
        sections=tuple(indexes),
        n_files=len(files) + len(small),
        n_bytes=out.stat().st_size,
        unfinished=tuple(
            f"{section.meta.name}/{key}" for section in sections for key in section.unfinished_keys
        ),
    )


def files_of(indexes: Mapping[str, SectionIndex]) -> dict[str, FileEntry]:
    """Name the files of all sections, by path within the store, without the indexes themselves."""
    return {f"{name}/{path}": entry for name, index in indexes.items() for path, entry in index.files.items()}


def _root(store: Store) -> bytes:
    """Give the root of a store with the sections that are there: a writer may have been killed before it told it."""
    data = store.location.read_index("")
    assert data is not None  # open_store read it
    document = json.loads(data)
    document["attributes"][SPAM][SECTIONS] = list(store.section_names)
    return sealed(document)[0]
