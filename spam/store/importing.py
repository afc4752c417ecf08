"""Import features that another program made into a section of a store, new or there: `spam store import`."""

import dataclasses
import hashlib
import logging

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from spam.errors import ConfigError, SectionError, StoreError
from spam.progress import SILENT, Progress
from spam.schemas.embed_config import InputConfig
from spam.schemas.records import Record
from spam.schemas.store_config import ImportFeaturesConfig
from spam.schemas.store_format import FeatureMeta, feature_key
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section, read_section_without_images
from spam.sections.coordinates import require_pitch
from spam.sections.h5ad import read_h5ad, spots_of_section
from spam.sections.lab_section import quoted
from spam.typing import Array, Bool, Float32, Float64, Int, Int64, Shaped

from . import (
    Store,
    StoredSection,
    choose_sections,
    default_chunk_rows,
    differences,
    filled_store,
    open_store,
    warn_of_duplicates,
    warn_of_gene_names,
)
from .array_files import ForeignFeatures
from .foreign_files import read_foreign_features

_log = logging.getLogger(__name__)

_TIE_PX = 1e-6  # two tiles whose distances differ by less are equally near; far above rounding of coordinates
_SAME_SIZE = 0.03  # tiles of a nominal magnification differ by as much between slides
_SHARE_FOR_HINT = 0.9  # of the spots: tissue that was not tiled must not hide a shift of all tiles


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportFeaturesReport(Record):
    """Result of `import_features`; `is_new` if the section was created, `was_there` if the store had the same features."""

    store: str
    section: str
    key: str
    kind: str
    n_spots: int
    n_tiles: int
    dim: int
    is_new: bool
    was_there: bool

    def summary(self) -> str:
        """Summarise the import in one line."""
        name = f"{self.section} (new section)" if self.is_new else self.section
        return (
            f"{name}: {self.n_spots} of {self.n_tiles} rows of {self.kind} features ({self.dim} numbers each) "
            f"{'were already' if self.was_there else 'are now'} in {self.store} as {self.key}"
        )


def import_features(config: ImportFeaturesConfig, *, progress: Progress = SILENT) -> ImportFeaturesReport:
    """Match foreign features to the spots of a section and write them under their encoder and tile size.

    The section is one of the store; with an h5ad (or ``--all-tiles``) it is created, without any image. The identity of
    the features is the digest of the matched rows: equal rows of another file are the same features.

    Raises
    ------
    ConfigError
        If neither the file nor an option gives the encoder or the tile size, or the section is ambiguous.
    MissingInputError, SectionError
        If the file does not exist, cannot be read, or does not fit the spots.
    StoreError
        If there is no such store or section, or it has other features of that name.
    """
    assert config.store is not None  # checked by ImportFeaturesConfig
    assert config.file is not None
    xy_px: Array | None
    if config.h5ad is not None or config.all_tiles:
        new, foreign = _read_section(config)
        mpp, ids, xy_px = new.mpp, new.ids, new.xy_px
    else:
        stored, new = _stored_section(open_store(config.store, is_read_only=False), config), None
        mpp, ids, xy_px = stored.meta.mpp, stored.ids, stored.xy_px if stored.meta.has_coordinates else None
        foreign = _read_features(config, mpp)
    rows = match_to_spots(
        foreign,
        ids,
        xy_px,
        tolerance_px=config.tolerance_um / mpp if mpp is not None else config.tolerance_um,
    )
    meta = _feature_meta(config, foreign, mpp, rows)
    with filled_store(config.store) as store:
        section = _stored_section(store, config) if new is None else _added(store, new, config)
        _warn_of_near_sizes(store, meta)
        with section.lock(meta.key):
            writer = section.feature_writer(meta, is_overwrite=config.overwrite)
            was_there = not writer.pending
            with progress.task(f"import {section.meta.name}", section.n_spots) as advance:
                for chunk in writer.pending:
                    writer.write(chunk, foreign.features[rows[chunk]])
                    advance(chunk.stop - chunk.start)
            writer.finish()
    return ImportFeaturesReport(
        store=store.address,
        section=section.meta.name,
        key=meta.key,
        kind=foreign.kind,
        n_spots=section.n_spots,
        n_tiles=len(foreign.features),
        dim=meta.dim,
        is_new=bool(store.added),
        was_there=was_there,
    )


