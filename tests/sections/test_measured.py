"""Counts of a part of a section: matched by id, in any order, or one clear error."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spam.errors import MissingInputError, SectionError
from spam.sections import read_measured_part

IDS = np.array([f"S4_{i}" for i in range(7)])
COUNTS = np.arange(15, dtype=np.int32).reshape(5, 3)
GENES = ["A", "B", "C"]


def write(path: Path, ids: list[str], counts: np.ndarray = COUNTS, **parts: object) -> Path:
    adata = AnnData(
        X=counts,
        obs=pd.DataFrame(parts.get("obs"), index=pd.Index(ids)),
        var=pd.DataFrame(index=pd.Index(GENES[: counts.shape[1]])),
        layers=parts.get("layers"),
    )
    adata.write_h5ad(path)
    return path


def test_spots_are_found_by_id_and_brought_into_the_order_of_the_section(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5ad", ["S4_6", "elsewhere", "S4_0", "S4_3", "S4_2"])
    part = read_measured_part(path, section="S4", ids=IDS)
    np.testing.assert_array_equal(part.rows, [0, 2, 3, 6])
    np.testing.assert_array_equal(part.counts.toarray(), COUNTS[[2, 4, 3, 0]])
    assert part.genes.tolist() == GENES
    assert part.n_unknown == 1


def test_library_sizes_are_read_where_the_file_states_them(tmp_path: Path) -> None:
    ids = ["S4_6", "elsewhere", "S4_0", "S4_3", "S4_2"]
    path = write(tmp_path / "c.h5ad", ids, obs={"library_size": [3.0, np.nan, 999, 30, 1000]})
    part = read_measured_part(path, section="S4", ids=IDS)
    np.testing.assert_array_equal(part.library_size, [999, 1000, 30, 3])
    assert read_measured_part(write(path, ids), section="S4", ids=IDS).library_size is None


@pytest.mark.parametrize(
    "sizes",
    [
        (99.0, 99, 20, 99, 99),
        (99, 99, np.nan, 99, 99),
        (99, 99, np.inf, 99, 99),
        ("99", "99", "many", "99", "99"),
    ],
)
def test_library_sizes_that_cannot_be_are_refused(tmp_path: Path, sizes: tuple[object, ...]) -> None:
    path = write(tmp_path / "c.h5ad", IDS[:5].tolist(), obs={"library_size": sizes})
    words = rf"obs\['library_size'\] of 1 of 5 spots .*'S4_2' is '{sizes[2]}.*add up to 21; state .*or remove the column"
    with pytest.raises(SectionError, match=words):
        read_measured_part(path, section="S4", ids=IDS)


def test_raw_counts_are_taken_from_the_layer_before_x(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5ad", IDS[:5].tolist(), np.log1p(COUNTS), layers={"counts": COUNTS})
    np.testing.assert_array_equal(read_measured_part(path, section="S4", ids=IDS).counts.toarray(), COUNTS)


def test_rows_of_other_sections_are_left_out_where_the_file_names_sections(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5ad", IDS[:5].tolist(), obs={"section": ["S3", "S4", "S4", "S3", "S4"]})
    part = read_measured_part(path, section="S4", ids=IDS)
    np.testing.assert_array_equal(part.rows, [1, 2, 4])
    assert part.n_unknown == 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        MissingInputError, match=r"--context-h5ad '.*no\.h5ad' is not a file; give an h5ad with raw counts"
    ):
        read_measured_part(tmp_path / "no.h5ad", section="S4", ids=IDS)


def test_a_file_of_another_section(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5ad", IDS[:5].tolist(), obs={"section": ["S3"] * 5})
    with pytest.raises(
        SectionError, match=r"--context-h5ad .* of section 'S3' .*, but 'S4' is to be predicted; .*--section"
    ):
        read_measured_part(path, section="S4", ids=IDS)


def test_ids_that_no_spot_has(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5ad", [f"{name}-1" for name in IDS[:5]])
    words = r"none of its 5 spots \('S4_0-1', .*\) is among the 7 spots of section 'S4' \('S4_0', .*obs_names"
    with pytest.raises(SectionError, match=words):
        read_measured_part(path, section="S4", ids=IDS)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_a_spot_that_is_there_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5ad", ["S4_0", "S4_1", "S4_0", "S4_2", "S4_3"])
    with pytest.raises(SectionError, match="1 ids occur more than once: 'S4_0'; keep one row for each spot"):
        read_measured_part(path, section="S4", ids=IDS)


def test_normalised_values_are_no_counts(tmp_path: Path) -> None:
    """The advice names the option that was given, and no option that belongs to another file."""
    path = write(tmp_path / "c.h5ad", IDS[:5].tolist(), np.log1p(COUNTS), layers={"other": COUNTS})
    words = r"raw counts .* looks log-normalised .*put them into layers\['counts'\].*leave out --context-h5ad"
    with pytest.raises(SectionError, match=words) as caught:
        read_measured_part(path, section="S4", ids=IDS)
    assert "--counts-layer" not in str(caught.value)


def test_a_file_without_genes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.h5ad", IDS[:5].tolist(), np.zeros((5, 0), dtype=np.int32))
    with pytest.raises(
        SectionError, match=r"holds no counts \(no genes, or no matrix\); put raw counts into X"
    ):
        read_measured_part(path, section="S4", ids=IDS)
