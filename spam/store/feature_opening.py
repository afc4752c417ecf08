"""Beginning features, or going on with them: what is there already, and whether it is what is asked for."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spam.errors import StoreError
from spam.schemas.store_meta import FeatureMeta, feature_identity
from spam.typing import Array, Int64

from .feature_writer import LOCK_WAIT_S, FeatureWriter
from .index import SectionIndex, content_digest
from .layout import META, SPAM, SPATIAL, SPATIAL_UM, STAGING, name_fault
from .lock import locked
from .staged_chunks import Begun, StagedChunks
from .staging import discard

__all__ = ["open_feature_writer"]

_log = logging.getLogger(__name__)


def open_feature_writer(
    store: Path,
    section: str,
    meta: FeatureMeta,
    *,
    run: Mapping[str, str | int],
    order: Int64[Array, " n_spots"] | None,
    is_overwrite: bool,
    refresh: Callable[[], SectionIndex],
) -> FeatureWriter:
    """Begin a feature array, or go on with it; see `StoredSection.feature_writer`.

    Raises
    ------
    StoreError
        If `meta` cannot be stored, or differs from that of the array that is there.
    """
    _check_meta(meta)
    if order is not None:
        run = {**run, "order of the rows": hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:12]}
    name, node = f"{section}/obsm/{meta.key}", f"obsm/{meta.key}"
    where = f"{store}/{name}"
    with locked(store, section, wait_s=LOCK_WAIT_S):  # nobody begins or finishes it in this moment
        index = refresh()
        chunks = StagedChunks(store / STAGING / name)
        there = content_digest(index.below(node)) if node in index.nodes else None
        asked = Begun(
            meta=meta,
            identity=feature_identity(index.meta, meta),
            run=dict(run),
            replaces=there if is_overwrite else None,
        )
        begun = chunks.described() if chunks.is_begun and not _is_unreadable(chunks, is_overwrite) else None
        # Whoever put them together was killed when only clearing them away was left to do.
        is_done = begun is not None and there is not None and begun.replaces != there
        is_finished = False
        if is_overwrite:
            is_same_overwrite = begun is not None and begun.replaces is not None and not is_done
            if begun is None or not is_same_overwrite or _begun_faults(begun, asked):
                discard(store, name)
                chunks.begin(asked)
        elif there is not None and (begun is None or is_done or _begun_faults(begun, asked)):
            _check_same(_stored_meta(index, meta.key, where=where), meta, where=where)
            is_finished = True
            if is_done or begun is None:  # in the second case of one who was killed while clearing away
                discard(store, name)
        elif begun is None:
            discard(store, name)  # chunks of which nobody knows what they are
            chunks.begin(asked)
        else:
            _check_begun(begun, asked, where=where)
    return FeatureWriter(store, index.meta, meta, order=order, is_finished=is_finished, refresh=refresh)


def _is_unreadable(chunks: StagedChunks, is_overwrite: bool) -> bool:  # noqa: FBT001  one word of the same call
    """Tell, where they are to be overwritten, whether nobody can say any more what the chunks are."""
    try:
        chunks.described()
    except StoreError:
        if not is_overwrite:
            raise
        return True
    return False


def _begun_faults(begun: Begun, asked: Begun) -> list[str]:
    """Name what the chunks that are there and those that are asked for do not share."""
    faults = _meta_differences(begun.meta, asked.meta)
    if not faults and begun.identity != asked.identity:
        faults.append("they were begun for other spots or images of this section")
    for name in dict.fromkeys([*begun.run, *asked.run]):
        old, new = begun.run.get(name), asked.run.get(name)
        if old != new:
            faults.append(f"{name} {old!r} when they were begun, {new!r} asked for")
    return faults


def _check_begun(begun: Begun, asked: Begun, *, where: str) -> None:
    faults = _begun_faults(begun, asked)
    if faults:
        message = (
            f"unfinished features at {where!r} were begun differently: {'; '.join(faults)}; go on as they were begun, so "
            "that they end as in an unbroken run, or begin anew with `spam embed --overwrite`"
        )
        raise StoreError(message)
    if begun.meta.software != asked.meta.software:
        _log.warning(
            "features %s were begun with other versions: %s; they go on with %s",
            where,
            begun.meta.software,
            asked.meta.software,
        )


def _stored_meta(index: SectionIndex, key: str, *, where: str) -> FeatureMeta:
    try:
        return FeatureMeta.from_mapping(index.nodes[f"obsm/{key}"]["attributes"][SPAM][META])
    except (KeyError, TypeError) as error:
        message = (
            f"{where!r} holds an array that does not say how it was made ({type(error).__name__}: {error}); replace it "
            "with `spam embed --overwrite`"
        )
        raise StoreError(message) from error


def _check_meta(meta: FeatureMeta) -> None:
    faults = [
        name_fault(meta.key, "the key", reserved=(SPATIAL, SPATIAL_UM)),
        None if meta.dim > 0 else f"dim must be positive, not {meta.dim}",
        None if meta.chunk_rows > 0 else f"--chunk-rows must be positive, not {meta.chunk_rows}",
        None
        if meta.dtype in ("float16", "float32", "bfloat16")
        else f"--dtype must be float16, float32 or bfloat16, not {meta.dtype!r}",
    ]
    found = [fault for fault in faults if fault]
    if found:
        message = f"features {meta.key!r} cannot be stored: " + "; ".join(found)
        raise StoreError(message)


def _check_same(stored: FeatureMeta, asked: FeatureMeta, *, where: str) -> None:
    differences = _meta_differences(stored, asked)
    if differences:
        message = (
            f"features at {where!r} were made differently: {'; '.join(differences)}; embed as before, or "
            "replace them with `spam embed --overwrite`"
        )
        raise StoreError(message)


def _meta_differences(stored: FeatureMeta, asked: FeatureMeta) -> list[str]:
    """Compare all but the versions of software, which change and leave the features what they are."""
    plain = json.loads(json.dumps(dataclasses.replace(asked, software=stored.software).to_mapping()))
    return _differences(stored.to_mapping(), plain)


def _differences(stored: Any, asked: Any, path: str = "") -> list[str]:
    """Name each entry in which two nested mappings differ, such as ``tile.tile_um``."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        return [
            difference
            for key in dict.fromkeys([*asked, *stored])
            for difference in _differences(stored.get(key), asked.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if stored == asked else [f"{path} {stored!r} in the store, {asked!r} asked for"]
