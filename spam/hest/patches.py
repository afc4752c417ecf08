"""Patches of one sample -> encoder -> embeddings."""

import hashlib
from pathlib import Path

import h5py
import numpy as np

from spam.encoders import Encoder
from spam.errors import SectionError
from spam.progress import Progress
from spam.store.array_files import open_hdf5, read_numbers, refuse_claims
from spam.tiles.cutting import resample
from spam.typing import Array, UInt8

from .embeddings import Embeddings, read_barcodes, write_embeddings

__all__ = ["embed_patches"]


def embed_patches(patches: Path, out: Path, encoder: Encoder, *, batch_size: int, progress: Progress) -> None:
    """Embed all patches of a sample in the order of their file; nothing is done if `out` was made of the same before.

    A patch shows 112 µm (224 px at 0.5 µm/px) whatever its size in pixels, and is resampled to what the encoder takes.

    Raises
    ------
    SectionError
        If the file is unsafe or damaged, or does not hold square RGB patches with barcodes and coordinates.
    EncoderError
        As `Encoder.embed`.
    """
    with patches.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made_of = {
        "encoder": encoder.card.name,
        "weights_sha256": encoder.weights_sha256,
        "precision": encoder.precision,
        "patches_sha256": digest,
    }
    if out.is_file() and _made_of(out) == made_of:
        return
    with open_hdf5(patches) as file:
        images, barcodes, coords = _images(file), read_barcodes(file), read_numbers(file, "coords")
        if not len(images) == len(barcodes) == len(coords):
            message = (
                f"{patches}: {len(images)} patches, {len(barcodes)} barcodes and {len(coords)} coords do not fit together; "
                "get this file again"
            )
            raise SectionError(message)
        features = np.empty((len(images), encoder.card.dim), dtype=np.float32)
        with progress.task(f"embed {out.stem}", len(images)) as advance:
            for first in range(0, len(images), batch_size):
                tiles = np.stack([_fitted(image, encoder) for image in images[first : first + batch_size]])
                features[first : first + batch_size] = encoder.embed(tiles)
                advance(len(tiles))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_embeddings(out, Embeddings(features=features, barcodes=barcodes), coords, made_of)


def _images(file: h5py.File) -> h5py.Dataset:
    """Find the patches, without reading them."""
    node = file.get("img")
    is_fit = isinstance(node, h5py.Dataset) and node.dtype == np.uint8 and node.ndim == 4
    if not is_fit or node.shape[3] != 3 or node.shape[1] != node.shape[2] or not len(node):
        found = (
            f"of shape {node.shape} and type {node.dtype}" if isinstance(node, h5py.Dataset) else "no array"
        )
        message = (
            f"{file.filename}: 'img' is {found}; expected square RGB patches, uint8 (n, px, px, 3), as HEST writes them: "
            "get this file again"
        )
        raise SectionError(message)
    refuse_claims(node)
    return node


def _fitted(image: UInt8[Array, "px px 3"], encoder: Encoder) -> UInt8[Array, "out_px out_px 3"]:
    """Bring a patch to the size that the encoder takes; the same size is left as it is."""
    px = encoder.card.input_px
    if len(image) == px:
        return image
    return resample(image, px, px, interpolation=encoder.card.interpolation)


def _made_of(path: Path) -> dict[str, str]:
    with open_hdf5(path) as file:
        return {key: str(value) for key, value in file.attrs.items()}
