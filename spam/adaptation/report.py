"""What `spam adapt` reports."""

import dataclasses
from pathlib import Path
from typing import Any

from spam.schemas.adapter_card import AdapterCard
from spam.training.loop import TrainingReport

__all__ = ["AdaptReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdaptReport(TrainingReport):
    """Outcome of `adapt`.

    Attributes
    ----------
    folder
        Folder of the adapter.
    card
        What it says of itself.
    next_command
        The command that embeds with it.
    """

    folder: Path
    card: AdapterCard
    next_command: str

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {
            "adapter": str(self.folder),
            "encoder": self.card.encoder_name,
            "adapter_sha256": self.card.adapter_sha256,
            "targets": list(self.card.targets),
            "objective": self.card.objective,
            "best_epoch": self.card.best_epoch,
            "resumed_from": self.run.resumed_from,
            "metrics": self.run.best,
            "n_train": self.n_train,
            "n_val": self.n_val,
            "val_sections": list(self.val_sections),
            "next": self.next_command,
        }

    def summary(self) -> str:
        """Say in a few lines whether the held-out loss fell, and what to do next."""
        start, best = self.run.history[0], self.run.best
        lines = [
            f"{self.n_train} spots trained on, {self.n_val} held out ({self.held_out}); best epoch "
            f"{self.card.best_epoch} of {self.card.epochs}: held-out loss {best['val_loss']:.4f}, before training "
            f"{start['val_loss']:.4f}" + _chance(best)
        ]
        if self.card.best_epoch == 0:
            lines.append(
                "NOT learned: no epoch lowered the held-out loss, so this adapter changes nothing; try another --lr, "
                "or stay with the frozen features"
            )
        lines += [
            f"adapter: {self.folder}; its features carry the encoder name {self.card.encoder_name}",
            f"embed with it next: {self.next_command}",
        ]
        return "\n".join(lines)


def _chance(best: dict[str, float]) -> str:
    """Name what the loss is compared with: ln(batch) of each pair, or the error of predicting the mean."""
    if "val_null_loss" in best:
        return f" (predicting each section's mean: {best['val_null_loss']:.4f})"
    n_pairs = sum(f"val_{pair}_loss" in best for pair in ("gene", "coord"))
    return f" (chance: {n_pairs * best['val_ln_batch']:.4f})"
