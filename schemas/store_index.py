"""The index of a section: every file with its size and digest, and the seal of the index itself."""

import dataclasses
from typing import Any

__all__ = ["FileEntry"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a section, as its index names it.

    Attributes
    ----------
    n_bytes
        Size.
    sha256
        Digest of all its bytes, 64 hexadecimal digits.
    """

    n_bytes: int
    sha256: str

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {"n_bytes": self.n_bytes, "sha256": self.sha256}
