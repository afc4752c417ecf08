"""Which feature arrays of a store are used together, and whether they are those of a checkpoint."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from spam.errors import CheckpointError, ConfigError, StoreError
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.store_format import UNKNOWN_WEIGHTS
from spam.schemas.tile_spec import describe_tile
from spam.store import StoredSection


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureChoice:
    """Which feature arrays are used together.

    Attributes
    ----------
    keys, tiles, dims, encoders
        Feature keys with their tile spec, vector length and encoder (as in `CheckpointMeta`), from the smallest tile to
        the largest.
    is_averaged
        Whether features are means over the symmetries of the tile.
    adapted_on
        Sections whose counts the encoder was adapted with, see `FeatureMeta`.
    """

    keys: tuple[str, ...]
    tiles: tuple[dict[str, object], ...]
    dims: tuple[int, ...]
    encoders: tuple[dict[str, str | None], ...]
    is_averaged: bool = False
    adapted_on: tuple[str, ...] = ()


def choose_shared_features(
    sections: Sequence[StoredSection],
    enc_name: str | None,
    tile_um: Sequence[float],
    *,
    is_averaged: bool = False,
) -> FeatureChoice:
    """Choose the features that the options name and every section has; `enc_name` may name several encoders (``a,b``).

    Features averaged over symmetries are never mixed with plain ones: `is_averaged` selects the kind, unless the sections
    have only one.

    Raises
    ------
    StoreError
        If an encoder is missing, several fit and none is named, or weights differ between the sections.
    ConfigError
        If one of several encoders is adapted.
    """
    wanted = () if enc_name is None else tuple(dict.fromkeys(map(str.strip, enc_name.split(","))))
    metas = {s.meta.name: {key: s.feature_meta(key) for key in s.feature_keys} for s in sections}
    there = "; ".join(f"{name}: {', '.join(found) or 'none'}" for name, found in metas.items())
    shared = set.intersection(*(set(found) for found in metas.values()))
    first = metas[sections[0].meta.name]
    chosen = [
        first[key]
        for key in sorted(shared)
        if (not wanted or first[key].encoder["name"] in wanted)
        and (not tile_um or first[key].tile["tile_um"] in tile_um)
    ]
    encoders = sorted({meta.encoder["name"] for meta in chosen})
    if adapted := {meta.encoder["name"] for meta in chosen if meta.lora_sha256 and len(wanted) > 1}:
        message = (
            f"--enc-name {enc_name} names the adapted encoder {', '.join(sorted(adapted))} beside another one, and a checkpoint "
            "keeps the adapter of a single encoder. Name one encoder, or only frozen ones."
        )
        raise ConfigError(message)
    kinds = {meta.is_averaged for meta in chosen}
    is_averaged = is_averaged or kinds == {True}
    chosen = [meta for meta in chosen if meta.is_averaged == is_averaged]
    of_this_kind = {meta.encoder["name"] for meta in chosen}
    absent = sorted(set(tile_um) - {meta.tile["tile_um"] for meta in chosen})
    if len(of_this_kind) != max(len(wanted), 1) or (len(encoders) > 1 and not wanted) or absent:
        asked = [f"--enc-name {enc_name}" if enc_name else ""]
        asked += [f"--tile-um {','.join(f'{um:g}' for um in absent)}" if absent else ""]
        asked += ["--dihedral" if is_averaged else ""]
        lacks = (
            f"share no features with {' '.join(filter(None, asked))}" if any(asked) else "share no features"
        )
        if len(kinds) > 1:
            lacks += " (features averaged over symmetries, with --dihedral, are not mixed with plain ones)"
        several = f"have features of {len(encoders)} encoders ({', '.join(encoders)})"
        message = (
            f"The sections {several if len(encoders) > 1 and not wanted else lacks} ({there}). Choose from these with --enc-name "
            "and --tile-um, or run `spam embed` for what is missing."
        )
        raise StoreError(message)
    for key in (meta.key for meta in chosen):
        digests = {found[key].weights_sha256 or UNKNOWN_WEIGHTS for found in metas.values()}
        if len(digests) > 1:
            message = (
                f"Features {key!r} come from different weights in different sections "
                f"({', '.join(sorted(d[:8] for d in digests))}). Embed them again with --overwrite."
            )
            raise StoreError(message)
    chosen.sort(key=lambda meta: (meta.tile["tile_um"] or meta.tile["tile_px"], meta.key))
    return FeatureChoice(
        keys=tuple(meta.key for meta in chosen),
        tiles=tuple(meta.tile for meta in chosen),
        dims=tuple(meta.dim for meta in chosen),
        encoders=tuple(
            {
                **{name: meta.encoder.get(name) for name in ("name", "source", "revision", "licence")},
                "weights_sha256": meta.weights_sha256 or UNKNOWN_WEIGHTS,
            }
            for meta in chosen
        ),
        is_averaged=is_averaged,
        adapted_on=tuple(dict.fromkeys(name for meta in chosen for name in meta.adapted_on)),
    )


def check_features(meta: CheckpointMeta, features: FeatureChoice) -> None:
    """Refuse features that differ from those of a checkpoint.

    Raises
    ------
    CheckpointError
        Naming keys, digests and tile sizes of both.
    """
    was, now = (
        [(key, encoder["weights_sha256"], tile) for key, encoder, tile in zip(*arrays, strict=True)]
        for arrays in (
            (meta.feature_keys, meta.encoders, meta.tiles),
            (features.keys, features.encoders, features.tiles),
        )
    )
    if was != now:
        trained, offered = (
            ", ".join(f"{key} ({_described(weights, tile)})" for key, weights, tile in arrays)
            for arrays in (was, now)
        )
        message = (
            f"The checkpoint was trained on features {trained}; the store offers {offered}. Choose the same "
            "with --enc-name, --tile-um and --dihedral, or embed them with `spam embed`."
        )
        raise CheckpointError(message)


def require_features(meta: CheckpointMeta, section: StoredSection) -> None:
    """Refuse a section whose features are not those that a checkpoint was trained on.

    Raises
    ------
    CheckpointError
        Naming what is missing or different, with the commands that embed it.
    """
    wrong, is_other = list[str](), False
    arrays = [*zip(meta.feature_keys, meta.encoders, meta.tiles, strict=True)]
    for key, encoder, tile in arrays:
        if key not in section.feature_keys:
            wrong.append(f"{key} is missing (present: {', '.join(section.feature_keys) or 'none'})")
            continue
        found = section.feature_meta(key)
        if (found.weights_sha256 or UNKNOWN_WEIGHTS, found.tile) != (encoder["weights_sha256"], tile):
            needed = _described(encoder["weights_sha256"], tile)
            wrong.append(f"{key} has {_described(found.weights_sha256, found.tile)} instead of {needed}")
            is_other = True
    if not wrong:
        return
    switches = {"--dihedral": meta.is_averaged, "--overwrite": is_other}
    flags = [f" {name}" for name, is_on in switches.items() if is_on]
    commands: dict[str, str] = {}
    for _, encoder, tile in arrays:
        name = str(encoder["name"])
        begin = re.sub("-lora-[0-9a-f]{8}$", " --lora ADAPTER", name)
        size = f"--tile-um {tile['tile_um']:g}" if tile["tile_um"] else f"--tile-px {tile['tile_px']}"
        commands[name] = f"{commands.get(name, begin)} {size}"
    command = " && ".join(
        f"spam embed --store {section.store_address} --enc-name {of_one}{''.join(flags)}"
        for of_one in commands.values()
    )
    message = (
        f"Section {section.meta.name!r} does not have the features of the checkpoint: {'; '.join(wrong)}. Embed its "
        f"files with: {command}"
    )
    raise CheckpointError(message)


def _described(weights_sha256: str | None, tile: Mapping[str, Any]) -> str:
    """Describe from which weights and tiles features were computed, e.g. ``weights 0f3a1b22…, tiles of 112 µm in 224 px``."""
    return f"weights {(weights_sha256 or UNKNOWN_WEIGHTS)[:8]}…, tiles of {describe_tile(tile)}"
