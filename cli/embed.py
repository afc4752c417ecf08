"""`spam embed`: lab files -> features in a store."""

from typing import Any

from spam.progress import Progress
from spam.schemas.embed_config import EmbedConfig

from .command import Command, Report
from .options import Option, options_of

__all__ = ["EMBED"]

_DRY_RUN = Option(
    name="dry_run",
    kind=bool,
    default=False,
    help="check the files and say how many tiles and bytes it would be, without loading the encoder or writing",
)


def _work(values: dict[str, Any], progress: Progress) -> Report:
    is_dry_run = values.pop("dry_run", False)
    config = EmbedConfig.from_mapping(values)
    from spam.embedding import embed
    from spam.planning import plan

    return plan(config) if is_dry_run else embed(config, progress=progress)


EMBED = Command(
    name="embed",
    does="Embed the tiles of sections once into a feature store. Spots, counts and coordinates go with them.",
    example="spam embed --h5ad C2.h5ad --csv mapping.csv --root images --section C2 --store cohort.zarr\n"
    "spam embed --manifest sections.csv --root images --store cohort.zarr",
    options=(*options_of(EmbedConfig), _DRY_RUN),
    work=_work,
)
