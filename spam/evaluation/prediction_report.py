"""What `spam predict` reports: how far a prediction can be relied on, in words and numbers."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spam.errors import counted
from spam.models.stacking import MAJORITY
from spam.prediction import CALIBRATING_DONORS, ContextReport, PredictedSection
from spam.progress import already_done
from spam.reports.score_tables import HEADLINE_SET, shown

from .boards import BoardReport
from .stored_truth import MODEL


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictReport:
    """Outcome of `predict`.

    Attributes
    ----------
    predicted
        The prediction.
    n_unmeasured
        Modelled genes that the section has not measured.
    out_dir, files
        Folder of the results, and the written files.
    board
        Scores of the model and the baselines; None without ground truth.
    unscored
        Why there are no scores; None if there are.
    placement_doubt
        Why the spots may not lie where they belong on their slide; None without such a doubt.
    gene_advice
        How to make the gene names of the section match, if most modelled genes were not found in it and a change is known.
    """

    predicted: PredictedSection
    n_unmeasured: int
    out_dir: Path
    files: tuple[Path, ...]
    board: BoardReport | None
    unscored: str | None = None
    placement_doubt: str | None = None
    gene_advice: str = ""

    @property
    def context(self) -> ContextReport | None:
        """What ``--context-h5ad`` gave; None without it."""
        return self.predicted.context

    @property
    def n_unreadable(self) -> int:
        """Number of spots with unreadable tiles, neither predicted nor scored."""
        return int((~self.predicted.is_predicted).sum())

    @property
    def n_unlike(self) -> int | None:
        """Number of spots whose image is unlike the training sections; None if these are this section alone."""
        is_alone = np.isnan(self.predicted.bank_distance).all()
        return None if is_alone else int(self.predicted.is_out_of_distribution.sum())

    @property
    def n_predictable(self) -> int:
        """Number of genes predicted better than by chance on held-out spots."""
        return int(self.predicted.is_predictable.sum())

    @property
    def weights_in_words(self) -> str:
        """The weights of the predictors, and why they differ from those chosen in training."""
        weights, chosen = (
            self.predicted.provenance[name] for name in ("weights", "weights_of_similar_sections")
        )
        listed = ", ".join(f"{name} {weight:.0%}" for name, weight in weights.items())
        if weights == chosen:
            n_donors = self.predicted.provenance["n_left_out_donors"]
            why = (
                "; training left out no donor, so they were not tested on a new one: there the ridge may be better"
                if not n_donors and weights["ridge"] < 1
                else "; the ridge has most of the weight, because left-out donors were predicted best that way"
                if n_donors and weights["ridge"] > MAJORITY
                else ""
            )
            return f"weights of the predictors: {listed}{why}"
        return (
            f"weights of the predictors: {listed}. The network has {chosen['network']:.0%} in sections like those of training; "
            "this one is farther from them than they are from each other, so the ridge has more weight"
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        provenance, context = self.predicted.provenance, self.context
        return {
            "section": self.predicted.section,
            "n_spots": len(self.predicted.ids),
            "n_genes": len(self.predicted.genes),
            "is_training_section": provenance["is_training_section"],
            "training_section": self.predicted.training_section,
            "is_calibrated": provenance["is_calibrated"],
            "weights": provenance["weights"],
            "coverage": self.predicted.coverage,
            "depth": self.predicted.depth,
            "n_unmeasured": self.n_unmeasured,
            "n_unreadable": self.n_unreadable,
            "n_unlike": self.n_unlike,
            "is_mostly_unlike": self.predicted.is_mostly_unlike,
            "n_predictable": self.n_predictable,
            "unscored": self.unscored,
            "in_words": self.verdict,
            "notes": self.notes,
            "context": None if context is None else dataclasses.asdict(context),
            "files": [str(path) for path in self.files],
            "metrics": None if self.board is None else self.board.to_mapping(),
        }

    @property
    def _is_warned(self) -> bool:
        """Whether the reason for missing scores is a warning, which belongs to the notes."""
        return self.unscored is not None and self.unscored.startswith("WARNING")

    @property
    def verdict(self) -> str:
        """How far the prediction can be relied on, in words."""
        predicted, n_genes = self.predicted, len(self.predicted.genes)
        found = (
            f"{self.n_predictable} of {n_genes} genes were predicted better than by chance on held-out spots"
        )
        trained_as = predicted.training_section
        if trained_as is not None:
            name = "" if trained_as == predicted.section else f" under the name {trained_as!r}"
            found = f"The checkpoint was trained on this section{name}: its scores do not describe new tissue. {found}"
        elif predicted.is_mostly_unlike:
            share = f"{self.n_unlike} of {len(predicted.ids)} spots"
            found = f"Do not rely on this prediction: {share} look unlike the training sections"
        if self.board is None:
            return f"{found}." if self._is_warned else f"{found}. {self.unscored}"
        score, n_scored = self.board.headline(MODEL, "pearson"), self.board.n_headline
        genes = f"the {n_scored} scored genes of {HEADLINE_SET}"
        scored = f" On this section, {genes} have a mean Pearson r of {shown(score, digits=2)}."
        comparison = "" if trained_as is not None else f" {self.board.comparison()}"
        return f"{found}.{scored if n_scored else ''}{comparison}"

    @property
    def notes(self) -> list[str]:
        """What to know before using the prediction, one sentence a line; warnings start with ``WARNING``."""
        n_spots, n_genes = self.predicted.unclipped.shape
        provenance, lines = self.predicted.provenance, list[str]()
        if self.placement_doubt is not None:
            lines.append(f"WARNING: {self.placement_doubt}, with spam check-alignment")
        if self.n_unlike is None:
            lines.append("the checkpoint was trained on this section alone: no test for unlike spots")
        else:
            # On an unseen section of the same kind, one spot in a hundred is unlike.
            warning = "WARNING: " if 2 * self.n_unlike > n_spots else ""
            share = f"{self.n_unlike} of {n_spots} spots ({self.n_unlike / n_spots:.0%})"
            lines.append(
                f"{warning}{share} look unlike the training sections (obs['is_out_of_distribution'])"
            )
        lines.append(self.weights_in_words)
        if self.predicted.is_mostly_unlike:
            share = f"{self.n_predictable} of {n_genes} genes"
            lines.append(
                f"{share} count as predictable, because most spots are unlike those of training (var['is_predictable'])"
            )
        if not provenance["is_training_section"] and not provenance["is_calibrated"]:
            n_donors, least = (provenance[name] for name in ("n_left_out_donors", "least_heldout_coverage"))
            coverage = self.predicted.coverage
            reason = (
                f"not even the widest interval covered {coverage:.0%} of the counts of each left-out section"
                if least < coverage
                else "its images are unlike those of the left-out sections"
                if n_donors >= CALIBRATING_DONORS
                else f"training left out {n_donors} of the {CALIBRATING_DONORS} donors that calibration needs"
            )
            lines.append(
                f"intervals are not calibrated for this section: {reason}. They were widened until they covered "
                f"{least:.0%} of the counts of each left-out section, but may cover fewer here"
            )
        if self.context is not None:
            lines.append(self.context.sentence())
        if 0 < self.n_unmeasured < n_genes:
            warning = "WARNING: " if 2 * self.n_unmeasured > n_genes else ""
            lines.append(
                f"{warning}{self.n_unmeasured} of these genes were not measured in the section and are not scored. "
                f"{self.gene_advice}".rstrip(". ")
            )
        elif self._is_warned:
            lines.append(f"{self.unscored} {self.gene_advice}".rstrip())
        elif self.board is None and self.gene_advice:
            lines.append(self.gene_advice)
        if self.n_unreadable:
            lines.append(
                f"{counted(self.n_unreadable, 'spot')} with unreadable tiles: neither predicted nor scored"
            )
        if self.board is not None:
            lines += self.board.warnings()
        return lines

    def summary(self) -> str:
        """Return the verdict, a short table of scores, notes, and the files."""
        n_spots, n_genes = self.predicted.unclipped.shape
        blocks = [
            f"{self.verdict}\nSection {self.predicted.section}: {counted(n_spots, 'spot')}, {counted(n_genes, 'gene')}"
        ]
        if self.board is not None:
            blocks.append(f"{self.board.short_table(MODEL)}\n")
        written = ", ".join(path.relative_to(self.out_dir).as_posix() for path in self.files)
        return "\n".join([*blocks, *self.notes, f"written to {self.out_dir}: {written}"])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FinishedPrediction:
    """Outcome of `predict` if its folder holds the results of the same inputs: nothing was predicted.

    Attributes
    ----------
    out_dir
        Folder of the results.
    values
        Its ``metrics.json``.
    """

    out_dir: Path
    values: Mapping[str, Any]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the results."""
        return tuple(self.out_dir / name for name in self.values["files"])

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {**self.values, "files": [str(path) for path in self.files]}

    def summary(self) -> str:
        """Say that it was done, and repeat verdict and notes."""
        done = already_done(self.out_dir, "has the predictions of the same inputs", "predicted")
        return "\n".join([done, self.values["in_words"], *self.values["notes"]])
