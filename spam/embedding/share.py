"""Which part of the work is a process's own, where several share it."""

import os

from spam.errors import ConfigError
from spam.planning import EmbedPlan
from spam.schemas.embed_config import EmbedConfig
from spam.store import chunk_slices, default_chunk_rows

__all__ = ["Share"]


class Share:
    """The chunks that this process computes, counted through all sections and tile sizes: one run of them.

    Chunks that follow each other show tissue that lies together, so that a block of a slide is decoded by one process.
    """

    def __init__(self, number: int, n: int, *, n_chunks: int) -> None:
        self.number, self.n, self._counted = number, n, 0
        self._own = range(n_chunks * number // n, n_chunks * (number + 1) // n)

    @classmethod
    def of(cls, config: EmbedConfig, planned: EmbedPlan) -> "Share":
        """Take what ``--shard`` says, or else what torchrun has put into the environment.

        Raises
        ------
        ConfigError
            If torchrun's processes are to overwrite.
        """
        n_chunks = sum(
            len(one.specs) * _n_chunks(len(one.section.ids), planned.card.dim, config)
            for one in planned.sections
        )
        n = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
        if config.shard is not None or n == 1:
            return cls(*config.shard_of, n_chunks=n_chunks)
        if config.overwrite:
            message = (
                f"--overwrite would let the {n} processes of torchrun delete each other's work; "
                "run once without torchrun"
            )
            raise ConfigError(message)
        return cls(int(os.environ["RANK"]), n, n_chunks=n_chunks)

    @property
    def label(self) -> str:
        """Name of this part for locks; empty for all of the work."""
        return f"@{self.number + 1}of{self.n}" if self.n > 1 else ""

    def of_chunks(self, chunks: list[slice]) -> list[slice]:
        """Pick the chunks of one array that are this process's own."""
        first = self._counted
        self._counted += len(chunks)
        return [chunk for place, chunk in enumerate(chunks, first) if place in self._own]


def _n_chunks(n_spots: int, dim: int, config: EmbedConfig) -> int:
    rows = config.chunk_rows or default_chunk_rows(dim, config.dtype)
    return len(chunk_slices(n_spots, rows))
