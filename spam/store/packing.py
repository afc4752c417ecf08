"""A store as one ZIP file: `spam store pack` and `spam store unpack`."""

import zipfile

from spam.atomic import replacing
from spam.errors import MissingInputError, OutputExistsError, StoreError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import PackConfig, SelectConfig, UnpackConfig

from .copying import select
from .feature_store import open_store
from .layout import INDEX, TABLES, TABLES_INDEX
from .merging import CopyReport
from .writing import root_index

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest of ZIP: equal stores give equal files
_MODE = 0o100644 << 16  # a plain file


def pack(config: PackConfig, *, progress: Progress = SILENT) -> CopyReport:
    """Pack a store into one ZIP file that every command reads in place: entries are sorted and not compressed.

    Raises
    ------
    StoreError
        If there is no store, or a file is damaged.
    OutputExistsError
        If there is something at `out`.
    """
    assert config.store is not None  # checked by PackConfig
    out = config.out or config.store.with_name(f"{config.store.name}.zip")
    if out.exists():
        message = f"{out} exists already. Delete it, or choose another name."
        raise OutputExistsError(message)
    out.parent.mkdir(parents=True, exist_ok=True)
    store = open_store(config.store)
    sections = store.sections()
    entries = {
        f"{section.meta.name}/{path}": entry
        for section in sections
        for path, entry in section.index.files.items()
    }
    indexes = {f"{section.meta.name}/{INDEX}": section.index.data for section in sections}
    indexes |= {INDEX: root_index(store.section_names), f"{TABLES}/{INDEX}": TABLES_INDEX}
    with (
        replacing(out) as partial,
        zipfile.ZipFile(partial, "w") as archive,
        progress.task("packing", len(entries)) as advance,
    ):
        for name in sorted([*entries, *indexes]):
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = _MODE
            data = indexes[name] if name in indexes else store.location.read(name, entries[name])
            archive.writestr(info, data)
            advance(note=name.split("/")[0])
    unfinished = tuple(f"{s.meta.name}/{key} (unfinished)" for s in sections for key in s.unfinished_keys)
    return CopyReport(out=out, sections=store.section_names, added=(), left_out=unfinished)


def unpack(config: UnpackConfig, *, progress: Progress = SILENT) -> CopyReport:
    """Write a packed store to a folder: only files that its indexes name, each compared with its digest.

    Raises
    ------
    MissingInputError
        If there is no such file.
    StoreError
        If it is not a packed store, or is damaged.
    OutputExistsError
        If there is something at `out`.
    """
    assert config.packed is not None  # checked by UnpackConfig
    if not config.packed.is_file():
        message = f"File not found: {config.packed} (packed store)."
        raise MissingInputError(message)
    out = config.out or config.packed.with_name(config.packed.name.removesuffix(".zip"))
    if out == config.packed:
        message = f"{out} does not end with .zip. Name the folder to write with --out."
        raise StoreError(message)
    return select(SelectConfig(store=config.packed, out=out), progress=progress)
