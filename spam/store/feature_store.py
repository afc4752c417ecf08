"""Opening and making stores, adding sections to them, and choosing sections by name."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from spam.atomic import PARTIAL
from spam.errors import StoreError, shortened
from spam.schemas.store_format import QUALITY, STORE_FORMAT, STORE_VERSION, SectionMeta, name_fault
from spam.sections import Section
from spam.sections.geojson import LABELS
from spam.versions import software_versions

from .layout import (
    FORMAT,
    INDEX,
    LIBRARY,
    LOCKS,
    SECTIONS,
    SPAM,
    SPATIAL,
    SPATIAL_UM,
    STAGING,
    TABLES,
    VERSION,
)
from .places import FolderLocation, Location, Opened, ZipLocation
from .remote import RemoteLocation, is_remote
from .section_index import read_sealed
from .section_tables import Overview, spots_digest
from .stored_section import StoredSection
from .writing import discard, locked_section, remove_leftovers, write_root, write_section


class Store(Opened):
    """Sections in one place; made by `open_store` and `create_store`.

    Attributes
    ----------
    added
        Sections that `add_section` wrote.
    """

    def __init__(self, location: Location, *, is_writable: bool) -> None:
        self.location, self.is_writable = location, is_writable
        self.added: list[str] = []
        self._listed = read_root(location)

    @property
    def address(self) -> str:
        """Folder, packed file or remote address."""
        return self.location.address

    @property
    def section_names(self) -> tuple[str, ...]:
        """Names of the sections, sorted."""
        return self.location.section_names(self._listed)

    def section(self, name: str) -> StoredSection:
        """Open a section.

        Raises
        ------
        StoreError
            If there is none of that name, or it is damaged.
        """
        choose_sections(self, [name], "--section")
        return StoredSection(self.location, name, is_writable=self.is_writable)

    def sections(self) -> list[StoredSection]:
        """Open all sections, sorted by name."""
        return [self.section(name) for name in self.section_names]

    def add_section(
        self,
        section: Section,
        *,
        slide_size_px: tuple[int, int] | None,
        licence: str | None,
        overview: Overview | None,
        is_overwrite: bool = False,
    ) -> StoredSection:
        """Write a section without features; readers see it once it is complete.

        Parameters
        ----------
        section
            The section as read from the lab files.
        slide_size_px
            Width and height of the slide at full resolution; None for tile files.
        licence
            Licence of counts and images, as an SPDX name, or None.
        overview
            Small image of the slide, or None.
        is_overwrite
            Replace a section of that name, with its features and graphs.

        Raises
        ------
        StoreError
            If the store is open for reading only or has such a section, another process writes it, or a name cannot be
            stored.
        """
        folder, name = self.folder, section.name
        width, height = slide_size_px or (None, None)
        columns = (name_fault(column, "obs column") for column in section.obs)
        named = name_fault(name, "the section's name (--section)", reserved=(TABLES,))
        faults = [fault for fault in (named, *columns) if fault]
        if faults:
            message = f"Section {name!r} cannot be stored: {'; '.join(faults)}. Rename it."
            raise StoreError(message)
        meta = SectionMeta(
            name=name,
            donor=section.donor,
            n_spots=section.n_spots,
            n_genes=0 if section.genes is None else len(section.genes),
            has_counts=section.counts is not None,
            mpp=section.mpp,
            mpp_source=section.mpp_source,
            slide_width_px=width,
            slide_height_px=height,
            sources=section.sources,
            software=software_versions(),
            spots_sha256=spots_digest(section.ids, section.xy_px),
            licence=licence,
            placement_doubt=section.join.placement_doubt,
        )
        with locked_section(folder, name):
            if name in self.section_names and not is_overwrite:
                message = f"Store {self.address!r} has a section {name!r}. Use another --section, or replace it: --overwrite"
                raise StoreError(message)
            write_section(
                folder,
                meta,
                ids=section.ids,
                xy_px=section.xy_px,
                xy_um=section.xy_um,
                counts=section.counts,
                genes=section.genes,
                obs={f"lab_{c}" if c == LIBRARY else c: values for c, values in section.obs.items()},
                overview=None if overview is None else (overview.image, overview.scale),
                spot_diameter_px=section.spot_diameter_px,
            )
            self.added.append(name)
        write_root(folder)
        return self.section(name)


def open_store(address: Path | str, *, is_read_only: bool = True) -> Store:
    """Open a store: a folder, a packed store, or one at an address (``s3://bucket/cohort.zarr``).

    Raises
    ------
    StoreError
        If there is none, it has another format version or is damaged, or a packed one is opened for writing.
    """
    store = Store(find_location(address), is_writable=not is_read_only)
    if store.is_writable and isinstance(store.location, ZipLocation):
        message = f"A packed store is read-only. Unpack it first: spam store unpack {address}"
        raise StoreError(message)
    if store.is_writable:
        remove_leftovers(store.folder)
        if store._listed != store.section_names:  # a writer was killed before it updated the root
            write_root(store.folder)
    return store


def find_location(address: Path | str) -> Location:
    """Find where the files of a store are, without reading them.

    Raises
    ------
    StoreError
        If there is nothing, or a file that is not a packed store, or an address that cannot be opened.
    """
    if is_remote(address):
        return RemoteLocation(str(address))
    path = Path(str(address).removeprefix("file://"))
    if not path.exists():
        message = f"No store at {str(path)!r}. Make one with: spam embed --store {path}"
        raise StoreError(message)
    return FolderLocation(path) if path.is_dir() else ZipLocation(path)


def create_store(path: Path | str) -> Store:
    """Make an empty store, or open an existing one, for writing.

    Raises
    ------
    StoreError
        If there is something else at `path`, or a store of another format version.
    """
    path = Path(path)
    # A writer that was killed before it made a store of the folder leaves locks.
    if not path.exists() or (path.is_dir() and all(map(_is_ours, path.iterdir()))):
        path.mkdir(parents=True, exist_ok=True)
        write_root(path)
    return open_store(path, is_read_only=False)


def _is_ours(path: Path) -> bool:
    """Tell whether an entry of a store's folder is neither its root nor a section."""
    return path.name == LOCKS or path.name.startswith(STAGING) or path.name.endswith(PARTIAL)


@contextlib.contextmanager
def filled_store(path: Path) -> Iterator[Store]:
    """Open a store for writing, or make one; if the ``with`` block fails, an empty one that was made is removed.

    So are sections that were added in the block and have no chunk of features.

    Raises
    ------
    StoreError
        As `create_store`.
    """
    was_there, had_root = path.exists(), (path / INDEX).exists()
    try:
        store = create_store(path)
    except OSError:  # a full disk
        if not was_there:
            shutil.rmtree(path, ignore_errors=True)
        raise
    try:
        yield store
    except Exception:  # an interrupted run is resumed
        for name in store.added:
            with contextlib.suppress(StoreError), locked_section(path, name):  # else another process fills it
                begun = {chunk.parents[2].name for chunk in (path / name / "obsm").glob("*/c/*/0")}
                if all(key in (SPATIAL, SPATIAL_UM) or key.endswith(f"_{QUALITY}") for key in begun):
                    discard(path, name)
        remove_leftovers(path)  # keeps those of processes that are alive
        others = [e for e in path.iterdir() if not _is_ours(e) and e.name not in (INDEX, TABLES)]
        if not had_root and not others and not any(path.glob(f"{STAGING}*")):
            for entry in path.iterdir():
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
            if not was_there:
                path.rmdir()
        else:
            write_root(path)
        raise


def read_root(location: Location) -> tuple[str, ...]:
    """Check that this is a store of this format version; return the names of the sections in its root.

    Raises
    ------
    StoreError
        If it is none, has another version, or its root is damaged.
    """
    where = repr(location.address)
    data = location.read_index("")
    if data is None:
        message = (
            f"{where} is not a store: it has no {INDEX!r}. Give the folder that `spam embed --store` wrote."
        )
        raise StoreError(message)
    try:  # before the digest, which another version may compute differently
        attributes = json.loads(data)["attributes"]
        found, version = attributes.get(FORMAT), attributes.get(VERSION)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"Damaged root: {where} has no attributes ({type(error).__name__}: {error})."
        raise StoreError(message) from error
    if found != STORE_FORMAT:
        advice = "Give the folder of the store, not a section inside it."
        message = f"{where} is not a store of spam ({FORMAT}={shortened(found)}). {advice}"
        raise StoreError(message)
    if version != STORE_VERSION:
        remedy = "Update with: pip install --upgrade spam-st"
        if isinstance(version, int) and version < STORE_VERSION:
            remedy = "Make it again with: spam embed"
        message = f"Store {where} has format version {shortened(version)}, this version of spam reads {STORE_VERSION}. {remedy}"
        raise StoreError(message)
    names = read_sealed(data, location.address)["attributes"][SPAM].get(SECTIONS)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        message = f"Damaged root: store {where} lists no sections."
        raise StoreError(message)
    return tuple(sorted(names))


def differences(stored: StoredSection, section: Section, licence: str | None) -> list[str]:
    """Describe how a stored section differs from a new one of the same name.

    The table itself may have changed, as in a growing cohort; its rows of these spots must not have.
    """
    old, n_genes = stored.meta, 0 if section.genes is None else len(section.genes)
    facts = [
        ("donor", old.donor, section.donor),
        ("µm per pixel (--mpp)", old.mpp, section.mpp),
        ("number of spots", old.n_spots, section.n_spots),
        ("number of genes", old.n_genes, n_genes),
        ("licence", old.licence, licence or old.licence),
    ]
    if not old.redacted:
        before, after = (
            {source.role: source.sha256[:12] for source in sources if source.role != "csv"}
            for sources in (old.sources, section.sources)
        )
        # A section that was made for imported features knows no images; then what both know must be equal.
        has_images = all({"slide", "tiles", "folder"} & {*roles} for roles in (before, after))
        roles = {*before, *after} if has_images else {*before} & {*after}
        facts += [(role, before.get(role), after.get(role)) for role in sorted(roles)]
    found = [
        f"{what} was {_said(before)}, is {_said(after)}" for what, before, after in facts if before != after
    ]
    if old.redacted:
        return [*found, f"the store holds a copy without {', '.join(old.redacted)}"]
    if not found:
        arrays = {"ids": (stored.ids, section.ids), "coordinates": (stored.xy_px, section.xy_px)}
        found = [f"{what} of the spots differ" for what, (a, b) in arrays.items() if not np.array_equal(a, b)]
    if not found and section.counts is not None and section.genes is not None and stored.genes is not None:
        is_same = np.array_equal(stored.genes, section.genes) and not (stored.counts() != section.counts).nnz
        found = [] if is_same else ["counts differ (--counts-layer)"]
    labels = section.obs.get(LABELS)
    if not found and labels is not None and labels.dtype.kind == "U":  # the file of --regions is no source
        is_same = LABELS in stored.obs and np.array_equal(stored.obs[LABELS].astype(str), labels)
        found = [] if is_same else [f"obs[{LABELS!r}] differs (--regions)"]
    return found


def _said(fact: str | float | int | None) -> str:  # noqa: PYI041 - run-time checks tell int from float
    return "not given" if fact is None else f"{fact:g}" if isinstance(fact, float) else shortened(fact)


def choose_sections(store: Store, names: Sequence[str], flag: str = "--sections") -> tuple[str, ...]:
    """Return the sections that are named, in that order; all of them if none is named.

    Raises
    ------
    StoreError
        If the store lacks one of them, or has none at all.
    """
    found = store.section_names
    missing = [name for name in names if name not in found]
    if missing or not found:
        message = (
            f"Store {store.address!r} has no section {', '.join(map(repr, missing))} ({flag}); it has: "
            f"{', '.join(map(repr, found)) or 'none'}. Add one with: spam embed, or spam store import --h5ad"
        )
        raise StoreError(message)
    return tuple(dict.fromkeys(names)) or found
