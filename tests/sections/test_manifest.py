"""The manifest of a cohort: paths, defaults, and all faults at once."""

import pytest

from spam.errors import MissingInputError, SectionError
from spam.schemas.embed_config import InputConfig
from spam.sections import read_manifest


@pytest.fixture
def cohort(tmp_path):
    """A folder with two sections, a data root beside it, and a way to write the manifest."""
    for name in ("lists/a.csv", "lists/a.h5ad", "data/b.csv", "data/b.h5ad", "data/slides/x", "lists/a.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("something")

    def write(text):
        (tmp_path / "lists" / "sections.csv").write_text(text)
        return tmp_path / "lists" / "sections.csv"

    write.folder = tmp_path
    return write


def test_paths_start_from_the_manifest_then_from_root(cohort):
    folder = cohort.folder
    manifest = cohort(
        "section,donor,h5ad,csv,root\nA,P,a.h5ad,a.csv,slides\n,,,b.csv,\n\nC,,b.h5ad,b.csv,../data\n"
    )
    assert read_manifest(manifest, root=folder / "data") == (
        InputConfig(
            section="A",
            donor="P",
            h5ad=folder / "lists/a.h5ad",
            csv=folder / "lists/a.csv",
            root=folder / "data/slides",
        ),
        InputConfig(csv=folder / "data/b.csv", root=folder / "data"),
        InputConfig(
            section="C",
            h5ad=folder / "data/b.h5ad",
            csv=folder / "data/b.csv",
            root=folder / "lists/../data",
        ),
    )


def test_csv_alone_is_enough_with_a_root(cohort):
    manifest = cohort("csv\na.csv\n")
    (config,) = read_manifest(manifest, root=cohort.folder)
    assert config == InputConfig(csv=cohort.folder / "lists/a.csv", root=cohort.folder)


def test_all_faults_are_listed_with_their_rows(cohort):
    manifest = cohort("section,donor,h5ad,csv,root\nA,,no.h5ad,a.csv,.\nB,,,,.\nA,,a.h5ad,no.csv,\n")
    with pytest.raises(SectionError) as caught:
        read_manifest(manifest, root=None)
    message = str(caught.value)
    for words in (
        "row 1: h5ad 'no.h5ad'",
        "row 2: no csv",
        "row 3: section 'A' is in row 1 already",
        "row 3: no root (fill in the column, or give --root)",
        "row 3: csv 'no.csv'",
        f"looked in {cohort.folder / 'lists'}",
    ):
        assert words in message


def test_missing_files_alone_are_missing_input(cohort):
    manifest = cohort("section,h5ad,csv,root\nA,gone.h5ad,a.csv,nowhere\n")
    words = r"looked in .*lists and .*data\): row 1: h5ad 'gone\.h5ad', row 1: root 'nowhere'"
    with pytest.raises(MissingInputError, match=words):
        read_manifest(manifest, root=cohort.folder / "data")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("section,h5da,csv", r"'h5da' \(did you mean 'h5ad'\?\)"),
        ("section,csv,mpp", "'mpp'.*its columns are section, donor, h5ad, csv, root"),
        ("section,donor,h5ad", "no column 'csv'"),
        ("section,patient,image", "'patient', 'image'; it has no column 'csv'"),
    ],
)
def test_other_columns_are_refused(cohort, header, words):
    manifest = cohort(f"{header}\na,b,c\n")
    with pytest.raises(SectionError, match=words):
        read_manifest(manifest, root=cohort.folder)


def test_an_empty_manifest_and_none(cohort):
    with pytest.raises(SectionError, match="has a header but no rows"):
        read_manifest(cohort("section,donor,h5ad,csv,root\n"), root=None)
    with pytest.raises(
        MissingInputError, match="is not a file; --manifest is a CSV with the columns section, donor"
    ):
        read_manifest(cohort.folder / "none.csv", root=None)


@pytest.mark.parametrize("kind", ["h5ad", "csv", "root"])
def test_files_and_folders_are_not_confused(cohort, kind):
    cells = {"h5ad": "a.h5ad", "csv": "a.csv", "root": "."}
    cells[kind] = "a.txt" if kind == "root" else "../data"
    manifest = cohort(f"h5ad,csv,root\n{cells['h5ad']},{cells['csv']},{cells['root']}\n")
    with pytest.raises(MissingInputError, match=rf"row 1: {kind} "):
        read_manifest(manifest, root=None)
