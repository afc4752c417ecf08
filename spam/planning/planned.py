"""What is planned: the sections, and how much work they are."""

import dataclasses
from pathlib import Path
from typing import Any

from spam.schemas.encoder_card import EncoderCard
from spam.schemas.store_format import Sampling
from spam.schemas.tile_spec import TileSpec
from spam.sections import Section
from spam.tiles import StainNormaliser

__all__ = ["EmbedPlan", "PlannedSection"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSection:
    """A section that was read and checked.

    Attributes
    ----------
    section
        The section, located on its slide.
    slide_size_px, licence
        Width and height of the slide at full resolution (None for tile files), and the licence to be stored.
    specs
        The tile sizes that it is to get.
    samplings
        How the tiles of each size are cut.
    stain
        Normalises the stains of the tiles; None leaves them as they are.
    """

    section: Section
    slide_size_px: tuple[int, int] | None
    licence: str | None
    specs: tuple[TileSpec, ...]
    samplings: tuple[Sampling, ...]
    stain: StainNormaliser | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedPlan:
    """What `embed` would do: the outcome of all checks, and how much work it is.

    Attributes
    ----------
    store
        Folder of the store.
    card
        The encoder as it was published.
    encoder
        Name that the features will carry: the encoder's, or that of its adaptation.
    sections
        The sections, in order.
    n_bytes
        Size of the features once they are all there.
    """

    store: Path
    card: EncoderCard
    encoder: str
    sections: tuple[PlannedSection, ...]
    n_bytes: int

    @property
    def n_tiles(self) -> int:
        """Count the tiles of all sections and sizes, embedded already or not."""
        return sum(len(planned.section.ids) * len(planned.specs) for planned in self.sections)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "store": str(self.store),
            "encoder": self.encoder,
            "n_tiles": self.n_tiles,
            "n_bytes": self.n_bytes,
            "sections": [
                {
                    "name": planned.section.name,
                    "donor": planned.section.donor,
                    "n_spots": len(planned.section.ids),
                    "mpp": planned.section.mpp,
                    "tiles": [spec.label for spec in planned.specs],
                    "join": planned.section.join.describe(),
                }
                for planned in self.sections
            ],
        }

    def summary(self) -> str:
        """Say in a few lines of plain text what would be done."""
        lines = [
            f"{planned.section.name}: {planned.section.join.describe()}; "
            f"tiles of {', '.join(spec.label for spec in planned.specs)}"
            for planned in self.sections
        ]
        lines.append(
            f"{self.n_tiles} tiles through {self.encoder} make {self.n_bytes / 1e6:.1f} MB of features "
            f"in {self.store}"
        )
        return "\n".join(lines)
