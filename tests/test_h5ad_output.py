"""AnnData files: as AnnData itself writes them, and an error of the operating system if the disk is full."""

import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from spam.h5ad_output import write_h5ad

LIMITED = """
import resource, sys
from pathlib import Path
import anndata, numpy as np
from spam.h5ad_output import write_h5ad
adata = anndata.AnnData(X=np.random.default_rng(0).random((101, 53)))
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    write_h5ad(adata, Path(sys.argv[1]), compression="gzip")
except OSError as error:
    print(error.errno)
"""


def test_the_file_is_that_of_anndata(tmp_path: Path) -> None:
    obs = pd.DataFrame({"label": ["a", "b", "a"], "n": [1, 2, 3]}, index=["x", "y", "z"])
    adata = anndata.AnnData(
        X=sparse.csr_matrix(np.eye(3, 5, dtype=np.float32)),
        obs=obs,
        obsm={"spatial": np.arange(6.0).reshape(3, 2)},
        layers={"mu": np.ones((3, 5))},
        uns={"spam": {"depth": 2.5, "units": "counts"}},
    )
    adata.copy().write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    write_h5ad(adata, tmp_path / "b.h5ad", compression="gzip")
    theirs, ours = (anndata.read_h5ad(tmp_path / name) for name in ("a.h5ad", "b.h5ad"))
    pd.testing.assert_frame_equal(ours.obs, theirs.obs)
    assert (ours.X != theirs.X).nnz == 0
    assert (type(ours.X), ours.X.dtype) == (type(theirs.X), theirs.X.dtype)
    np.testing.assert_array_equal(ours.obsm["spatial"], theirs.obsm["spatial"])
    np.testing.assert_array_equal(ours.layers["mu"], theirs.layers["mu"])
    assert ours.uns == theirs.uns


def test_a_full_disk_is_an_error_and_no_crash(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", LIMITED, str(tmp_path / "a.h5ad")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "27\n", "")  # EFBIG
