"""The section that every case of the corpus changes, the form of a case, and the checks that all cases share."""

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from command_server import CommandServer, Outcome
from PIL import Image
from scipy import sparse

N_SPOTS, N_GENES, MPP, TILE_UM = 16, 13, 0.5, 16
WIDTH, HEIGHT = 300, 240
IDS = tuple(f"S1_{i}" for i in range(N_SPOTS))
GENES = tuple(f"GENE{j}" for j in range(N_GENES))
XY = np.array([(40.0 + 60 * (i % 4), 35.0 + 50 * (i // 4)) for i in range(N_SPOTS)])
COUNTS = np.random.default_rng(1).poisson(3.0, (N_SPOTS, N_GENES)) * (np.arange(N_GENES) != 5)

_MOST_BYTES = 2 * 2**30
_MOST_LETTERS = 600
_MOST_SENTENCES = 3  # one per fault if there are several; advice included

Change = Callable[[Path], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One input: how the section is changed, what is run, and how that must end.

    Attributes
    ----------
    change
        Changes the inputs in a folder.
    says
        Regular expression that the message of a refused case must contain: the file, key, flag or value.
    outcome
        ``refused``; ``read`` with the right numbers; or ``either`` where both are right.
    words
        Further words of the command, or all of them if they begin with a command.
    truth
        What differs from the unchanged section: ``counts``, ``genes``, ``ids``, ``xy``, ``mpp`` or ``name``; or the
        ``place`` of the counts in the h5ad.
    """

    name: str
    change: Change
    says: str = ""
    outcome: Literal["refused", "read", "either"] = "refused"
    words: tuple[object, ...] = ()
    truth: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def write_lab(folder: Path) -> None:
    """Write the unchanged section S1: h5ad, table and picture."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(2)
    picture = np.full((HEIGHT, WIDTH, 3), 242, np.uint8)
    picture[10:-10, 10:-10] = rng.integers(90, 200, (HEIGHT - 20, WIDTH - 20, 3)) // (1, 2, 1)
    Image.fromarray(picture).save(folder / "images" / "S1.png")
    made = anndata.AnnData(
        sparse.csr_matrix(COUNTS.astype(np.float32)),
        obs=pd.DataFrame({"batch": ["a", "b"] * (N_SPOTS // 2)}, index=list(IDS)),
        var=pd.DataFrame(index=list(GENES)),
        obsm={"spatial": XY.copy()},
        uns={"spatial": {"S1": {"metadata": {"mpp": MPP}}}},
    )
    made.write_h5ad(folder / "S1.h5ad")
    table = pd.DataFrame({"spot_id": IDS, "x": XY[:, 0], "y": XY[:, 1], "source_image": "S1.png"})
    table.to_csv(folder / "S1.csv", index=False)


def files_of(folder: Path) -> dict[str, str]:
    """Digest of each file, folder and link below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@dataclasses.dataclass(frozen=True)
class Bench:
    """Runs cases on copies of a folder of inputs."""

    inputs: Path
    command: tuple[object, ...]
    server: CommandServer

    def check(self, case: Case, folder: Path) -> None:
        """Run a case in `folder` and check its outcome.

        A refused case ends with exit code 2 and one short message; inputs and folder are as before. A case that is read
        ends with a store that holds exactly the numbers of the inputs. Both stay below 2 GB.
        """
        shutil.copytree(self.inputs, folder, dirs_exist_ok=True, symlinks=True)
        case.change(folder)
        before = files_of(folder)
        is_command = bool(case.words) and case.words[0] in _COMMANDS
        words = case.words if is_command else (*self.command, *case.words)
        ran = self.server(*words, "--json", cwd=folder)
        assert ran.peak_bytes < _MOST_BYTES, f"peak of {ran.peak_bytes / 2**20:.0f} MiB"
        after = files_of(folder)
        changed = [name for name in before if after.get(name) != before[name]]
        assert not changed, f"inputs were changed: {changed}"
        if ran.code == 0 and case.outcome != "refused":
            if not is_command:
                truth = dict(case.truth)
                if place := truth.pop("place", None):
                    truth["counts"] = slow_counts(folder / "S1.h5ad", place)
                check_store(folder / "st.zarr" / truth.pop("name", "S1"), truth)
            return
        assert case.outcome != "read", f"refused: {_said(ran)}"
        check_message(ran, case.says)
        assert set(after) == set(before), f"half-written: {sorted(set(after) - set(before))[:5]}"


_COMMANDS = {
    *("embed", "adapt", "pretrain", "finetune", "predict", "benchmark", "graph", "hest", "store", "encoders"),
    *("simulate", "demo", "inference", "import"),
}


def _said(ran: Outcome) -> str:
    return f"exit {ran.code}: {ran.out[-900:]} {ran.err[-1500:]}"


def check_message(ran: Outcome, says: str) -> None:
    """Check that a command ended with exit code 2 and one short message that names what is wrong."""
    assert ran.code == 2, _said(ran)
    assert "Traceback" not in ran.err, ran.err
    message = ran.json["error"]
    assert re.search(says, message), f"does not name {says!r}: {message}"
    assert len(message) <= _MOST_LETTERS, f"{len(message)} letters: {message}"
    sentences = re.findall(r"[.!?](?=\s+[A-Z`])", message)
    assert len(sentences) < _MOST_SENTENCES, f"{len(sentences) + 1} sentences: {message}"
    assert not re.search(r"errno|<class|0x[0-9a-f]{8}|object at|site-packages", message), message


def check_store(section: Path, truth: Mapping[str, Any]) -> None:
    """Compare a stored section, read by anndata, with the numbers of the inputs."""
    stored = anndata.read_zarr(section)
    ids, genes = truth.get("ids", IDS), truth.get("genes", GENES)
    counts, xy, mpp = truth.get("counts", COUNTS), truth.get("xy", XY), truth.get("mpp", MPP)
    assert tuple(stored.obs_names) == tuple(ids)
    np.testing.assert_allclose(stored.obsm["spatial"], xy, rtol=0, atol=1e-9)
    np.testing.assert_allclose(stored.obsm["spatial_um"], np.asarray(xy) * mpp, rtol=1e-12)
    if counts is None:
        assert stored.X is None
        return
    assert tuple(stored.var_names) == tuple(genes)
    found = stored.X.toarray()
    np.testing.assert_array_equal(found, counts)
    np.testing.assert_array_equal(found.sum(axis=1), np.asarray(counts).sum(axis=1))


def slow_counts(h5ad: Path, place: str = "X") -> np.ndarray:
    """Read a matrix of an h5ad by h5py and a loop over its entries; repeated entries add up."""
    with h5py.File(h5ad) as file:
        node = file[place]
        if isinstance(node, h5py.Dataset):
            return np.asarray(node[:], dtype=np.float64)
        data, indices, indptr = (node[name][:] for name in ("data", "indices", "indptr"))
        kind, shape = str(node.attrs["encoding-type"]), tuple(node.attrs["shape"])
    dense = np.zeros(shape)
    for major in range(len(indptr) - 1):
        for entry in range(int(indptr[major]), int(indptr[major + 1])):
            at = (major, int(indices[entry]))
            dense[at if kind == "csr_matrix" else at[::-1]] += float(data[entry])
    return dense


def some(found: Iterable[Case], every: int) -> list[Any]:
    """Run one of `every` cases by default, and all of them in the long run."""
    return [
        pytest.param(case, id=case.name, marks=pytest.mark.slow if i % every else ())
        for i, case in enumerate(found)
    ]


def cases(outcome: str, table: Mapping[str, Any], **shared: Any) -> Iterable[Case]:
    """Make cases of a table: name -> change, or (change, says), or (change, says, others)."""
    for name, row in table.items():
        change, says, others = (*row, *("", {})[len(row) - 1 :]) if isinstance(row, tuple) else (row, "", {})
        values = {"outcome": outcome, **shared, **others}
        if says:
            values["says"] = says
        yield Case(name=name, change=change, **values)
