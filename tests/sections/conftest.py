"""Small made-up lab files: a section whose every number is known."""

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from spam.schemas.embed_config import InputConfig
from spam.sections import Section, read_section
from spam.sections.h5ad import H5ad, read_h5ad


class Lab:
    """A folder of lab files; `config` turns what was written last into an `InputConfig`."""

    ids = ("s3", "s1", "s7", "s5", "s2")
    xy = np.array([[103.0, 211.0], [307.5, 401.0], [503.0, 607.0], [709.0, 811.25], [907.0, 1009.0]])
    counts = np.array([[0, 2, 0], [5, 0, 0], [0, 0, 0], [1, 1, 7], [0, 0, 3]])
    genes = ("ACTB", "KRT8", "VIM")
    table_order = (4, 2, 0, 1, 3)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.h5ad = folder / "sample.h5ad"
        self.csv = folder / "map.csv"
        self.image("slide.tif")

    def image(self, name: str, content: bytes | None = None) -> Path:
        """Write a file that stands for an image: reading a section never decodes one."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() if content is None else content)
        return path

    def write_h5ad(
        self,
        *,
        ids: Any = ids,
        x: Any = "counts",
        obs: Any = None,
        genes: Any = genes,
        layers: Any = None,
        spatial: Any = None,
        libraries: Any = None,
    ) -> Path:
        x = self.counts[: len(ids)].astype(np.float32) if isinstance(x, str) else x
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not unique", category=UserWarning)
            adata = anndata.AnnData(
                X=x,
                obs=pd.DataFrame(obs or {}, index=pd.Index(list(ids), dtype=object)),
                var=pd.DataFrame(index=pd.Index(list(genes), dtype=object)),
                layers=layers,
                obsm=None if spatial is None else {"spatial": np.asarray(spatial, dtype=np.float64)},
                uns=None if libraries is None else {"spatial": libraries},
            )
            adata.write_h5ad(self.h5ad)
        return self.h5ad

    def h5ad_of(self, adata: anndata.AnnData) -> H5ad:
        """Write an AnnData and read it as the commands do."""
        adata.write_h5ad(self.h5ad)
        return read_h5ad(self.h5ad)

    def write_csv(self, *, drop: tuple[str, ...] = (), xy: Any = xy, **columns: Any) -> Path:
        """Write the table of all five spots in another order than the h5ad; `columns` replace or add."""
        order = list(self.table_order)
        table: dict[str, Any] = {
            "x": xy[order, 0],
            "y": xy[order, 1],
            "source_image": ["slide.tif"] * 5,
            "spot_id": [self.ids[row] for row in order],
        }
        table.update(columns)
        kept = {name: values for name, values in table.items() if name not in drop}
        pd.DataFrame(kept).to_csv(self.csv, index=False)
        return self.csv

    def write_text(self, *lines: str) -> Path:
        self.csv.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return self.csv

    def config(self, **options: Any) -> InputConfig:
        paths = {"h5ad": self.h5ad if self.h5ad.exists() else None, "csv": self.csv, "root": self.folder}
        return InputConfig(**{**paths, **options})

    def read(self, **options: Any) -> Section:
        return read_section(self.config(**options))

    def refused(self, error: type[Exception], *words: str, **options: Any) -> None:
        """Reading is an error whose message holds all the words (flags, names and values)."""
        with pytest.raises(error) as caught:
            self.read(**options)
        assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """An empty lab folder with one slide."""
    return Lab(tmp_path)
