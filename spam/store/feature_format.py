"""How feature rows become bytes: number formats, chunks and shards."""

import dataclasses
import math

import numpy as np

from spam.schemas.store_meta import FeatureDtype
from spam.typing import Array, Float, Float32, Shaped

__all__ = [
    "Cut",
    "cut",
    "default_chunk_rows",
    "fill_value",
    "from_stored",
    "is_finite",
    "stored_dtype",
    "to_stored",
]

_CHUNK_BYTES = 1 << 21
_SHARD_BYTES = 1 << 28
_BFLOAT16_NAN = 0x7FC0
_EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}
"""Bits of the exponent; where all are set the number is infinite or not a number."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How the rows of a feature array are cut: into chunks of equal length, and these into shards.

    Attributes
    ----------
    n_spots
        Rows.
    chunk_rows
        Rows of a chunk; the last may be shorter.
    shard_chunks
        Chunks of a shard, which is one file; the last may have fewer.
    """

    n_spots: int
    chunk_rows: int
    shard_chunks: int

    @property
    def chunks(self) -> list[slice]:
        """Rows of each chunk, in order."""
        starts = range(0, self.n_spots, self.chunk_rows)
        return [slice(start, min(start + self.chunk_rows, self.n_spots)) for start in starts]

    @property
    def shard_rows(self) -> int:
        """Rows of a shard."""
        return self.chunk_rows * self.shard_chunks


def default_chunk_rows(dim: int, dtype: FeatureDtype) -> int:
    """Choose the power of two of rows that comes nearest to 2 MB."""
    return 1 << round(math.log2(_CHUNK_BYTES / (dim * stored_dtype(dtype).itemsize)))


def cut(n_spots: int, dim: int, dtype: FeatureDtype, *, chunk_rows: int) -> Cut:
    """Cut `n_spots` rows into as few chunks of at most `chunk_rows` as can be, all of one length.

    A short section is one short chunk, and no file has more than a chunk of padding. The chunks are put into as few
    shards of at most 256 MB as can be.
    """
    n_chunks = math.ceil(n_spots / chunk_rows)
    rows = math.ceil(n_spots / n_chunks)
    n_chunks = math.ceil(n_spots / rows)
    most = max(1, _SHARD_BYTES // (rows * dim * stored_dtype(dtype).itemsize))
    n_shards = math.ceil(n_chunks / most)
    return Cut(n_spots=n_spots, chunk_rows=rows, shard_chunks=math.ceil(n_chunks / n_shards))


def stored_dtype(dtype: FeatureDtype) -> np.dtype:
    """Type of the stored numbers; the bits of bfloat16, for which neither NumPy nor Zarr has a type."""
    return np.dtype({"float16": "<f2", "float32": "<f4", "bfloat16": "<u2"}[dtype])


def fill_value(dtype: FeatureDtype) -> float | int:
    """Give what stands where no row was written: not a number, in the stored format."""
    return _BFLOAT16_NAN if dtype == "bfloat16" else float("nan")


def to_stored(rows: Float[Array, "n dim"], dtype: FeatureDtype) -> Shaped[Array, "n dim"]:
    """Round features to the stored format, to the nearest, ties to even; what is too large becomes infinite."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(rows, dtype=stored_dtype(dtype))
    bits = np.ascontiguousarray(rows, dtype="<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A number that is none must not be rounded up to infinity, or beyond it to zero.
    return np.where(np.isnan(rows), _BFLOAT16_NAN, rounded).astype("<u2")


def from_stored(stored: Shaped[Array, "n dim"], dtype: FeatureDtype) -> Float32[Array, "n dim"]:
    """Give stored features as float32; exact."""
    if dtype == "bfloat16":
        return (stored.astype("<u4") << 16).view("<f4")
    return stored.astype(np.float32, copy=False)


def is_finite(stored: Shaped[Array, "n dim"], dtype: FeatureDtype) -> bool:
    """Tell whether all stored numbers are finite, by their bits: several times faster than by their values."""
    exponent = _EXPONENT[dtype]
    bits = stored.view(f"<u{stored.dtype.itemsize}")
    return not ((bits & exponent) == exponent).any()
