"""Array types with named axes; the only import of jaxtyping.

The same axis name means the same size within one signature. Tests check shapes at run time
(``--jaxtyping-packages=spam,beartype.beartype``); in use the annotations cost nothing.
"""

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, Num, Shaped, UInt8, UInt64

__all__ = [
    "Array", "Bool", "Float", "Float32", "Float64", "Int", "Int64", "Num", "Rows", "Shaped", "UInt8", "UInt64",
]  # fmt: skip

Array: TypeAlias = np.ndarray


@runtime_checkable
class Rows(Protocol):
    """A matrix in memory, or one whose rows are read when they are asked for (`spam.store.StoredRows`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number format."""

    def __len__(self) -> int:
        """Count the rows."""

    def __getitem__(self, key: Any, /) -> Any:
        """Read rows (a slice, or ascending numbers), or columns of them (a slice)."""
