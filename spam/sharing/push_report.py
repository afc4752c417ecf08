"""What `spam store push` did, in values and in words."""

import dataclasses
from pathlib import Path
from typing import Any

__all__ = ["PushReport"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """What `push` did.

    Attributes
    ----------
    store, to
        The store, and where it is shared.
    sections
        Sections that are there now as they are in the store.
    others
        Other sections that were there, and were left as they are.
    n_files, n_bytes
        Files of sections that were sent, and their size. On the Hub, those of them that it knew already (from a push
        that was killed, or another dataset) count, and did not travel.
    n_there
        Files that were there already and were not sent.
    n_deleted
        Files that no index names any more, and that were deleted.
    kept
        Features and graphs that were there and are not in the store, ``section/key``; they are there still.
    replaced
        What was there, differed, and was replaced.
    overridden
        What spoke against sharing and was overridden; it is recorded in the copy.
    unfinished
        Features that a writer began and did not finish, ``section/key``; they are left out.
    commit
        Commit that holds it, on the Hub.
    """

    store: Path
    to: str
    sections: tuple[str, ...]
    others: tuple[str, ...]
    n_files: int
    n_bytes: int
    n_there: int
    n_deleted: int
    kept: tuple[str, ...]
    replaced: tuple[str, ...]
    overridden: tuple[str, ...]
    unfinished: tuple[str, ...]
    commit: str | None

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        plain = dataclasses.asdict(self) | {"store": str(self.store)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def summary(self) -> str:
        """Write what was sent, what was overridden and what was left out."""
        lines = [f"overridden, and recorded in the copy: {line}" for line in self.overridden]
        lines += [f"unfinished features were left out: {name}" for name in self.unfinished]
        lines += [f"replaced: {line}" for line in self.replaced]
        if self.kept:
            lines.append(f"features and graphs that are only there were left: {', '.join(self.kept)}")
        if self.others:
            lines.append(f"other sections there were left as they are: {', '.join(self.others)}")
        lines.append(
            f"sent {self.n_files} files, {self.n_bytes} bytes; {self.n_there} files were there already, "
            f"{self.n_deleted} that nobody needs any more were deleted"
        )
        at = "" if self.commit is None else f" (commit {self.commit})"
        return "\n".join([*lines, f"sections {', '.join(self.sections)} are shared at {self.to}{at}"])
