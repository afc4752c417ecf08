"""Whether the features of a section are those that a checkpoint was trained on."""

from spam.errors import CheckpointError
from spam.schemas.checkpoint_meta import CheckpointMeta
from spam.schemas.store_meta import UNKNOWN_WEIGHTS, FeatureMeta
from spam.store import StoredSection

__all__ = ["check_section"]


def check_section(meta: CheckpointMeta, section: StoredSection) -> None:
    """Refuse a section whose features are not those that a checkpoint was trained on.

    Raises
    ------
    CheckpointError
        Naming what is missing or different, and the command that embeds it.
    """
    sizes = " ".join(
        f"--tile-um {tile['tile_um']:g}" if tile["tile_um"] else f"--tile-px {tile['tile_px']}"
        for tile in meta.tiles
    )
    sizes += " --dihedral" if meta.is_averaged else ""
    embed = f"spam embed --store {section.store_address} --enc-name {meta.encoder_name} {sizes}"
    missing = [key for key in meta.feature_keys if key not in section.feature_keys]
    if missing:
        message = (
            f"section {section.meta.name!r} has no features {', '.join(missing)} (it has "
            f"{', '.join(section.feature_keys) or 'none'}), which the checkpoint was trained on; make them with "
            f"`{embed}`"
        )
        raise CheckpointError(message)
    for key in meta.feature_keys:
        found: FeatureMeta = section.feature_meta(key)
        weights = found.weights_sha256 or UNKNOWN_WEIGHTS
        if weights != meta.weights_sha256 or found.tile not in meta.tiles:
            message = (
                f"features {key!r} of section {section.meta.name!r} (weights {weights[:8]}…, tile {found.tile}) "
                f"are not those the checkpoint was trained on (weights {meta.weights_sha256[:8]}…, tiles "
                f"{', '.join(map(str, meta.tiles))}); embed the section again with `{embed} --overwrite`"
            )
            raise CheckpointError(message)
