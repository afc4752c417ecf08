"""Gene names that differ: losses by hand, and advice that is followed and then leaves nothing to advise."""

import re

import pytest

from spam.store import advice_on_names, describe_losses

SYMBOLS = ["TP53", "GAPDH", "ERBB2", "HLA-A", "MT-CO1", "KRT8", "ACTB"]
IDS = [f"ENSG{i:011d}" for i in range(7)]


@pytest.mark.parametrize(
    ("names", "others", "words"),
    [
        ([s.capitalize() for s in SYMBOLS], SYMBOLS, "upper and lower case, 7 names match"),
        (SYMBOLS, [s.lower() for s in SYMBOLS], "upper and lower case, 7 names match"),
        ([f"{i}.{k}" for k, i in enumerate(IDS)], IDS, "version suffix, 7 names match"),
        ([f"{i}.3" for i in IDS], [f"{i}.4" for i in IDS], "version suffix, 7 names match"),
        ([f"GRCh38_{s}" for s in SYMBOLS], SYMBOLS, "prefix.*, 7 names match"),
        ([f"mm10___{s}" for s in SYMBOLS], SYMBOLS, "prefix.*, 7 names match"),
        ([f"hg19-{s}" for s in SYMBOLS], SYMBOLS, "prefix.*, 7 names match"),
        ([f"{i}_{s}" for i, s in zip(IDS, SYMBOLS, strict=True)], SYMBOLS, "prefix.*, 7 names match"),
        ([f"{s}|{i}" for i, s in zip(IDS, SYMBOLS, strict=True)], SYMBOLS, "second name.*, 7 names match"),
        ([f"hg19_{s.lower()}" for s in SYMBOLS], SYMBOLS, "case and a prefix.*, 7 names match"),
        ([f" {s} " for s in SYMBOLS], SYMBOLS, "blanks.*, 7 names match"),
        (IDS, SYMBOLS, "These are Ensembl ids, the others symbols"),
        (SYMBOLS, [f"{i}.2" for i in IDS], "These are symbols, the others Ensembl ids"),
        (["a1", "b1", "c1"], SYMBOLS, "^$"),
        (SYMBOLS, SYMBOLS, "^$"),
        (SYMBOLS[:3], SYMBOLS, "^$"),  # a panel shares all of its names
    ],
)
def test_the_change_of_naming_is_named(names: list[str], others: list[str], words: str) -> None:
    assert re.search(words, advice_on_names(names, others))


def test_a_column_of_the_file_that_has_the_names_is_named() -> None:
    columns = {"feature_types": ["x"] * 7, "gene_name": SYMBOLS}
    assert "adata.var['gene_name']" in advice_on_names(IDS, SYMBOLS, columns)


def test_losses_are_counted_for_each_section() -> None:
    genes = {"A": [*SYMBOLS, "X1", "X2"], "B": SYMBOLS, "C": [*SYMBOLS, "Y"]}
    assert describe_losses(genes) == (
        ["7 gene names are in all 3 sections and can be modelled; A loses 2 of 9, C loses 1 of 8"],
        False,
    )
    assert describe_losses({"A": SYMBOLS, "B": SYMBOLS[::-1]}) == ([], False)


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_the_section_that_is_named_differently_gets_advice(odd: int) -> None:
    genes = {f"S{i}": SYMBOLS if i != odd else [*SYMBOLS[:2], *IDS[2:]] for i in range(3)}
    (first, second), is_low = describe_losses(genes)
    assert is_low
    assert first.startswith("2 gene names are in all 3 sections")
    assert first.endswith("; S0 loses 5 of 7, S1 loses 5 of 7, S2 loses 5 of 7")
    assert "Ensembl ids" in second
