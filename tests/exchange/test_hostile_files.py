"""Files that lie, lead elsewhere or would run code are refused before any harm is done."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from foreign_layouts import (
    CORNERS,
    DIM,
    FEATURES,
    IDS,
    N,
    clam_patches,
    faults,
    h5ad,
    npy,
    slide2vec,
    trident,
)

from spam.errors import SectionError, SpamError
from spam.exchange import read_foreign_features
from spam.exchange.claims import claim_fault


class Harm:
    """Makes a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    torch.save(Harm(harm), tmp_path / "a.pt")
    torch.save(Harm(harm), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Harm(harm)))
    for name in ("a.pt", "b.pt"):
        assert "no PyTorch file that can be read safely" in faults(tmp_path / name, kind="clam")
    assert "no features of a known kind" in faults(tmp_path / "c.pt", kind="clam")
    objects = np.array([Harm(harm)] * N, dtype=object)
    np.save(tmp_path / "d.npy", objects, allow_pickle=True)
    assert "one .npy array" in faults(tmp_path / "d.npy")
    np.savez(tmp_path / "e.npz", features=objects)
    assert "holds Python objects" in faults(tmp_path / "e.npz")
    assert not harm.exists()


def test_trident_tensor_file_is_explained(tmp_path: Path) -> None:
    torch.save(FEATURES, tmp_path / "C2.pt")  # as `--save_as pt` does: a pickled array
    text = faults(tmp_path / "C2.pt", kind="clam")
    assert "TRIDENT's .pt is a pickled NumPy array" in text
    assert "weights_only" not in text


# What PyTorch says when it takes the time to check a sparse tensor.
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"features": torch.ones(3)}, "a dict"),
        (torch.ones(7, 5, dtype=torch.int64), "type torch.int64"),
        (torch.ones(7, 5).to_sparse(), "layout torch.sparse_coo"),
        (torch.zeros(1).expand(10**9, 10**6), "claims more than its 4 bytes"),
    ],
)
def test_tensors_that_are_no_features(tmp_path: Path, value: Any, words: str) -> None:
    torch.save(value, tmp_path / "C2.pt")
    assert words in faults(tmp_path / "C2.pt", kind="clam")


@pytest.mark.parametrize("kind", ["link", "soft", "raw", "virtual"])
def test_hdf5_that_leads_elsewhere(tmp_path: Path, kind: str) -> None:
    trident(tmp_path / "secret.h5")
    (tmp_path / "raw").write_bytes(FEATURES.tobytes())
    path = clam_patches(tmp_path / "C2.h5")
    with h5py.File(path, "a") as file:
        group = file.create_group("deep")  # even where nobody looks
        if kind == "link":
            file["features"] = h5py.ExternalLink("secret.h5", "features")
        elif kind == "soft":
            file["features"] = h5py.SoftLink("/deep")
        elif kind == "raw":
            file.create_dataset(
                "features", shape=(N, DIM), dtype="f4", external=[(str(tmp_path / "raw"), 0, 140)]
            )
        else:
            layout = h5py.VirtualLayout(shape=(N, DIM), dtype="f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "features", shape=(N, DIM))
            group.create_virtual_dataset("features", layout)
    text = faults(path)
    assert "may lie in other files" in text
    assert "features (" in text


@pytest.mark.parametrize("chunk", [None, (1, 1024)])
def test_hdf5_of_a_huge_claim(tmp_path: Path, chunk: Any) -> None:
    with h5py.File(tmp_path / "C2.h5", "w") as file:
        file.create_dataset("features", shape=(10**9, 1024), dtype="f4", chunks=chunk)
        file.create_dataset("coords", shape=(10**9, 2), dtype="i8", chunks=None if chunk is None else (64, 2))
    assert "of shape (1000000000, 1024) claims 4,096,000,000,000 bytes but takes up 0" in faults(
        tmp_path / "C2.h5"
    )


def test_h5ad_of_a_huge_index(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "a.h5ad")
    with h5py.File(path, "a") as file:
        del file["obs/_index"]
        file["obs"].create_dataset("_index", shape=(10**11,), dtype=h5py.string_dtype())
    with pytest.raises(SectionError, match=r"_index' of shape \(100000000000,\) claims"):
        read_foreign_features(path, key="uni")


def test_interrupted_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "C2.h5", "w") as file:
        features = file.create_dataset("features", shape=(N, DIM), chunks=(2, DIM), dtype="f4")
        features[:4] = FEATURES[:4]
        file.create_dataset("coords", data=CORNERS)
    assert "2 of the 4 chunks of 'features' were written" in faults(tmp_path / "C2.h5")


def test_damaged_files(tmp_path: Path) -> None:
    whole = trident(tmp_path / "C2.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as HDF5" in faults(tmp_path / "cut.h5")
    whole = npy(tmp_path).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    assert "cannot be read as one .npy array" in faults(tmp_path / "cut.npy")
    whole = slide2vec(tmp_path).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[:-40])
    with pytest.raises(SpamError):
        read_foreign_features(tmp_path / "cut.pt", kind="clam")


def _member(shape: tuple[int, ...], data: bytes) -> bytes:
    """Bytes of a .npy member of any claimed shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def test_numpy_of_a_huge_claim(tmp_path: Path) -> None:
    lie = _member((10**9, 10**6), FEATURES.tobytes())
    (tmp_path / "a.npy").write_bytes(lie)
    assert "cannot be read as one .npy array" in faults(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", lie)
    assert "claims 4,000,000,000,000,128 bytes but holds 268" in faults(tmp_path / "a.npz")


def test_compressed_bombs(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("features.npy", "w", force_zip64=True) as file,
    ):
        file.write(_member((300, 2**18), b""))
        for _ in range(300):
            file.write(bytes(2**20))
    assert "claims 314,572,928 bytes but takes up" in faults(tmp_path / "a.npz")
    (tmp_path / "a.npz").rename(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("x/data.pkl", b"")
    assert "claims 314,572,928 bytes but takes up" in faults(tmp_path / "a.zip", kind="clam")


def test_claims() -> None:
    assert claim_fault(2**28, 0) is None
    assert claim_fault(2**28 + 1, 0) is not None
    assert claim_fault(10**12, 10**10) is None
    assert claim_fault(10**12 + 1, 10**10) is not None


def test_no_anndata(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("obs")
        file.create_group("obsm")
    assert "is no AnnData file" in faults(tmp_path / "a.h5", key="uni")


def test_table_of_features(tmp_path: Path) -> None:
    frame = pd.DataFrame(FEATURES, index=IDS, columns=list("abcde"))
    assert "'obsm/frame' is a group, not an array" in faults(
        h5ad(tmp_path / "a.h5ad", frame=frame), key="frame"
    )