def _stored_section(store: Store, config: ImportFeaturesConfig) -> StoredSection:
    names = choose_sections(store, () if config.section is None else (config.section,), "--section")
    if len(names) != 1:
        message = f"Store {store.address!r} has {len(names)} sections ({', '.join(names)}). Choose one with --section."
        raise ConfigError(message)
    return store.section(names[0])


def _read_features(config: ImportFeaturesConfig, mpp: float | None) -> ForeignFeatures:
    assert config.file is not None  # checked by ImportFeaturesConfig
    side_px = None if config.tile_px is None else float(config.tile_px)
    if config.tile_um is not None and mpp is not None:
        side_px = config.tile_um / mpp
    return read_foreign_features(config.file, coordinates=config.coordinates, key=config.key, side_px=side_px)


def _read_section(config: ImportFeaturesConfig) -> tuple[Section, ForeignFeatures]:
    """Read the new section: of the h5ad, at its positions or else at those of the tiles; or of all tiles."""
    assert config.file is not None  # checked by ImportFeaturesConfig
    name = config.section or (config.file.name.partition(".")[0] if config.h5ad is None else None)
    inputs = InputConfig(
        h5ad=config.h5ad, section=name, donor=config.donor, mpp=config.mpp, counts_layer=config.counts_layer
    )
    h5ad = None if config.h5ad is None else read_h5ad(config.h5ad)
    if h5ad is not None and h5ad.spatial is not None:
        section = read_section_without_images(inputs)
        foreign = _read_features(config, section.mpp)
    else:
        foreign = _read_features(config, config.mpp)
        if foreign.xy_px is None:
            where = (
                f"{foreign.name} has no positions" if h5ad is None else f"{h5ad.where} has no obsm['spatial']"
            )
            message = f"{where}. Give the positions as columns x and y of a CSV with --coordinates."
            raise SectionError(message)
        ids, xy_px = foreign.ids, foreign.xy_px
        if h5ad is not None:
            wanted = h5ad if config.section is None else spots_of_section(h5ad, config.section)
            ids = wanted.ids
            xy_px = xy_px[match_to_spots(foreign, ids, None, tolerance_px=0.0)]
        elif ids is None:
            ids = np.array([f"tile{row}" for row in range(len(xy_px))])
        section = read_section_without_images(inputs, ids, xy_px)
    if section.mpp is None and foreign.mpp is not None:
        section = dataclasses.replace(section, mpp=foreign.mpp, mpp_source="slide")
    require_pitch(section.array, section.mpp, section.mpp_source, section.name)
    return section, foreign


def _added(store: Store, section: Section, config: ImportFeaturesConfig) -> StoredSection:
    """Return the section in the store, written if it is missing; else it must be the same."""
    if section.name not in store.section_names:
        for note in section.join.notes:
            _log.warning("section %s: %s", section.name, note)
        warn_of_duplicates([section], store)
        warn_of_gene_names(section, config.h5ad, (), store)
        return store.add_section(section, slide_size_px=None, licence=None, overview=None)
    stored = store.section(section.name)
    if found := differences(stored, section, None):
        flag = "--all-tiles" if config.h5ad is None else "--h5ad"
        message = (
            f"Section {section.name!r} in the store differs from {flag}: {'; '.join(found)}. Choose another name with "
            f"--section, or leave out {flag} to add the features to the section of the store."
        )
        raise StoreError(message)
    return stored


def _feature_meta(
    config: ImportFeaturesConfig, foreign: ForeignFeatures, mpp: float | None, rows: Int[Array, " n_spots"]
) -> FeatureMeta:
    encoder = config.enc_name or foreign.encoder_name
    if encoder is None:
        message = f"{config.file} does not name its encoder. Give --enc-name: a name from `spam encoders list`, or another one."
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


def _tile(config: ImportFeaturesConfig, foreign: ForeignFeatures, mpp: float | None) -> TileSpec:
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


def _warn_of_near_sizes(store: Store, meta: FeatureMeta) -> None:
    """Warn if other sections have features of this encoder for tiles of nearly the same size, which never match these."""
    size, encoder = meta.tile["tile_um"], meta.encoder["name"]
    for section in store.sections():
        for stored in (section.feature_meta(key) for key in section.feature_keys if key != meta.key):
            um = stored.tile["tile_um"]
            if size and um and stored.encoder["name"] == encoder and abs(size / um - 1) <= _SAME_SIZE:
                _log.warning(
                    "tiles of %g µm do not match those of %g µm in section %s. Give all sections one size: --tile-um %g",
                    *(size, um, section.meta.name, um),
                )
                return


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
