"""What a report says of the measured part that a prediction was given."""

import dataclasses
from typing import Literal

from .context import Context
from .context_facts import LibrarySize
from .result import PredictedSection

__all__ = ["ContextReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ContextReport:
    """What was given of a section, and what of the file could not be used.

    Attributes
    ----------
    n_spots, n_genes
        Spots and modelled genes that were given.
    n_unmodelled_genes
        Genes of the file that the checkpoint does not predict; they count only for library sizes.
    n_unknown_spots
        Spots of the file that the section does not have.
    n_empty_spots
        Spots of the file without a count of any modelled gene.
    n_unreadable_spots
        Spots of the file that nothing is predicted for, since their tiles could not be read.
    library_size, relative_share
        Where library sizes come from, and what decided it (`ContextFacts`); None where nothing could be used.
    scored
        What is scored where there is ground truth: the spots, or the genes, that were not given.
    """

    n_spots: int
    n_genes: int
    n_unmodelled_genes: int
    n_unknown_spots: int
    n_empty_spots: int
    n_unreadable_spots: int
    library_size: LibrarySize | None
    relative_share: float | None
    scored: Literal["spots", "genes"]

    @classmethod
    def of(
        cls,
        context: Context,
        predicted: PredictedSection,
        *,
        n_genes_of_file: int,
        n_spots_of_file: int,
        n_unknown: int,
    ) -> "ContextReport":
        """Count what was given to a prediction (as `condition` returned it), and what of the file was not used."""
        n_given, n_genes = int(context.is_given_spot.sum()), int(context.is_given_gene.sum())
        n_spots = int((context.is_given_spot & predicted.is_predicted).sum())
        facts = predicted.context
        return cls(
            n_spots=n_spots,
            n_genes=n_genes,
            n_unmodelled_genes=n_genes_of_file - n_genes,
            n_unknown_spots=n_unknown,
            n_empty_spots=n_spots_of_file - n_unknown - n_given,
            n_unreadable_spots=n_given - n_spots,
            library_size=None if facts is None else facts.library_size,
            relative_share=None if facts is None else facts.relative_share,
            scored="spots" if context.scores_spots else "genes",
        )

    def sentence(self) -> str:
        """Say in one line what was given, what was left out, and what is scored."""
        beside = [
            f"{n} {what}"
            for n, what in (
                (self.n_unknown_spots, "spots that the section does not have"),
                (self.n_empty_spots, "spots without counts of these genes"),
                (self.n_unreadable_spots, "spots whose tiles could not be read"),
                (self.n_unmodelled_genes, "genes that the checkpoint does not predict"),
            )
            if n
        ]
        return (
            f"given: counts of {self.n_genes} modelled genes at {self.n_spots} spots"
            + (f" (also in the file: {', '.join(beside)})" if beside else "")
            + self._library()
            + f"; only {self.scored} that were not given are scored"
        )

    def _library(self) -> str:
        """Say where library sizes come from, and how to say otherwise."""
        match self.library_size:
            case "stated":
                return "; library sizes are those of its obs['library_size']"
            case "sums":
                return "; library sizes are the sums of its counts (if they are not: put them into obs['library_size'])"
            case "panel":
                return (
                    "; taken for a panel, whose library sizes are not known, since these genes make up "
                    f"{self.relative_share:.3g} times as much of its counts as of the training spots' (if they are known: "
                    "put them into obs['library_size'])"
                )
            case None:
                return ""
