"""Stores on the Hugging Face Hub, in object stores and in folders: `spam store push` and `spam store pull`."""

import dataclasses
import hmac
import logging
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from spam.atomic import claimed, replacing
from spam.errors import OutputExistsError, counted
from spam.progress import SILENT, Progress
from spam.schemas.records import Record
from spam.schemas.store_config import PullConfig, PushConfig, SelectConfig
from spam.schemas.store_format import FileEntry

from .copying import select
from .destinations import README, destination
from .feature_store import Store, choose_sections, open_store
from .layout import DONOR, SECTION
from .merging import (
    add_sections,
    changes_of,
    chosen_parts,
    merge_plans,
    named,
    parts_of,
    require_no_conflicts,
    sections_in,
)
from .remote import RemoteLocation, cache_folder, is_remote, shown
from .section_index import SectionIndex, edited, file_entry
from .sharing_terms import dataset_card, require_sharing_allowed, section_licence, sharing_objections
from .stored_section import StoredSection

_log = logging.getLogger(__name__)
_SCRATCH = "spam-push-"
_ADVICE = (
    "State a missing licence with --licence (of `spam embed`, `spam store import` or `spam store push`), leave out sections or "
    "features with `spam store select`"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport(Record):
    """Result of `push` and `pull`.

    Attributes
    ----------
    store, to
        Source and destination.
    sections
        Sections of the source that are at the destination now.
    added
        Features and graphs that were transferred, ``section: features 'key'``.
    n_files, n_bytes
        Files that were transferred, and their size.
    replaced
        What differed at the destination and was replaced, and features that were removed because their section was.
    overridden
        Objections to sharing that were overridden.
    unfinished
        Unfinished features, which are not transferred.
    commit
        Commit on the Hub.
    """

    store: str
    to: str
    sections: tuple[str, ...]
    added: tuple[str, ...]
    n_files: int
    n_bytes: int
    replaced: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    commit: str | None = None

    def summary(self) -> str:
        """List what was transferred, replaced, overridden and left out."""
        lines = [f"overridden: {line}" for line in self.overridden]
        lines += [f"left out unfinished features {name}" for name in self.unfinished]
        lines += [f"replaced {line}" for line in self.replaced]
        lines += [f"added {line}" for line in self.added]
        lines.append(f"transferred {counted(self.n_files, 'file')}, {self.n_bytes / 1e6:.1f} MB")
        at = "" if self.commit is None else f" (commit {self.commit})"
        return "\n".join([*lines, f"sections {', '.join(self.sections)} are at {self.to}{at}"])


def push(config: PushConfig, *, progress: Progress = SILENT) -> TransferReport:
    """Share a store on the Hub, in an object store or in a folder.

    Sections, features and graphs of others at the address stay. What is there and differs is replaced only with
    `overwrite`; a section that is replaced keeps the features of others if they are of the same spots and images. Files
    that are there with the same size and digest are not sent, so a killed push is resumed. On the Hub a push is one commit;
    elsewhere the index of a section comes after its files, so readers never see a part of a change. Data that is removed
    (`without_counts`, …) is removed from a temporary copy in ``TMPDIR``; the order of shuffled spots is drawn from a secret
    key in the cache folder, so that a repeated push sends the same. What an earlier push sent stays in the history of a Hub
    repository. What can identify a person is listed in the log before anything is sent.

    Raises
    ------
    StoreError
        If a licence forbids sharing; if content at the address differs (lists it; nothing is sent); if the store is damaged or
        empty; if the address cannot be reached or written to.
    """
    assert config.store is not None  # checked by PushConfig
    assert config.to is not None
    address = shown(str(config.to)).rstrip("/")
    where = address if is_remote(address) else str(Path(address.removeprefix("file://")).resolve())
    with _scratch() as folder:
        store = open_store(config.store)
        unfinished = [f"{s.meta.name}/{key}" for s in store.sections() for key in s.unfinished_keys]
        if config.without_counts or config.without_coordinates:
            redacted = SelectConfig(
                store=config.store,
                out=folder / "store",
                without_counts=config.without_counts,
                without_coordinates=config.without_coordinates,
                keep_obs=config.keep_obs,
            )
            key = hmac.digest(_own_key(), where.encode(), "sha256")
            for line in select(redacted, progress=progress, key=key).left_out:
                _log.info("left out %s", line)
            store = open_store(folder / "store")
        sections = {name: store.section(name) for name in choose_sections(store, ())}
        for section in sections.values():
            if config.licence is not None and section_licence(section.meta) is None:
                section.index = edited(section.index, licence=config.licence)
                section.meta = section.index.meta
        metas = [section.meta for section in sections.values()]
        pushed = [section.feature_meta(key) for section in sections.values() for key in section.feature_keys]
        objections = sharing_objections(metas, pushed)
        require_sharing_allowed("store", objections, _ADVICE, has_the_right=config.i_have_the_right_to_share)
        place = destination(
            str(config.to), folder / "fetched", "dataset", source=config.store, is_private=config.private
        )
        own = place.sections()
        chosen = [(section, parts_of(section.index)) for section in sections.values()]
        plans = merge_plans(own.values(), chosen)
        if not config.overwrite:
            advice = "Push to another address, or replace them with --overwrite."
            require_no_conflicts(plans, f"{address!r} has something else under the same name", advice)
        changes = changes_of(chosen, own.values(), {name: [*plan.conflicts] for name, plan in plans.items()})
        replaced = [named(plan.base, part) for plan in plans.values() for part in plan.conflicts]
        replaced += [f"{c.index.meta.name}: features {key!r}" for _, c in changes for key in c.lost]
        indexes = {name: section.index for name, section in own.items()}
        indexes |= {change.index.meta.name: change.index for _, change in changes}
        # The path of a folder on this machine may name a person.
        readme = _readme(where if is_remote(where) else Path(where).name, indexes)
        lines = "\n- ".join(_identifying(list(sections.values())))
        _log.warning("This copy can identify a person by (what leaves it out):\n- %s", lines)
        with progress.task("pushing", sum(len(change.files) for _, change in changes)) as advance:
            sent = place.apply(changes, advance)
            place.put(README, readme)
            place.finish()
    return TransferReport(
        store=str(config.store),
        to=address,
        sections=tuple(sections),
        added=tuple(named(section, part) for name, section in sections.items() for part in plans[name].added),
        n_files=len(sent),
        n_bytes=sum(entry.n_bytes for entry in sent),
        replaced=tuple(replaced),
        overridden=objections,
        unfinished=tuple(unfinished),
        commit=place.commit,
    )


@contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a temporary folder; those that killed pushes left are removed first."""
    for old in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(OutputExistsError, OSError), claimed(old, "TMPDIR"):  # in use, or another user's
            shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as folder, claimed(Path(folder), "TMPDIR", wait_s=9):
        yield Path(folder)


def _readme(address: str, indexes: Mapping[str, SectionIndex]) -> bytes:
    features = {name: [*map(index.feature_meta, index.feature_keys)] for name, index in indexes.items()}
    metas = [indexes[name].meta for name in sorted(indexes)]
    return dataset_card(address, metas, features).encode()


def _own_key() -> bytes:
    """Read the secret of this user, from which the order of shuffled spots is drawn; make it the first time."""
    path = cache_folder() / "shuffle.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.touch(mode=0o600)
            partial.write_bytes(secrets.token_bytes())
    return path.read_bytes()


def _identifying(sections: Sequence[StoredSection]) -> Iterator[str]:
    """List what is about to be shared and can identify a person, each with what leaves it out."""
    names = ", ".join(f"{s.meta.name} of donor {s.meta.donor or 'unknown'}" for s in sections)
    yield f"names: {names} (choose others with --section and --donor of `spam embed`)"
    places = [
        *(["coordinates and spot ids"] if any("ids" not in s.meta.redacted for s in sections) else []),
        *(["an overview image of the slide"] if any(s.overview() is not None for s in sections) else []),
        *sorted({f"file {source.name!r}" for s in sections for source in s.meta.sources}),
    ]
    if places:
        yield f"{', '.join(places)} (--without-coordinates)"
    if columns := sorted({name for s in sections for name in s.obs} - {SECTION, DONOR}):
        yield f"obs columns {', '.join(columns)} (--without-counts or --without-coordinates)"
    if n_genes := max(s.meta.n_genes for s in sections):
        yield f"raw counts of {n_genes} genes (--without-counts)"
    if any(s.feature_keys for s in sections):
        yield "features, by which a person who has the slide recognises it (spam store select --features)"


class _Fetched(RemoteLocation):
    """A remote store of which each file is fetched once, without the cache."""

    def read(self, path: str, entry: FileEntry) -> bytes:
        """Fetch a file and compare it with its index entry."""
        data = self._fetch(path, entry.n_bytes)
        if data is None or file_entry(data) != entry:
            raise self.damaged(
                path, "it is missing" if data is None else "its bytes are not those of the index"
            )
        return data


def pull(config: PullConfig, *, progress: Progress = SILENT) -> TransferReport:
    """Fetch a shared store, or some of its sections and features, into a folder.

    Sections, features and graphs that are in the folder already are not fetched again, and a killed run is resumed;
    features that were not asked for before can be added later. Every file is compared with its digest.

    Raises
    ------
    StoreError
        If the address cannot be read, sections or features do not exist, a file is damaged, or the folder has
        something else under the same name (lists it; nothing is written).
    """
    assert config.store is not None  # checked by PullConfig
    assert config.out is not None
    location = _Fetched(str(config.store)) if is_remote(config.store) else open_store(config.store).location
    source = Store(location, is_writable=False)
    sections = [source.section(name) for name in choose_sections(source, config.sections)]
    kept = chosen_parts(sections, config.features)
    chosen = [(section, kept[section.meta.name]) for section in sections]
    own = sections_in(config.out)
    plans = merge_plans(own, chosen)
    require_no_conflicts(
        plans, f"{config.out} has something else under the same name", "Pull into another folder."
    )
    fetched = add_sections(config.out, own, chosen, progress, "pulling")
    return TransferReport(
        store=source.address,
        to=str(config.out),
        sections=tuple(section.meta.name for section in sections),
        added=tuple(named(plan.base, part) for plan in plans.values() for part in plan.added),
        n_files=len(fetched),
        n_bytes=sum(entry.n_bytes for entry in fetched),
    )
