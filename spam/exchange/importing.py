"""Features that another program made, into a section of a store, beside those of `spam embed`."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from spam.errors import ConfigError
from spam.progress import SILENT, Progress
from spam.schemas.store_config import ImportConfig
from spam.schemas.store_format import FeatureMeta, feature_key
from spam.schemas.tile_spec import TileSpec
from spam.store import choose_sections, default_chunk_rows, open_store
from spam.typing import Array, Float32, Int

from .foreign_features import read_foreign_features
from .matching import match_to_spots
from .records import ForeignFeatures

__all__ = ["ImportReport", "import_features"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What `import_features` did.

    Attributes
    ----------
    store
        The store.
    section, key
        Section and features that were written.
    kind
        Program that made them.
    n_spots, n_tiles, dim
        Spots of the section, rows of the file, length of a feature vector.
    was_there
        Whether these features were there already, so that nothing was written.
    notes
        What is worth telling of the file, one sentence each.
    """

    store: str
    section: str
    key: str
    kind: str
    n_spots: int
    n_tiles: int
    dim: int
    was_there: bool
    notes: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {**dataclasses.asdict(self), "notes": list(self.notes)}

    def summary(self) -> str:
        """Say in a few lines of plain text what was done."""
        done = (
            f"{self.section}: {self.n_spots} of {self.n_tiles} rows of {self.kind} features ({self.dim} numbers each) "
            f"{'were already there' if self.was_there else 'are'} in {self.store} as {self.key}"
        )
        return "\n".join([done, *(f"  {note}" for note in self.notes)])


def import_features(config: ImportConfig, *, progress: Progress = SILENT) -> ImportReport:
    """Match foreign features to the spots of a section, and write them under their encoder and tile.

    What makes them these features is the digest of the matched rows: the same rows of another file are the same.

    Raises
    ------
    ConfigError
        If encoder or tile size are named neither in the file nor by an option, or the two differ.
    MissingInputError, SectionError
        If the file is not there, is no such file, or does not fit the spots; see `read_foreign_features` and
        `match_to_spots`.
    StoreError
        If the store or section are not there, or hold other features of that name.
    """
    assert config.store is not None  # held by ImportConfig
    assert config.file is not None
    store = open_store(config.store, is_read_only=False)
    names = choose_sections(store, () if config.section is None else (config.section,))
    if len(names) != 1:
        message = f"store {store.address!r} has {len(names)} sections ({', '.join(names)}); say which with --section"
        raise ConfigError(message)
    section = store.section(names[0])
    foreign = read_foreign_features(
        config.file, kind=config.kind, coordinates=config.coordinates, key=config.key
    )
    mpp = section.meta.mpp
    xy_px = section.xy_px if section.meta.has_coordinates else None
    tolerance_px = config.tolerance_um / mpp if mpp is not None else config.tolerance_um
    rows = match_to_spots(foreign, section.ids, xy_px, tolerance_px=tolerance_px)
    meta = _feature_meta(config, foreign, mpp, rows)
    with section.lock(meta.key):
        writer = section.feature_writer(meta, is_overwrite=config.overwrite)
        was_there = not writer.pending
        with progress.task(f"import {section.meta.name}", section.n_spots) as advance:
            for chunk in writer.pending:
                writer.write(chunk, foreign.features[rows[chunk]])
                advance(chunk.stop - chunk.start)
        writer.finish()
    return ImportReport(
        store=store.address,
        section=section.meta.name,
        key=meta.key,
        kind=foreign.kind,
        n_spots=section.n_spots,
        n_tiles=len(foreign.features),
        dim=meta.dim,
        was_there=was_there,
        notes=foreign.notes,
    )


def _feature_meta(
    config: ImportConfig, foreign: ForeignFeatures, mpp: float | None, rows: Int[Array, " n_spots"]
) -> FeatureMeta:
    encoder = config.enc_name or foreign.encoder_name
    if encoder is None:
        message = (
            f"{str(config.file)!r} does not say which encoder made its features; name it with --enc-name, as in "
            "`spam encoders list`"
        )
        raise ConfigError(message)
    tile = _tile(config, foreign, mpp)
    dim = int(foreign.features.shape[1])
    return FeatureMeta(
        key=feature_key(encoder, tile.label),
        origin=f"import:{foreign.kind}",
        # The rows are all that is known of the encoder; their digest stands for weights and transform.
        encoder={
            "name": encoder,
            "source": f"file:{_rows_digest(foreign.features, rows)}",
            "licence": config.licence or "unknown",
            "dim": dim,
        },
        weights_sha256=None,
        lora_sha256=None,
        tile=tile.to_mapping(),
        sampling=None,
        precision=None,
        dim=dim,
        dtype=config.dtype,
        chunk_rows=default_chunk_rows(dim, config.dtype),
        software={},
    )


def _rows_digest(features: Float32[Array, "n_tiles dim"], rows: Int[Array, " n_spots"]) -> str:
    """Hash the rows of all spots, in their order: one file may hold several arrays of features."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.ascontiguousarray(features[row], dtype="<f4").data)
    return digest.hexdigest()


def _tile(config: ImportConfig, foreign: ForeignFeatures, mpp: float | None) -> TileSpec:
    """Take the tile's size from the options, else from the file, in µm where these are known."""
    if config.tile_um is not None or config.tile_px is not None:
        return TileSpec(tile_um=config.tile_um, tile_px=config.tile_px)
    if foreign.tile_px is None:
        message = (
            f"{str(config.file)!r} does not say how large its tiles are; give --tile-um (their side in µm) or --tile-px "
            "(in full-resolution pixels)"
        )
        raise ConfigError(message)
    scale = mpp if mpp is not None else foreign.mpp
    if scale is None:
        return TileSpec(tile_px=round(foreign.tile_px))
    return TileSpec(tile_um=float(np.round(foreign.tile_px * scale, 1)))
