import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from spam.errors import MissingInputError
from spam.progress import SILENT
from spam.sections import read_manifest, read_section
from spam.simulation import her2st
from spam.simulation.her2st import FILES, SECTIONS, fetch_her2st


@pytest.fixture(scope="module")
def repository(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five sections in the layout of the authors' repository."""
    root = tmp_path_factory.mktemp("her2st")
    for path in FILES:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        is_image = path.endswith(".jpg")
        source = shared_data / "her2st"
        source = source / "images" / f"{path.split('/')[3]}.jpg" if is_image else source / "raw" / path
        target.symlink_to(source)
    return root


@pytest.fixture(scope="module")
def manifest(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fetched")
    return fetch_her2st(folder, address=repository.as_uri(), progress=SILENT)


def test_sections_equal_those_prepared_independently(manifest: Path, shared_data: Path) -> None:
    folder = manifest.parent
    table = pd.concat([pd.read_csv(folder / f"{name}.csv") for name in SECTIONS]).set_index("spot_id")
    for name in SECTIONS:
        ours, truth = (
            anndata.read_h5ad(folder / f"{name}.h5ad"),
            anndata.read_h5ad(shared_data / "her2st" / f"{name}.h5ad"),
        )
        assert set(truth.obs_names) == set(ours.obs_names)
        ours = ours[truth.obs_names]
        np.testing.assert_allclose(ours.obsm["spatial"], truth.obsm["spatial"], atol=0.01)
        np.testing.assert_allclose(table.loc[truth.obs_names, ["x", "y"]], truth.obsm["spatial"], atol=0.01)
        genes = [gene for gene in truth.var_names if gene in ours.var_names]
        assert len(genes) == truth.n_vars
        np.testing.assert_array_equal(ours[:, genes].X.toarray(), truth[:, genes].X.toarray())
        mpp = [next(iter(a.uns["spatial"].values()))["metadata"]["mpp"] for a in (ours, truth)]
        assert mpp[0] == pytest.approx(mpp[1], rel=0.005)


def test_the_manifest_leads_to_whole_sections(manifest: Path) -> None:
    configs = read_manifest(manifest, root=None)
    section = read_section(configs[4])
    assert (section.name, section.donor, len(section.ids)) == ("C6", "C", 178)
    assert section.join.n_matched == 178


def test_files_are_fetched_once(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(her2st, "SECTIONS", ("C2",))
    FILES = {path: digest for path, digest in her2st.FILES.items() if "C2" in path}
    monkeypatch.setattr(her2st, "FILES", FILES)
    fetch_her2st(tmp_path, address=repository.as_uri(), progress=SILENT)
    times = {path: (tmp_path / "raw" / path).stat().st_mtime_ns for path in FILES}
    fetch_her2st(tmp_path, address="http://127.0.0.1:9", progress=SILENT)  # no server
    assert times == {path: (tmp_path / "raw" / path).stat().st_mtime_ns for path in FILES}


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"http://127.* cannot be read .*--data"):
        fetch_her2st(tmp_path, address="http://127.0.0.1:9", progress=SILENT)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_file_is_refused(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy, symlinks=True)
    damaged = copy / "data/ST-cnts/C4.tsv.gz"
    content = bytearray(damaged.read_bytes())
    content[1000] ^= 1
    damaged.unlink()
    damaged.write_bytes(content)
    with pytest.raises(MissingInputError, match=r"C4\.tsv\.gz has SHA-256 .*expected 33201f76d41d"):
        fetch_her2st(tmp_path / "out", address=copy.as_uri(), progress=SILENT)
    assert not (tmp_path / "out/raw/data/ST-cnts/C4.tsv.gz").exists()


def test_a_folder_that_is_no_copy(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"data/ST-imgs/C/C2/.*cannot be read.*--data"):
        fetch_her2st(tmp_path / "out", address=tmp_path.as_uri(), progress=SILENT)
