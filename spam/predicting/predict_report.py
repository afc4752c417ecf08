"""What `spam predict` says of its run."""

import dataclasses
from pathlib import Path
from typing import Any

from spam.evaluation import BoardReport
from spam.prediction import ContextReport

__all__ = ["PredictReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PredictReport:
    """Outcome of `predict`.

    Attributes
    ----------
    section
        Section that was predicted.
    n_spots, n_genes
        Size of the predicted matrix.
    is_training_section
        True if the checkpoint has seen the section's counts: then the scores say nothing about new tissue.
    is_calibrated_on_new_donors
        Whether intervals were calibrated on donors that were not trained on at first.
    coverage
        Share of counts that the intervals were to hold.
    files
        Everything that was written.
    board
        Scores of the model and every baseline, or None without ground truth.
    n_unmeasured
        Modelled genes that the section has not measured.
    n_unreadable
        Spots whose tiles could not be read: nothing is predicted for them, and they are not scored.
    n_unlike
        Spots whose image is unlike all that was trained on; None where that was this section alone.
    n_predictable
        Genes that held-out spots have shown to be predicted better than by chance; None where training has not judged
        them.
    context
        What ``--context-h5ad`` gave of the section; None without it.
    """

    section: str
    n_spots: int
    n_genes: int
    is_training_section: bool
    is_calibrated_on_new_donors: bool
    coverage: float
    files: tuple[Path, ...]
    board: BoardReport | None
    n_unmeasured: int
    n_unreadable: int
    n_unlike: int | None
    n_predictable: int | None
    context: ContextReport | None

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "section": self.section,
            "n_spots": self.n_spots,
            "n_genes": self.n_genes,
            "is_training_section": self.is_training_section,
            "is_calibrated_on_new_donors": self.is_calibrated_on_new_donors,
            "coverage": self.coverage,
            "n_unmeasured": self.n_unmeasured,
            "n_unreadable": self.n_unreadable,
            "n_unlike": self.n_unlike,
            "n_predictable": self.n_predictable,
            "context": None if self.context is None else dataclasses.asdict(self.context),
            "files": [str(path) for path in self.files],
            "metrics": None if self.board is None else self.board.to_mapping(),
        }

    def summary(self) -> str:
        """Show the boards, or say why there are none."""
        lines = [f"section {self.section}: {self.n_spots} spots x {self.n_genes} genes"]
        if self.is_training_section:
            lines.append(
                "WARNING: the checkpoint was trained on this section; these scores say nothing about new tissue"
            )
        lines.append(self._trust())
        if not self.is_training_section and not self.is_calibrated_on_new_donors:
            lines.append(
                "intervals were calibrated on sections of the training donors: for another donor, they may hold fewer "
                f"counts than the requested {self.coverage:.0%}"
            )
        if self.context is not None:
            lines.append(self.context.sentence())
        if 0 < self.n_unmeasured < self.n_genes:
            lines.append(
                f"{self.n_unmeasured} of these genes were not measured in the section and are not scored"
            )
        if self.n_unreadable:
            lines.append(
                f"tiles of {self.n_unreadable} of these spots could not be read when they were embedded: nothing is "
                "predicted for these spots, and they are not scored"
            )
        unscored = "no ground truth, so no scores" if self.context is None else "nothing is left to score"
        lines.append(unscored if self.board is None else self.board.markdown())
        lines.append(f"written: {', '.join(str(path) for path in self.files)}")
        return "\n".join(lines)

    def _trust(self) -> str:
        """Say in a line how far the numbers can be trusted: a hundredth of an unseen section may look unlike, not half."""
        if self.n_unlike is None:
            spots = "nothing but this section was trained on, so that no spot can be called unlike"
        else:
            warning = "WARNING: " if 2 * self.n_unlike > self.n_spots else ""
            share = f"({self.n_unlike / self.n_spots:.0%})"
            spots = (
                f"{warning}{self.n_unlike} of {self.n_spots} spots {share} look unlike the training sections "
                "(obs['is_out_of_distribution'])"
            )
        if self.n_predictable is None:
            return f"{spots}; this checkpoint was not judged on held-out spots"
        return (
            f"{spots}; on held-out spots, {self.n_predictable} of {self.n_genes} genes were predicted better than by "
            "chance (var['is_predictable'])"
        )
