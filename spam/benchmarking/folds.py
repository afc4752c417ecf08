"""Which sections are trained on and which are tested in each fold."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from spam.errors import ConfigError
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.store_format import SectionMeta
from spam.training.groups import N_BLOCKS

__all__ = ["Fold", "chosen_sections", "plan_folds"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """What is held out once.

    Attributes
    ----------
    name
        Name in the tables.
    train, test
        Sections; the same lone one on both sides where a block of it is held out.
    block
        Number of the block that is held out, or None for whole sections.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    block: int | None = None


def chosen_sections(names: Sequence[str], config: BenchmarkConfig, address: str) -> tuple[str, ...]:
    """Settle which sections of a store take part, in the order in which they were named.

    Raises
    ------
    ConfigError
        If one of them is not in the store, or the store is empty.
    """
    chosen = (*config.train_sections, *config.test_sections) or config.sections or tuple(names)
    unknown = [name for name in chosen if name not in names]
    if unknown or not chosen:
        problem = (
            f"sections {', '.join(map(repr, unknown))} are not in store" if unknown else "nothing is in store"
        )
        message = f"{problem} {address!r}, which has {', '.join(names) or 'no section'}; embed them with `spam embed`"
        raise ConfigError(message)
    return chosen


def plan_folds(sections: Sequence[SectionMeta], config: BenchmarkConfig) -> tuple[Fold, ...]:
    """Plan the folds over sections that take part: one transfer, or each donor, section or block held out in turn.

    Raises
    ------
    ConfigError
        If a section has no counts, a donor is unknown where donors are held out, or nothing is left to train on.
    """
    _require_counts(sections)
    names = tuple(meta.name for meta in sections)
    if config.train_sections:
        name = f"{'+'.join(config.train_sections)} -> {'+'.join(config.test_sections)}"
        return (Fold(name=name, train=config.train_sections, test=config.test_sections),)
    by = config.by or _default(sections)
    if by == "block":
        return tuple(
            Fold(name=f"{name} block {block + 1}", train=(name,), test=(name,), block=block)
            for name in names
            for block in range(N_BLOCKS)
        )
    groups = _donor_groups(sections) if by == "donor" else {name: (name,) for name in names}
    if len(groups) < 2:
        message = (
            f"--by {by} needs at least two {by}s, but the {len(names)} sections ({', '.join(names)}) are of one: holding it "
            f"out leaves nothing to train on; use --by {'block' if by == 'section' else 'section'}"
        )
        raise ConfigError(message)
    return tuple(
        Fold(name=group, train=tuple(name for name in names if name not in held_out), test=held_out)
        for group, held_out in groups.items()
    )


def _default(sections: Sequence[SectionMeta]) -> Literal["section", "donor", "block"]:
    """Hold out the largest unit that there is more than one of."""
    donors = {meta.donor for meta in sections}
    if None not in donors and len(donors) > 1:
        return "donor"
    return "section" if len(sections) > 1 else "block"


def _donor_groups(sections: Sequence[SectionMeta]) -> dict[str, tuple[str, ...]]:
    """List the sections of each donor."""
    nameless = [meta.name for meta in sections if meta.donor is None]
    if nameless:
        message = (
            f"--by donor, but nobody said of which donor sections {', '.join(nameless)} are; embed them with --donor, leave "
            "them out with --sections, or use --by section"
        )
        raise ConfigError(message)
    donors = dict.fromkeys(str(meta.donor) for meta in sections)
    return {donor: tuple(meta.name for meta in sections if meta.donor == donor) for donor in donors}


def _require_counts(sections: Sequence[SectionMeta]) -> None:
    """Refuse sections that nothing can be fitted to or scored on."""
    bare = [meta.name for meta in sections if not meta.has_counts]
    if bare:
        message = (
            f"sections {', '.join(bare)} have no counts, so nothing can be scored on them; leave them out with "
            "--sections, or embed them with --h5ad and raw counts"
        )
        raise ConfigError(message)
