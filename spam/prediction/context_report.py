"""What a report says of the measured part that a prediction was given."""

import dataclasses
from typing import Literal

from .context import Context
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
    is_panel
        Whether the file was taken for a panel of genes, which tells no library sizes (`Context.expression`).
    scored
        What is scored where there is ground truth: the spots, or the genes, that were not given.
    """

    n_spots: int
    n_genes: int
    n_unmodelled_genes: int
    n_unknown_spots: int
    n_empty_spots: int
    n_unreadable_spots: int
    is_panel: bool
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
        facts = predicted.provenance.get("context", {})
        return cls(
            n_spots=n_spots,
            n_genes=n_genes,
            n_unmodelled_genes=n_genes_of_file - n_genes,
            n_unknown_spots=n_unknown,
            n_empty_spots=n_spots_of_file - n_unknown - n_given,
            n_unreadable_spots=n_given - n_spots,
            is_panel=facts.get("library_size", "").startswith("panel"),
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
            + ("; taken for a panel, whose library sizes are not known" if self.is_panel else "")
            + f"; only {self.scored} that were not given are scored"
        )
