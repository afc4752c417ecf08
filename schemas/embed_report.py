"""What `spam embed` reports: per section what was joined, what was embedded, and how long it took."""

import dataclasses
from pathlib import Path
from typing import Any

__all__ = ["EmbedReport", "SectionReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionReport:
    """What became of one section.

    Attributes
    ----------
    name, n_spots
        The section and its size.
    keys
        Names of its features in the store, one per tile size.
    join
        What was joined and what was left out.
    n_embedded, n_present
        Tiles embedded now, and tiles whose features were there already.
    n_left
        Tiles that are left to other processes (``--shard``); the features are put together by the last of them.
    flags
        How many tiles have which flag, counted over all tile sizes; see `spam.schemas.tile_spec.tile_flags`.
    seconds
        Time that it took.
    """

    name: str
    n_spots: int
    keys: tuple[str, ...]
    join: str
    n_embedded: int
    n_present: int
    n_left: int
    flags: dict[str, int]
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """What `embed` did.

    Attributes
    ----------
    store
        Folder of the store.
    encoder
        Name of the encoder.
    sections
        One report per section, in order.
    """

    store: Path
    encoder: str
    sections: tuple[SectionReport, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        sections = [{**dataclasses.asdict(section), "keys": list(section.keys)} for section in self.sections]
        return {"store": str(self.store), "encoder": self.encoder, "sections": sections}

    def summary(self) -> str:
        """Say in a few lines of plain text what was done."""
        lines = [
            f"{section.name}: {section.join}; {', '.join(section.keys)}: {section.n_embedded} tiles "
            f"embedded, {section.n_present} already there ({section.seconds:.1f} s)"
            + (f"; {section.n_left} left to other parts" if section.n_left else "")
            + "".join(f"; {n} {flag}" for flag, n in section.flags.items() if n)
            for section in self.sections
        ]
        return "\n".join([*lines, f"features of {self.encoder} are in {self.store}"])
