"""A small lab: sections A and B on one slide, their tables, and a tiny encoder, so that embedding runs for real."""

import dataclasses
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import safetensors.torch
import timm
import torch
from PIL import Image
from scipy import ndimage, sparse

from spam.schemas.embed_config import EmbedConfig
from spam.store import open_store

N_SPOTS, PX = 23, 32
VIT = {"img_size": PX, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def write_encoder(folder: Path, *, norm_scale: float = 1.0) -> str:
    """Write a tiny seeded vision transformer; `norm_scale` multiplies its features."""
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT).state_dict()
    state["norm.weight"] *= norm_scale
    safetensors.torch.save_file(state, folder / "model.safetensors")
    data = {
        "input_size": [3, PX, PX],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "num_classes": 0,
    }
    data |= {"mean": [0.5] * 3, "std": [0.25] * 3, "first_conv": "patch_embed.proj", "classifier": "head"}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "num_features": 24}
    (folder / "config.json").write_text(json.dumps({**config, "model_args": VIT, "pretrained_cfg": data}))
    return f"local:{folder}"


@dataclasses.dataclass
class Lab:
    """A folder with the files of sections A and B on one slide, and a tiny encoder."""

    folder: Path
    encoder: str

    def values(self, section: str = "A", **others: object) -> dict[str, object]:
        values: dict[str, object] = {
            "h5ad": self.folder / f"{section}.h5ad",
            "csv": self.folder / "map.csv",
            "root": self.folder / "images",
            "section": section,
            "store": self.folder / "store.zarr",
            "enc_name": self.encoder,
            "mpp": 0.5,
            "tile_um": (20.0,),
            "device": "cpu",
            "batch_size": 3,
            "chunk_rows": 7,
            "dtype": "float32",
        }
        return {**values, **others}

    def config(self, section: str = "A", **others: object) -> EmbedConfig:
        return EmbedConfig(**self.values(section, **others))

    def features(
        self, section: str = "A", *, store: str = "store.zarr", key: str = "local-tiny_20um"
    ) -> np.ndarray:
        return open_store(self.folder / store).section(section).features(key)

    def write_h5ad(self, section: str, *, seed: int, donor: str = "D1") -> None:
        rng = np.random.default_rng(seed)
        counts = sparse.csr_matrix(rng.poisson(1.0, (N_SPOTS, 5)).astype(np.int32))
        ids = [f"{section}{i}" for i in range(N_SPOTS)]
        obs = pd.DataFrame({"donor": donor, "label": ["x", "y"] * 11 + ["x"]}, index=ids)
        adata = anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=[f"G{j}" for j in range(5)]))
        adata.layers["other"] = counts + counts
        adata.write_h5ad(self.folder / f"{section}.h5ad")


def make_lab(folder: Path) -> Lab:
    """Write slide, tables and encoder into a folder."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    noise = ndimage.gaussian_filter(rng.normal(size=(307, 401, 3)), (2, 2, 0))
    Image.fromarray(np.clip(150 + 500 * noise, 0, 255).astype(np.uint8)).save(folder / "images" / "slide.png")
    lab = Lab(folder, write_encoder(folder / "tiny"))
    rows = []
    for seed, section in enumerate("AB"):
        lab.write_h5ad(section, seed=seed)
        xy = rng.uniform(0, (307, 307), (N_SPOTS, 2)).round(2)
        rows += [(x, y, "slide.png", f"{section}{i}", section) for i, (x, y) in enumerate(xy)]
    table = pd.DataFrame(rows, columns=["x", "y", "source_image", "spot_id", "section"])
    table.to_csv(folder / "map.csv", index=False)
    return lab


def files_of(store: Path) -> dict[str, bytes]:
    """Read all files of a store except locks."""
    paths = (path for path in store.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}
