"""Which sections each fold of a benchmark trains on and tests."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from spam.errors import ConfigError, shortened
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.store_format import SectionMeta
from spam.training.groups import N_BLOCKS

_MOST_FAULTS = 5  # of a table of folds that are listed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Training and test sections of one fold.

    Attributes
    ----------
    name
        Name in the tables.
    train, test
        Section names; the same single section on both sides if a block of it is held out.
    block
        Number of the held-out spatial block, or None for whole sections.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    block: int | None = None


def plan_folds(sections: Sequence[SectionMeta], config: BenchmarkConfig) -> tuple[Fold, ...]:
    """Plan the folds: one transfer, or each donor, section or block held out in turn.

    ``--folds`` names all folds. Without ``--by``, the largest unit with at least two members is held out.

    Raises
    ------
    ConfigError
        If a section has no counts, ``--by donor`` is used with unknown donors, or there is nothing to train on.
    """
    names = tuple(meta.name for meta in sections)
    if bare := [meta.name for meta in sections if not meta.has_counts]:
        message = f"Sections {', '.join(bare)} have no counts. Leave them out (--sections), or embed them with --h5ad."
        raise ConfigError(message)
    if config.folds is not None:
        return read_folds(config.folds)
    if config.train_sections:
        train, test = (tuple(dict.fromkeys(s)) for s in (config.train_sections, config.test_sections))
        return (Fold(name=f"{'+'.join(train)} -> {'+'.join(test)}", train=train, test=test),)
    unknown = [meta.name for meta in sections if meta.donor is None]
    has_donors = not unknown and len({meta.donor for meta in sections}) > 1
    by = config.by or ("donor" if has_donors else "section" if len(names) > 1 else "block")
    if by == "block":
        return tuple(
            Fold(name=f"{name} block {block + 1}", train=(name,), test=(name,), block=block)
            for name in names
            for block in range(N_BLOCKS)
        )
    if by == "donor" and unknown:
        message = (
            f"Donor of sections {', '.join(unknown)} is unknown (--by donor). Embed them with --donor, leave them out with "
            "--sections, or use --by section."
        )
        raise ConfigError(message)
    groups: dict[str, tuple[str, ...]] = {}
    for meta in sections:
        group = str(meta.donor) if by == "donor" else meta.name
        groups[group] = (*groups.get(group, ()), meta.name)
    if len(groups) < 2:
        smaller = "block" if by == "section" else "section"
        message = f"--by {by} needs at least two {by}s, got {', '.join(groups)}. Use --by {smaller}."
        raise ConfigError(message)
    return tuple(
        Fold(name=group, train=tuple(name for name in names if name not in held_out), test=held_out)
        for group, held_out in groups.items()
    )


def read_folds(path: Path) -> tuple[Fold, ...]:
    """Read predefined folds, one for each column ``fold_0``, ``fold_1`` and so on of a CSV table.

    A row is a section, named by its column ``section`` or ``sample_id``; a cell is ``train``, ``test`` or empty. STP-Bench
    (arXiv 2609.05956) has such a table, ids.csv.

    Raises
    ------
    ConfigError
        If the file is no such table, a cell has another value, or a fold has nothing on one side.
    """
    where = f"{path.name} (--folds)"
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, header=None)
    except ValueError as error:  # of the parser and the decoder, too
        message = f"{where} is not a CSV table ({shortened(error)})."
        raise ConfigError(message) from error
    rows = rows.apply(lambda cells: cells.str.strip())
    table = rows[1:].set_axis(rows.iloc[0], axis=1)
    if repeated := sorted({*table.columns[table.columns.duplicated()]}):
        message = (
            f"{where} repeats the column {', '.join(map(shortened, repeated))}. Give each column one name."
        )
        raise ConfigError(message)
    columns = [column for column in table if re.fullmatch(r"fold_\d+", str(column))]
    key = next((column for column in ("section", "sample_id") if column in table), None)
    if key is None or not columns:
        lacks = "section or sample_id" if key is None else "fold_0"
        message = f"{where} has no column {lacks}, only {', '.join(map(str, table))}. Without a table, use --by donor or section."
        raise ConfigError(message)
    sides = table[columns].apply(lambda cells: cells.str.lower())
    other = sorted({*sides.to_numpy().ravel()} - {"train", "test", ""})
    faults = [f"{shortened(value)} is neither train, test nor empty" for value in other]
    faults += [f"section {shortened(name)} is repeated" for name in table[key][table[key].duplicated()]]
    faults += [f"{c} has no {side}" for c in columns for side in ("train", "test") if side not in {*sides[c]}]
    if faults:
        message = f"{where}: {'; '.join(faults[:_MOST_FAULTS])}."
        raise ConfigError(message)
    return tuple(
        Fold(
            name=str(column),
            train=tuple(table[key][sides[column] == "train"]),
            test=tuple(table[key][sides[column] == "test"]),
        )
        for column in columns
    )
