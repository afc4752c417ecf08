"""Three small sections whose tiles show what their spots express: fine stripes drive some genes, darkness others."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from embedding_lab import write_encoder
from PIL import Image
from scipy import sparse

from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.embed_config import EmbedConfig

STEP, COLUMNS, ROWS, N_GENES = 40, 7, 5, 11

DONORS = {"A": "D1", "B": "D2", "C": "D1"}


def write_section(folder: Path, name: str, *, seed: int) -> None:
    """Write slide and h5ad of one section of 35 spots; each tile of 32 px lies within a cell of 40 px."""
    rng = np.random.default_rng([seed, 7])
    n = COLUMNS * ROWS
    hidden = rng.uniform(-1, 1, (n, 2))
    xy = np.stack([np.arange(n) % COLUMNS, np.arange(n) // COLUMNS], axis=1) * STEP + STEP // 2
    image = np.empty((ROWS * STEP, COLUMNS * STEP, 3))
    stripes = np.sin(np.arange(STEP) * np.pi / 2)[None, :, None]
    for (x, y), (contrast, dark) in zip(xy, hidden, strict=True):
        cell = 150 - 40 * dark + 50 * (contrast + 1) / 2 * stripes + rng.normal(0, 4, (STEP, STEP, 3))
        image[y - STEP // 2 : y + STEP // 2, x - STEP // 2 : x + STEP // 2] = cell
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
    loadings = np.random.default_rng(3).normal(0, 1, (2, N_GENES))
    rate = np.exp(3 + hidden @ loadings)
    ids = [f"{name}{i}" for i in range(n)]
    adata = anndata.AnnData(
        X=sparse.csr_matrix(rng.poisson(rate).astype(np.int32)),
        obs=pd.DataFrame({"donor": DONORS[name]}, index=ids),
        var=pd.DataFrame(index=[f"G{j}" for j in range(N_GENES)]),
    )
    adata.write_h5ad(folder / f"{name}.h5ad")
    table = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "source_image": f"{name}.png", "spot_id": ids})
    table.to_csv(folder / f"{name}.csv", index=False)


def make_cohort_files(folder: Path) -> EmbedConfig:
    """Write sections A, B and C with a manifest and a tiny encoder; return how they are embedded."""
    (folder / "images").mkdir(parents=True)
    for seed, name in enumerate("ABC"):
        write_section(folder, name, seed=seed)
    manifest = pd.DataFrame(
        {
            "section": list("ABC"),
            "donor": list(DONORS.values()),
            "h5ad": [f"{name}.h5ad" for name in "ABC"],
            "csv": [f"{name}.csv" for name in "ABC"],
            "root": "images",
        }
    )
    manifest.to_csv(folder / "sections.csv", index=False)
    return EmbedConfig(
        store=folder / "store.zarr",
        manifest=folder / "sections.csv",
        enc_name=write_encoder(folder / "tiny"),
        mpp=0.5,
        tile_um=(16.0,),
        device="cpu",
        dtype="float32",
        num_workers=0,
    )


def training(tiles: EmbedConfig, save_dir: Path, **others: object) -> AdaptConfig:
    """Options of a short run on A and B, with C held out."""
    values: dict[str, object] = {
        "store": tiles.store,
        "save_dir": save_dir,
        "epochs": 2,
        "batch_size": 19,
        "lr": 3e-3,
        "proj_dim": 13,
        "k": 4,
        "lora_r": 3,
        "device": "cpu",
        "num_workers": 1,
    }
    return AdaptConfig(**{**values, **others})  # type: ignore[arg-type]
