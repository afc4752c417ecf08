"""Ids of spots: changed only on request, never repeated, and what may be wrong where they do not match."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from spam.errors import SectionError
from spam.schemas.embed_config import InputConfig
from spam.typing import Array, Shaped

from .wording import quoted

__all__ = ["likely_cause", "refuse_duplicates", "requested_ids"]


def requested_ids(ids: Shaped[Array, " n_rows"], config: InputConfig) -> Shaped[Array, " n_rows"]:
    """Change the table's ids as asked for: first cut ``--id-strip-suffix``, then add ``--id-offset``.

    Raises
    ------
    SectionError
        If an offset is asked for and an id is no integer.
    """
    changed = [str(name) for name in ids]
    if config.id_strip_suffix:
        changed = [name.removesuffix(config.id_strip_suffix) for name in changed]
    if config.id_offset:
        wrong = [name for name in changed if _integer(name) is None]
        if wrong:
            message = (
                f"--id-offset {config.id_offset} needs integer ids, but {len(wrong)} ids of the table are "
                f"none: {quoted(wrong)}; leave out --id-offset, or cut a suffix first with --id-strip-suffix"
            )
            raise SectionError(message)
        changed = [str(int(name) + config.id_offset) for name in changed]
    return np.array(changed, dtype=np.str_)


def refuse_duplicates(ids: Shaped[Array, " n"], *, where: str, advice: str) -> None:
    """Raise if an id is empty or occurs twice.

    Raises
    ------
    SectionError
        Naming the first of the ids, the place they were met in and what to do about it.
    """
    index = pd.Index(ids)
    if (index == "").any():
        message = f"{where}: {int((index == '').sum())} ids are empty; every spot needs an id of its own"
        raise SectionError(message)
    repeated = index[index.duplicated()].unique()
    if len(repeated):
        message = f"{where}: {len(repeated)} ids occur more than once: {quoted(list(repeated))}; {advice}"
        raise SectionError(message)


def likely_cause(
    table_ids: Shaped[Array, " n_rows"],
    h5ad_ids: Shaped[Array, " n_spots"],
    *,
    section: str,
    config: InputConfig,
) -> str | None:
    """Say which simple change of the table's ids would match the most spots, if any matches more than now.

    Tried are the suffixes ``.0`` and ``-1`` on either side, integer ids that are off by one, and the
    section's name as a prefix on either side. Nothing is changed: the sentence names the option that does it
    on purpose.
    """
    names, spots = table_ids.tolist(), set(h5ad_ids.tolist())
    n_best, best = len(spots.intersection(names)), None
    for changed, advice in _changes(names, section=section, config=config):
        n_hits = len(spots.intersection(changed))
        if n_hits > n_best:
            n_best, best = n_hits, advice
    return None if best is None else f"{best}: then {n_best} of {len(spots)} spots would match"


def _changes(ids: Sequence[str], *, section: str, config: InputConfig) -> Iterator[tuple[list[str], str]]:
    """Yield changed ids, each with the words that say how to make that change on purpose."""
    for suffix in (".0", "-1"):
        option = f"--id-strip-suffix={suffix}{config.id_strip_suffix or ''}"
        cut = [name.removesuffix(suffix) for name in ids]
        yield cut, f"the table's ids seem to carry the suffix {suffix!r}; cut it with {option}"
        longer = [name + suffix for name in ids]
        yield longer, f"the h5ad's ids seem to carry the suffix {suffix!r}; add it to the ids of the table"
    numbers = [_integer(name) for name in ids]
    if None not in numbers:
        for step in (1, -1):
            shifted = [str(number + step) for number in numbers if number is not None]
            option = f"--id-offset={config.id_offset + step}"
            yield shifted, f"the table's integer ids seem to be off by one; shift them with {option}"
    for prefix in (f"{section}_", f"{section}-"):
        bare = [name.removeprefix(prefix) for name in ids]
        yield (
            bare,
            f"the table's ids seem to carry the section's name; remove {prefix!r} from the ids of the table",
        )
        longer = [prefix + name for name in ids]
        yield (
            longer,
            f"the h5ad's ids seem to carry the section's name; put {prefix!r} before the ids of the table",
        )


def _integer(name: str) -> int | None:
    """Read an integer written in plain digits, or None."""
    digits = name.removeprefix("-")
    return int(name) if digits.isascii() and digits.isdigit() else None
