"""Import features that another program made into a section of a store: `spam store import`."""

import dataclasses
import hashlib

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from spam.errors import ConfigError, SectionError
from spam.progress import SILENT, Progress
from spam.schemas.config import Record
from spam.schemas.store_config import ImportConfig
from spam.schemas.store_format import FeatureMeta, feature_key
from spam.schemas.tile_spec import TileSpec
from spam.sections.lab_section import quoted
from spam.typing import Array, Bool, Float32, Float64, Int, Int64, Shaped

from . import choose_sections, default_chunk_rows, open_store
from .foreign_files import ForeignFeatures, read_foreign_features

_TIE_PX = 1e-6  # two tiles whose distances differ by less are equally near; far above rounding of coordinates
_SHARE_FOR_HINT = 0.9  # of the spots: tissue that was not tiled must not hide a shift of all tiles


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport(Record):
    """Result of `import_features`; `was_there` if the store had the same features already."""

    store: str
    section: str
    key: str
    kind: str
    n_spots: int
    n_tiles: int
    dim: int
    was_there: bool

    def summary(self) -> str:
        """Summarise the import in one line."""
        return (
            f"{self.section}: {self.n_spots} of {self.n_tiles} rows of {self.kind} features ({self.dim} numbers each) "
            f"{'were already' if self.was_there else 'are now'} in {self.store} as {self.key}"
        )


def import_features(config: ImportConfig, *, progress: Progress = SILENT) -> ImportReport:
    """Match foreign features to the spots of a section and write them under their encoder and tile size.

    Their identity is the digest of the matched rows: equal rows of another file are the same features.

    Raises
    ------
    ConfigError
        If neither the file nor an option gives the encoder or the tile size, or the section is ambiguous.
    MissingInputError, SectionError
        If the file does not exist, cannot be read, or does not fit the spots.
    StoreError
        If there is no such store or section, or it has other features of that name.
    """
    assert config.store is not None  # checked by ImportConfig
    assert config.file is not None
    store = open_store(config.store, is_read_only=False)
    names = choose_sections(store, () if config.section is None else (config.section,))
    if len(names) != 1:
        message = f"Store {store.address!r} has {len(names)} sections ({', '.join(names)}). Choose one with --section."
        raise ConfigError(message)
    section = store.section(names[0])
    mpp = section.meta.mpp
    side_px = None if config.tile_px is None else float(config.tile_px)
    if config.tile_um is not None and mpp is not None:
        side_px = config.tile_um / mpp
    foreign = read_foreign_features(
        config.file, kind=config.kind, coordinates=config.coordinates, key=config.key, side_px=side_px
    )
    rows = match_to_spots(
        foreign,
        section.ids,
        section.xy_px if section.meta.has_coordinates else None,
        tolerance_px=config.tolerance_um / mpp if mpp is not None else config.tolerance_um,
    )
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
    )


def _feature_meta(
    config: ImportConfig, foreign: ForeignFeatures, mpp: float | None, rows: Int[Array, " n_spots"]
) -> FeatureMeta:
    encoder = config.enc_name or foreign.encoder_name
    if encoder is None:
        message = f"{config.file} does not name its encoder. Give --enc-name; see: spam encoders list"
        raise ConfigError(message)
    tile, dim = _tile(config, foreign, mpp), int(foreign.features.shape[1])
    return FeatureMeta(
        key=feature_key(encoder, tile.label),
        origin=f"import:{foreign.kind}",
        # The digest of the rows stands for the unknown weights and transform.
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
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.ascontiguousarray(features[row], dtype="<f4").data)
    return digest.hexdigest()


def _tile(config: ImportConfig, foreign: ForeignFeatures, mpp: float | None) -> TileSpec:
    """Take the tile size from the options, else from the file; in µm if the scale is known."""
    if config.tile_um is not None or config.tile_px is not None:
        return TileSpec(tile_um=config.tile_um, tile_px=config.tile_px)
    if foreign.tile_px is None:
        message = f"{config.file} does not say how large its tiles are. Give --tile-um, or --tile-px."
        raise ConfigError(message)
    scale = mpp if mpp is not None else foreign.mpp
    if scale is None:
        return TileSpec(tile_px=round(foreign.tile_px))
    return TileSpec(tile_um=float(np.round(foreign.tile_px * scale, 1)))


