"""Small made-up lab files: a section whose every number is known."""

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from spam.schemas.embed_config import InputConfig


class Lab:
    """A folder of lab files; `config` turns what was written last into an `InputConfig`."""

    ids = ("s3", "s1", "s7", "s5", "s2")
    xy = np.array([[103.0, 211.0], [307.5, 401.0], [503.0, 607.0], [709.0, 811.25], [907.0, 1009.0]])
    counts = np.array([[0, 2, 0], [5, 0, 0], [0, 0, 0], [1, 1, 7], [0, 0, 3]])
    genes = ("ACTB", "KRT8", "VIM")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.h5ad = folder / "sample.h5ad"
        self.csv = folder / "map.csv"
        self.image("slide.tif")

    def image(self, name: str, content: bytes | None = None) -> Path:
        """Write a file that stands for an image: this room never looks inside."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() if content is None else content)
        return path

    def write_h5ad(
        self,
        *,
        ids: Any = None,
        x: Any = "counts",
        obs: Any = None,
        genes: Any = None,
        layers: Any = None,
        spatial: Any = None,
        libraries: Any = None,
    ) -> Path:
        ids = list(self.ids if ids is None else ids)
        x = self.counts[: len(ids)].astype(np.float32) if isinstance(x, str) else x
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not unique", category=UserWarning)
            adata = anndata.AnnData(
                X=x,
                obs=pd.DataFrame(obs or {}, index=pd.Index(ids, dtype=object)),
                var=pd.DataFrame(index=pd.Index(list(self.genes if genes is None else genes), dtype=object)),
                layers=layers,
                obsm=None if spatial is None else {"spatial": np.asarray(spatial, dtype=np.float64)},
                uns=None if libraries is None else {"spatial": libraries},
            )
            adata.write_h5ad(self.h5ad)
        return self.h5ad

    def write_csv(self, *, drop: tuple[str, ...] = (), **columns: Any) -> Path:
        """Write the table of all five spots in another order than the h5ad; `columns` replace or add."""
        order = [4, 2, 0, 1, 3]
        table: dict[str, Any] = {
            "x": self.xy[order, 0],
            "y": self.xy[order, 1],
            "source_image": ["slide.tif"] * 5,
            "spot_id": [self.ids[row] for row in order],
        }
        table.update(columns)
        pd.DataFrame({name: values for name, values in table.items() if name not in drop}).to_csv(
            self.csv, index=False
        )
        return self.csv

    def write_text(self, text: str) -> Path:
        self.csv.write_text(text, encoding="utf-8")
        return self.csv

    def config(self, **options: Any) -> InputConfig:
        paths = {"h5ad": self.h5ad if self.h5ad.exists() else None, "csv": self.csv, "root": self.folder}
        return InputConfig(**{**paths, **options})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """An empty lab folder with one slide."""
    return Lab(tmp_path)
