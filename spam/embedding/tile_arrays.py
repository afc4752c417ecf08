"""What is written of the tiles of one size: their features, and beside them their quality."""

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from spam.encoders import Encoder
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.store_format import QUALITY, FeatureMeta, Sampling, feature_key, quality_key
from spam.schemas.tile_quality import MEASURES
from spam.schemas.tile_spec import TileSpec
from spam.store import FeatureWriter, StoredSection, default_chunk_rows
from spam.typing import Array, Float32, Int64
from spam.versions import software_versions

__all__ = ["Order", "TileArrays", "feature_meta_of"]

Order: TypeAlias = Int64[Array, " n_spots"] | None
"""Numbers of the spots in the order in which they are computed; None for their own."""


class TileArrays:
    """The features of one tile size, and the quality of the tiles beside them.

    Of each chunk, and of the whole, the quality is written first: where there are features, there is quality. Features
    that were finished without it stay as they are.
    """

    def __init__(
        self,
        stored: StoredSection,
        meta: FeatureMeta,
        order: Order,
        *,
        run: Mapping[str, str | int],
        is_overwrite: bool,
    ) -> None:
        self.features = stored.feature_writer(meta, run=run, is_overwrite=is_overwrite)
        spots = np.arange(stored.n_spots)
        # Tiles of one chunk are read in the order of the slide.
        rank = spots if order is None else np.argsort(order)
        self._order = np.concatenate(
            [spots[chunk][np.argsort(rank[chunk])] for chunk in self.features.chunks]
        )
        self._quality: FeatureWriter | None = None
        if not self.features.is_finished:
            about = _quality_meta(meta)
            self._quality = stored.feature_writer(about, run=run, is_overwrite=is_overwrite)

    @property
    def chunks(self) -> list[slice]:
        """All chunks, in the order of computing."""
        return self.features.chunks

    @property
    def pending(self) -> list[slice]:
        """Chunks of which anything is missing.

        The quality may be missing alone: a writer was killed while it replaced both, when the quality was finished.
        """
        missing = [*self.features.pending, *(self._quality.pending if self._quality is not None else [])]
        return [chunk for chunk in self.chunks if chunk in missing]

    def rows(self, chunk: slice) -> Int64[Array, " n"]:
        """Name the spots of a chunk, or of a part of it, in the order in which they are computed."""
        return self._order[chunk]

    def write(self, chunk: slice, features: Float32[Array, "n dim"], quality: Float32[Array, "n 4"]) -> None:
        """Write what is missing of one chunk; the rows come in the order of `rows`."""
        back = np.argsort(self.rows(chunk))
        features, quality = features[back], quality[back]
        if self._quality is not None and chunk in self._quality.pending:
            self._quality.write(chunk, quality)
        if chunk in self.features.pending:
            self.features.write(chunk, features)

    def finish(self) -> None:
        """Let readers see both."""
        if self._quality is not None:
            self._quality.finish()
        self.features.finish()


def feature_meta_of(spec: TileSpec, sampling: Sampling, encoder: Encoder, config: EmbedConfig) -> FeatureMeta:
    """Describe the features that an encoder makes of the tiles of one size."""
    card = encoder.card.to_mapping()
    if encoder.card.source.startswith("local:"):
        card["source"] = encoder.card.name  # where the folder lies is this machine's affair, and may change
    return FeatureMeta(
        key=feature_key(encoder.card.name, spec.label, is_averaged=config.dihedral),
        origin="embed",
        encoder=card,
        weights_sha256=encoder.weights_sha256,
        lora_sha256=encoder.lora_sha256,
        tile=spec.to_mapping(),
        sampling=sampling,
        precision=encoder.precision,
        dim=encoder.card.dim,
        dtype=config.dtype,
        chunk_rows=config.chunk_rows or default_chunk_rows(encoder.card.dim, config.dtype),
        software=software_versions(),
        is_averaged=config.dihedral,
        adapted_on=encoder.adapted_on,
    )


def _quality_meta(features: FeatureMeta) -> FeatureMeta:
    """Describe the measures of the tiles that features are made from: chunk by chunk beside them."""
    return dataclasses.replace(
        features,
        key=quality_key(features.key),
        origin=QUALITY,
        encoder={"name": "tile_quality", "measures": list(MEASURES)},
        weights_sha256=None,
        lora_sha256=None,
        precision="float32",
        dim=len(MEASURES),
        dtype="float32",
        is_averaged=False,
        adapted_on=(),
    )