def match_to_spots(
    foreign: ForeignFeatures,
    ids: Shaped[Array, " n_spots"],
    xy_px: Float64[Array, "n_spots 2"] | None,
    *,
    tolerance_px: float,
) -> Int64[Array, " n_spots"]:
    """Return for each spot the row of the features of its tile, by id or by coordinates, never by position in the file.

    With ids on both sides spots are matched by id; coordinates, if known on both sides, must then agree within the
    tolerance, because ids such as ``10x13`` occur in every section. Without ids each spot gets the tile with the
    nearest centre. Several spots may share a tile; tiles without a spot are left out.

    Parameters
    ----------
    foreign
        The features.
    ids, xy_px
        Ids and centres (full-resolution pixels) of the spots; no centres in a store that was shared without them.
    tolerance_px
        Largest distance between a spot and the centre of its tile, in full-resolution pixels.

    Raises
    ------
    SectionError
        If a spot has no tile or two equally near ones: counts and examples, and a shift of all tiles that explains it.
    """
    faults: list[str] = []
    hint = "Give the features of this section in full-resolution pixels, or a larger --tolerance-um."
    if foreign.ids is not None:
        rows = np.asarray(pd.Index(foreign.ids).get_indexer(pd.Index(ids)), dtype=np.int64)
        is_missing = rows < 0
        if is_missing.any():
            faults.append(
                f"{_count(is_missing, ids)} have no row with their id; it has {quoted(list(foreign.ids))}"
            )
        if foreign.xy_px is not None and xy_px is not None:
            distance = np.linalg.norm(foreign.xy_px[rows] - xy_px, axis=1)
            is_apart = ~is_missing & (distance > tolerance_px)
            if is_apart.any():
                faults.append(
                    f"{_count(is_apart, ids)} are more than {tolerance_px:g} px from the tile with their id "
                    f"({_distances(distance[is_apart])})"
                )
    elif foreign.xy_px is None or xy_px is None:
        message = f"{foreign.name} has no ids and the section has no coordinates. Give the ids as a CSV with --coordinates."
        raise SectionError(message)
    else:
        tree = cKDTree(foreign.xy_px)
        distances, nearest = tree.query(xy_px, k=2)  # with a single tile the second distance is infinite
        rows = np.asarray(nearest[:, 0], dtype=np.int64)
        is_missing = distances[:, 0] > tolerance_px
        is_tied = ~is_missing & (distances[:, 1] - distances[:, 0] <= _TIE_PX)
        if is_missing.any():
            faults.append(
                f"{_count(is_missing, ids)} have no tile within {tolerance_px:g} px "
                f"({_distances(distances[is_missing, 0])})"
            )
            hint = _shift_hint(tree, xy_px, foreign.tile_px, tolerance_px) or hint
        if is_tied.any():
            faults.append(f"{_count(is_tied, ids)} are equally near to two tiles")
    if faults:
        message = f"{foreign.name} does not fit this section: {'; '.join(faults)}. {hint}"
        raise SectionError(message)
    return rows


def _shift_hint(
    tree: cKDTree, xy_px: Float64[Array, "n_spots 2"], tile_px: float | None, tolerance_px: float
) -> str | None:
    """Find one shift of all tiles that would give nearly all spots a tile."""
    if len(xy_px) < 3:  # one or two points can always be shifted onto others
        return None
    nearest = tree.data[tree.query(xy_px)[1]]
    shifts = [np.median(xy_px - nearest, axis=0), xy_px.mean(axis=0) - tree.data.mean(axis=0)]
    if tile_px is not None:
        shifts = [np.full(2, tile_px / 2), np.full(2, -tile_px / 2), *shifts]
    for shift in shifts:
        n_hits = int((tree.query(xy_px - shift)[0] <= tolerance_px).sum())
        if n_hits >= _SHARE_FOR_HINT * len(xy_px):
            x, y = (f"{value:+.1f}" for value in shift)
            return (
                f"{n_hits} of {len(xy_px)} spots would have a tile if all tiles moved by ({x}, {y}) px. If that is half a "
                "tile, corners were given as centres: centre = corner + side / 2."
            )
    return None


def _count(is_meant: Bool[Array, " n_spots"], ids: Shaped[Array, " n_spots"]) -> str:
    return f"{int(is_meant.sum())} of {len(ids)} spots ({quoted(list(ids[is_meant]))})"


def _distances(found: Float64[Array, " n"]) -> str:
    return f"smallest distance {found.min():.1f} px, median {np.median(found):.1f} px"
