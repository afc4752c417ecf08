"""What both stages report."""

import dataclasses
from typing import Any

from .loop import Run

__all__ = ["TrainingReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """Outcome of a training stage.

    Attributes
    ----------
    run
        Checkpoints and history.
    n_train, n_val
        Spots trained on and held out.
    val_sections
        Sections held out; empty when a block of the lone section was.
    """

    run: Run
    n_train: int
    n_val: int
    val_sections: tuple[str, ...]

    @property
    def held_out(self) -> str:
        """What was held out, in words."""
        return (
            ", ".join(self.val_sections)
            or "a block of the section, next to spots trained on: too easy for other sections"
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        own = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "run"
        }
        return {
            "best": str(self.run.best_path),
            "last": str(self.run.last_path),
            "best_epoch": int(self.run.best["epoch"]),
            "resumed_from": self.run.resumed_from,
            "metrics": self.run.best,
            **own,
            "val_sections": list(self.val_sections),
        }
