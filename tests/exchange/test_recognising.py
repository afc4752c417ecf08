"""A file is what its content says; what could be several kinds is not guessed."""

from pathlib import Path

import pytest
import torch
from foreign_layouts import CORNERS, FEATURES, clam_patches, h5ad, npy, table, trident, write_h5

from spam.errors import ConfigError, MissingInputError, SectionError
from spam.exchange import read_foreign_features


def test_what_could_be_several_kinds_is_not_guessed(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(FEATURES), tmp_path / "C2.pt")
    with pytest.raises(
        ConfigError, match=r"may come from clam or slide2vec.*--kind clam or --kind slide2vec"
    ):
        read_foreign_features(tmp_path / "C2.pt")
    odd = write_h5(
        tmp_path / "o.h5", chunk=1, attributes={"coords": {"mpp": 0.5}}, features=FEATURES, coords=CORNERS
    )
    with pytest.raises(ConfigError, match=r"may come from trident or clam.*attributes mpp"):
        read_foreign_features(odd)


def test_another_kind_than_the_content(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not of the kind 'clam'.*TRIDENT.*--kind trident"):
        read_foreign_features(trident(tmp_path / "C2.h5"), kind="clam")
    with pytest.raises(ConfigError, match=r"not of the kind 'h5ad'.*NumPy"):
        read_foreign_features(npy(tmp_path), kind="h5ad")


def test_unknown_content(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("x,y\n")
    with pytest.raises(SectionError, match=r"neither HDF5, NumPy nor PyTorch.*numpy\.save"):
        read_foreign_features(tmp_path / "a.h5")
    with pytest.raises(SectionError, match=r"HDF5 with coords in it"):
        read_foreign_features(clam_patches(tmp_path / "p.h5"))
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(SectionError, match="no features of a known kind"):
        read_foreign_features(tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(SectionError, match="no features of a known kind"):
        read_foreign_features(tmp_path / "c.pt")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"no file .*a\.h5"):
        read_foreign_features(tmp_path / "a.h5")
    with pytest.raises(MissingInputError, match=r"no file .*t\.csv"):
        read_foreign_features(npy(tmp_path), coordinates=tmp_path / "t.csv")


def test_options_that_would_change_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--key 'uni'.*of the kind npy"):
        read_foreign_features(npy(tmp_path), coordinates=table(tmp_path), key="uni")
    with pytest.raises(ConfigError, match=r"leave out --coordinates"):
        read_foreign_features(h5ad(tmp_path / "a.h5ad"), coordinates=table(tmp_path), key="uni")


@pytest.mark.parametrize("key", [None, "unl", "../X", "spatial"])
def test_h5ad_key_is_named(tmp_path: Path, key: str | None) -> None:
    with pytest.raises(ConfigError, match=r"obsm holds 'b', 'uni': choose with --key"):
        read_foreign_features(h5ad(tmp_path / "a.h5ad", b=FEATURES, spatial=CORNERS), key=key)
