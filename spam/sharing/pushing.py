"""Sharing a store: `spam store push`."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from spam.errors import StoreError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import PushConfig, SelectConfig
from spam.schemas.store_format import FeatureMeta, SectionMeta
from spam.store import Store, open_store
from spam.store.index import SectionIndex
from spam.store.lock import live_locks
from spam.store.remote import is_remote
from spam.store.remote_faults import shown

from .changed_index import licensed, root_of
from .destinations import Destination, FolderDestination, ObjectDestination
from .hub import HubDestination
from .licence_guard import (
    Objection,
    objection_lines,
    require_sharing_allowed,
    section_licence,
    sharing_objections,
)
from .push_plan import PushPlan, SectionChange, section_change
from .push_report import PushReport
from .readme_card import readme_card
from .selecting import select

__all__ = ["push"]


def push(config: PushConfig, *, progress: Progress = SILENT) -> PushReport:
    """Share a store: on the Hub, in an object store, or in a folder.

    The sections of the store are at the address afterwards; other sections that are there stay, as do features and
    graphs of the same sections that are not in the store. What is there and differs is replaced only with
    ``overwrite``; where its spots differ the whole section is, and where features do the graphs over them are. Only
    files that are not there yet by size and digest are sent, each compared with its digest first. On the Hub all of it
    is one commit. Elsewhere files come first, then the index of their section, the root last; an index that names a
    file that is to be replaced is first replaced by one without it, so nobody meets a mixture; what no index names any
    more is deleted last. A push that was killed goes on when it is run again. Features that are unfinished are not
    sent.

    What is left out or salted is left out of a copy that is made for the push, in the folder for temporary files
    (``TMPDIR``), and removed after it. Salted ids are others each time. What an earlier push sent stays in the history of
    a dataset on the Hub.

    Parameters
    ----------
    config
        Which store, where to, and under which terms.
    progress
        Who watches.

    Raises
    ------
    StoreError
        If the store is damaged or empty, or another process is writing it; if a licence forbids sharing it; if what is
        there differs (names it all; nothing is sent then); if the address is no place for a store, cannot be reached,
        or may not be written to (says why, and what to do).
    """
    assert config.store is not None  # held by __post_init__
    assert config.to is not None
    if config.store.is_file():
        message = f"{str(config.store)!r} is a file; unpack it with `spam store unpack {config.store}`, then push the folder"
        raise StoreError(message)
    store = open_store(config.store)
    unfinished = _require_quiet(store, config.store)
    with (
        tempfile.TemporaryDirectory(prefix="spam-push-") as folder,
        _shared(config, Path(folder), progress) as copy,
    ):
        indexes = _licensed(copy, config.licence)
        features = {name: _features(copy, name) for name in indexes}
        objections = require_sharing_allowed(
            [index.meta for index in indexes.values()],
            [meta for metas in features.values() for meta in metas],
            has_the_right=config.i_have_the_right_to_share,
        )
        destination = _destination(config, Path(folder) / "fetched")
        others, more = _others(destination, indexes)
        changes = [section_change(index, destination.location) for index in indexes.values()]
        replaced = tuple(line for change in changes for line in change.replaced)
        if replaced and not config.overwrite:
            raise _differing(destination.location.address, replaced)
        kept = {change.name: _kept_features(change, destination) for change in changes}
        staying = [meta for metas in (*more.values(), *kept.values()) for meta in metas]
        overridden = list(dict.fromkeys([*objections, *sharing_objections([*others.values()], staying)]))
        plan = PushPlan(
            source=copy.location,
            sections=changes,
            root=root_of([*indexes, *others], overridden=[dataclasses.asdict(one) for one in overridden]),
            readme=_readme(
                config,
                [index.meta for index in indexes.values()] + [*others.values()],
                {name: [*metas, *kept[name]] for name, metas in features.items()} | more,
                overridden,
            ),
        )
        with progress.task("pushing", sum(change.n_bytes for change in plan.sections)) as advance:
            sent = destination.apply(plan, advance)
    return PushReport(
        store=config.store,
        to=shown(str(config.to)),
        sections=tuple(indexes),
        others=tuple(others),
        n_files=sent.n_files,
        n_bytes=sent.n_bytes,
        n_there=sum(len(change.index.files) - len(change.files) for change in plan.sections),
        n_deleted=sent.n_deleted,
        kept=tuple(f"{change.name}/{part.key}" for change in changes for part in change.kept),
        replaced=replaced,
        overridden=tuple(objection_lines(overridden)),
        unfinished=unfinished,
        commit=sent.commit,
    )


def _require_quiet(store: Store, folder: Path) -> tuple[str, ...]:
    """Refuse a store that is empty or is being written; list its unfinished features."""
    names = store.section_names
    writers = [writer for name in names for writer in live_locks(folder, name)]
    if writers or not names:
        fault = f"another process is writing {', '.join(map(repr, writers))}; wait for it, or stop it, and push again"
        fault = fault if writers else "it has no section yet; fill it with `spam embed`"
        message = f"store {store.address!r} cannot be pushed: {fault}"
        raise StoreError(message)
    return tuple(f"{name}/{key}" for name in names for key in store.section(name).unfinished_keys)


@contextlib.contextmanager
def _shared(config: PushConfig, folder: Path, progress: Progress) -> Iterator[Store]:
    """Give the store, or a copy of it in a folder without what must not leave."""
    assert config.store is not None
    if not (config.without_counts or config.without_coordinates or config.salted_ids):
        yield open_store(config.store)
        return
    choice = SelectConfig(
        store=config.store,
        out=folder / "copy",
        without_counts=config.without_counts,
        without_coordinates=config.without_coordinates,
        salted_ids=config.salted_ids,
    )
    select(choice, progress=progress)
    yield open_store(folder / "copy")


def _licensed(store: Store, licence: str | None) -> dict[str, SectionIndex]:
    """Read the indexes of all sections; those that state no licence get this one.

    Raises
    ------
    StoreError
        If all of them state another one.
    """
    indexes = {name: store.section(name).index for name in store.section_names}
    stated = {name: section_licence(index.meta) for name, index in indexes.items()}
    if licence is None:
        return indexes
    if all(found not in (None, licence) for found in stated.values()):
        message = (
            f"--licence {licence!r} is for sections that state none, and all sections of store {store.address!r} state "
            f"another: {', '.join(f'{name} {found}' for name, found in stated.items())}; leave --licence out, or embed the "
            "sections again under the right one"
        )
        raise StoreError(message)
    return {
        name: licensed(index, licence) if stated[name] is None else index for name, index in indexes.items()
    }


def _features(store: Store, name: str) -> list[FeatureMeta]:
    section = store.section(name)
    return [section.feature_meta(key) for key in section.feature_keys]


def _kept_features(change: SectionChange, destination: Destination) -> list[FeatureMeta]:
    keys = [part.key for part in change.kept if part.kind == "features"]
    if not keys:
        return []
    section = Store(destination.location, is_writable=False).section(change.name)
    return [section.feature_meta(key) for key in section.feature_keys if key in keys]


def _differing(address: str, replaced: Sequence[str]) -> StoreError:
    lines = "".join(f"\n- {line}" for line in replaced)
    message = (
        f"{address!r} holds something else under the same name, and nothing was sent:{lines}\nPush to another address, or "
        "replace what is listed with `spam store push --overwrite`"
    )
    return StoreError(message)


def _destination(config: PushConfig, cache: Path) -> Destination:
    assert config.store is not None
    address = str(config.to)
    if address.startswith("hf://"):
        return HubDestination(address, cache=cache, is_private=config.private)
    if address.startswith(("http://", "https://")):
        message = (
            f"{shown(address)!r} is an address of the web, which is only read; push to hf://datasets/org/name, "
            "s3://bucket/name.zarr, gs://bucket/name.zarr or a folder"
        )
        raise StoreError(message)
    if is_remote(address):
        return ObjectDestination(address, cache=cache)
    path = Path(address.removeprefix("file://"))
    if path.is_file() or path.resolve() == config.store.resolve():
        what = "a file" if path.is_file() else "the store itself"
        message = f"{str(path)!r} is {what}; push to another folder, or to an address such as hf://datasets/org/name"
        raise StoreError(message)
    return FolderDestination(path)


def _others(
    destination: Destination, pushed: dict[str, SectionIndex]
) -> tuple[dict[str, SectionMeta], dict[str, list[FeatureMeta]]]:
    """Read what other sections are at the address: they stay, and the README tells of them too."""
    if destination.location.read_index("") is None:
        return {}, {}
    there = Store(destination.location, is_writable=False)
    names = [name for name in there.section_names if name not in pushed]
    return {name: there.section(name).meta for name in names}, {
        name: _features(there, name) for name in names
    }


def _readme(
    config: PushConfig,
    sections: Sequence[SectionMeta],
    features: dict[str, list[FeatureMeta]],
    overridden: Sequence[Objection],
) -> bytes:
    address = shown(str(config.to)).rstrip("/")
    name = address.rsplit("/", 1)[-1].split("@")[0].removesuffix(".zarr")
    ordered = sorted(sections, key=lambda section: section.name)
    return readme_card(name, ordered, features, address=address, overridden=overridden).encode()
