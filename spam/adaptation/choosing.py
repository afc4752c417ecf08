"""What a run is about: two configurations that agree, and files whose frozen features are in the store."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from spam.errors import ConfigError, StoreError
from spam.planning import EmbedPlan, PlannedSection
from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.config import check, flag
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.store_meta import feature_key
from spam.schemas.tile_spec import TileSpec
from spam.store import open_store
from spam.training.dataset import TrainingSet

__all__ = ["agreed", "choose", "embed_command", "in_training_order"]


def agreed(config: AdaptConfig, tiles: EmbedConfig) -> EmbedConfig:
    """Return the description of the tiles, after making sure that it does not contradict the training's options.

    Raises
    ------
    ConfigError
        If both name a store, an encoder or tile sizes, and not the same; or the tiles are those of another adapter, or
        have no counts.
    """
    told = {name: getattr(config, name) for name in ("store", "enc_name", "tile_um", "dihedral")}
    told["store"] = None if config.store is None else Path(config.store)
    faults: list[str | None] = [
        f"{flag(name)} is {value!r} for the training and {getattr(tiles, name)!r} for the tiles; give the same"
        for name, value in told.items()
        if value and value != getattr(tiles, name)
    ]
    if tiles.lora is not None:
        faults.append("--lora: an adapter is trained on the encoder as it was published; leave it out")
    faults.append("--tiles grid has no counts to adapt to; give --csv" if tiles.tiles == "grid" else None)
    check(faults)
    return dataclasses.replace(tiles, overwrite=False)


def choose(config: AdaptConfig, tiles: EmbedConfig, planned: EmbedPlan) -> AdaptConfig:
    """Settle the sections, the encoder and the tile sizes of the training, all of whose frozen features are there.

    Raises
    ------
    ConfigError
        If the files describe no such section.
    StoreError
        If frozen features are missing; says how to embed them.
    """
    described = {one.section.name: one for one in planned.sections}
    names = config.sections or tuple(described)
    used = tuple(dict.fromkeys((*names, *config.val_sections)))
    if unknown := [name for name in used if name not in described]:
        message = (
            f"--sections: the files describe no section {', '.join(map(repr, unknown))}, but {', '.join(described)}; "
            "leave out what is not there, or add it to the --manifest"
        )
        raise ConfigError(message)
    store = open_store(planned.store) if planned.store.exists() else None
    missing = [
        f"{name}: {key}"
        for name in used
        for key in _keys(described[name].specs, tiles, planned)
        if store is None or name not in store.section_names or key not in store.section(name).feature_keys
    ]
    if missing:
        message = (
            f"store {str(planned.store)!r} lacks features of the encoder as it is ({'; '.join(missing)}), which adapting "
            f"starts from; embed them first: {embed_command(tiles)}"
        )
        raise StoreError(message)
    sizes = tuple(spec.tile_um for spec in described[used[0]].specs if spec.tile_um is not None)
    return dataclasses.replace(
        config,
        store=planned.store,
        enc_name=planned.card.name,
        sections=names,
        tile_um=sizes,
        dihedral=tiles.dihedral,
    )


def in_training_order(
    planned: EmbedPlan, tiles: EmbedConfig, data: TrainingSet
) -> tuple[PlannedSection, ...]:
    """Order sections and tile sizes as the training set does.

    Raises
    ------
    StoreError
        If the files' tiles are not those that the features used for training were made from.
    """
    described = {one.section.name: one for one in planned.sections}
    ordered = []
    for spots in data.spots:
        one = described[spots.name]
        pairs = sorted(zip(one.specs, one.samplings, strict=True), key=lambda pair: _extent(pair[0]))
        specs = tuple(spec for spec, _ in pairs)
        keys = _keys(specs, tiles, planned)
        if keys != data.features.keys:
            message = (
                f"section {spots.name!r} is to be adapted from features {', '.join(keys)}, and those that its tile sizes "
                f"lead to are {', '.join(data.features.keys)}; give the tile sizes with --tile-um, or use a store that holds "
                "features of one kind"
            )
            raise StoreError(message)
        ordered.append(dataclasses.replace(one, specs=specs, samplings=tuple(s for _, s in pairs)))
    return tuple(ordered)


def embed_command(tiles: EmbedConfig, *, lora: Path | None = None) -> str:
    """Write the `spam embed` command of a configuration, with those of its options that are not the default."""
    words = ["spam", "embed"]
    for field in dataclasses.fields(tiles):
        value = lora if field.name == "lora" else getattr(tiles, field.name)
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(flag(field.name) if value else f"--no-{flag(field.name)[2:]}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [flag(field.name), text]
    return shlex.join(words)


def _keys(specs: Sequence[TileSpec], tiles: EmbedConfig, planned: EmbedPlan) -> tuple[str, ...]:
    """Name the frozen features of some tile sizes."""
    return tuple(
        feature_key(planned.card.name, spec.label, stain=tiles.stain, is_averaged=tiles.dihedral)
        for spec in specs
    )


def _extent(spec: TileSpec) -> float:
    """Order tile sizes as `choose_features` does."""
    return spec.tile_um if spec.tile_um is not None else float(spec.tile_px or 0)
