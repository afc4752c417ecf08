"""Features in the ``obsm`` of an AnnData file (``.h5ad`` of anndata 0.8 and later)."""

from pathlib import Path

import anndata
import h5py
import numpy as np

from spam.errors import ConfigError, SectionError
from spam.sections.lab_section import quoted

from .hdf5_files import open_hdf5, read_numbers, refuse_claims
from .records import Found, Places

__all__ = ["read_h5ad_features"]

_SPATIAL = "spatial"


def read_h5ad_features(path: Path, *, key: str | None) -> Found:
    """Read ``obsm[key]`` with the spots' names and, where it is there, ``obsm['spatial']`` as their centres.

    Counts and all else are left alone.

    Raises
    ------
    ConfigError
        If no key, or one that is not there, is asked for; names those that are.
    SectionError
        If the file is unsafe or no AnnData file.
    """
    with open_hdf5(path) as file:
        obs, obsm = file.get("obs"), file.get("obsm")
        index = obs.attrs.get("_index") if isinstance(obs, h5py.Group) else None
        if not isinstance(obsm, h5py.Group) or not isinstance(index, str) or index not in obs:
            message = (
                f"{path} is no AnnData file: it needs obs with an index, and obsm; it holds {quoted(list(file))}: write "
                "it again with `AnnData.write_h5ad`"
            )
            raise SectionError(message)
        keys = sorted(name for name in obsm if name != _SPATIAL)
        if key not in keys:
            message = (
                f"{path} has no features {key!r}" if key is not None else f"{path} may hold several features"
            )
            message += (
                f"; its obsm holds {quoted(keys) if keys else 'no array beside spatial'}: choose with --key"
            )
            raise ConfigError(message)
        refuse_claims(obs[index])
        ids = np.array(anndata.io.read_elem(obs[index]), dtype=np.str_)
        features = read_numbers(file, f"obsm/{key}")
        xy = read_numbers(file, f"obsm/{_SPATIAL}") if _SPATIAL in obsm else None
    return Found(features=features, places=Places(name=f"obs and obsm of {path.name}", xy=xy, ids=ids))
