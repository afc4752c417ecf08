"""Gene names that differ between sections: what is lost, and the change of naming under which they match."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from spam.errors import shortened
from spam.typing import Array, Shaped

Names: TypeAlias = Sequence[str] | Shaped[Array, " _"]
"""Names of genes."""

ENOUGH = 0.5
"""Share of the genes of a section that others should share; below it, something is likely wrong."""
_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?$")

# How names are written in other ways; a change is advised only if most names match after it.
_WAYS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("upper and lower case", str.upper),
    ("the Ensembl version suffix", lambda name: re.sub(r"\.\d+$", "", name)),
    ("a prefix such as the genome's", lambda name: re.sub(r"^[^_|:]+[_|:]+", "", name)),
    ("a prefix such as the genome's", lambda name: re.sub(r"^(?:GRC[a-z]*\d+|hg\d+|mm\d+)-+", "", name)),
    ("a second name behind the first", lambda name: re.sub(r"[_|:;].*$", "", name)),
    ("dots in place of hyphens", lambda name: name.replace("-", ".")),
    ("blanks around names", str.strip),
)


def advice_on_names(
    names: Names,
    others: Names,
    columns: Mapping[str, Names] | None = None,
    *,
    then: str = " and embed again with --overwrite",
) -> str:
    """Say in a sentence which change of naming would match most of `names` to `others`; empty if none is found.

    Parameters
    ----------
    names, others
        Gene names of a section and those that it should share.
    columns
        Other names of the same genes, by column of the AnnData's var.
    then
        What to do after the file was changed.
    """
    names, others = [str(name) for name in names], [str(name) for name in others]
    if len({*names} & {*others}) >= ENOUGH * min(len(names), len(others)):
        return ""
    needed = max(ENOUGH * min(len(set(names)), len(set(others))), len({*names} & {*others}) + 1)
    for column, values in (columns or {}).items():
        if len({*map(str, values)} & {*others}) >= needed:
            return (
                f"var[{shortened(column)}] has the names that match: set adata.var_names = adata.var[{shortened(column)}] in the "
                f"h5ad{then}."
            )
    for n_ways in (1, 2):
        for ways in itertools.combinations(_WAYS, n_ways):
            mine, theirs = ({_changed(name, ways): name for name in each} for each in (names, others))
            if len(both := mine.keys() & theirs.keys()) >= needed:
                key = next((key for key in mine if key in both and mine[key] != theirs[key]), min(both))
                return (
                    f"Without {' and '.join(dict.fromkeys(what for what, _ in ways))}, {len(both)} names match "
                    f"({shortened(mine[key])} and {shortened(theirs[key])}): write one form into var_names of the h5ad{then}."
                )
    kinds = [sum(map(bool, map(_ENSEMBL.match, each))) > ENOUGH * len(each) for each in (names, others)]
    if kinds[0] != kinds[1]:
        first, second = ("Ensembl ids", "symbols")[:: 1 if kinds[0] else -1]
        return (
            f"These are {first}, the others {second}: write one kind into var_names of the h5ad (the other is often a column of "
            f"var){then}."
        )
    return ""


def describe_losses(genes: Mapping[str, Sequence[str]]) -> tuple[list[str], bool]:
    """Say what each section loses if only the genes that all sections share are used, with advice.

    Returns
    -------
    Sentences, and whether a section keeps fewer than half of its genes.
    """
    lists = {section: [str(name) for name in names] for section, names in genes.items()}
    common = set.intersection(*map(set, lists.values()))
    lost = {section: len(names) - len(common) for section, names in lists.items()}
    if not any(lost.values()):
        return [], False
    shares = {section: len(common) / max(len(names), 1) for section, names in lists.items()}
    each = ", ".join(f"{section} loses {n} of {len(lists[section])}" for section, n in lost.items() if n)
    lines = [f"{len(common)} gene names are in all {len(lists)} sections and can be modelled; {each}"]
    is_low = min(shares.values()) < ENOUGH
    if is_low:
        first, *others = lists
        for name in others:  # the odd one out differs from the first section, or is the first
            if advice := advice_on_names(lists[name], lists[first]):
                lines.append(f"genes of {name}, compared with {first}: {advice}")
                break
    return lines, is_low


def _changed(name: str, ways: Sequence[tuple[str, Callable[[str], str]]]) -> str:
    for _, change in ways:
        name = change(name)
    return name
