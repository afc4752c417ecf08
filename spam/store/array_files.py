"""What files of features hold, and arrays in NumPy and PyTorch files: complete, without pickles, of the size that they claim."""

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spam.errors import SectionError
from spam.schemas.store_config import ForeignKind
from spam.sections.hdf5_files import readable, refuse_claim
from spam.typing import Array, Shaped


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFeatures:
    """Features of tiles that another program embedded, one row per tile; a reader fills in what its file states.

    Attributes
    ----------
    name
        Name of the file, without its folder.
    kind
        Program or file format.
    features
        Features, (n_tiles, dim); float32 and finite once they are checked.
    xy_px
        Tile centres in full-resolution slide pixels (x = column, y = row), (n_tiles, 2), each once, or None.
    is_corner
        Whether `xy_px` are upper left corners, as a reader finds them.
    ids
        Spot ids (``<U``), each once, or None. At least one of `xy_px` and `ids` is known.
    tile_px
        Side of a tile in full-resolution slide pixels, or None if unknown.
    mpp
        µm per full-resolution slide pixel, or None if unknown; a nominal magnification does not count.
    encoder_name
        Name of the encoder in the file, or None.
    """

    name: str = ""
    kind: ForeignKind = "npy"
    features: Shaped[Array, "..."] = dataclasses.field(default_factory=lambda: np.empty((0, 0)))
    xy_px: Shaped[Array, "..."] | None = None
    is_corner: bool = False
    ids: Shaped[Array, " n_tiles"] | None = None
    tile_px: float | None = None
    mpp: float | None = None
    encoder_name: str | None = None


def stated_number(values: Any, name: str) -> float | None:
    """Return an entry of a mapping that is a number; None for anything else."""
    value = values.get(name) if isinstance(values, Mapping) else None
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def read_npy(path: Path) -> Array:
    """Map the array of a ``.npy`` file; a shape that the file does not hold is an error."""

    def explain(error: Exception) -> str:
        what = f": {error}" if isinstance(error, OSError | EOFError) else ""  # others quote NumPy's own code
        return f"{path} is not one complete .npy array of numbers{what}. Save it with numpy.save."

    with readable(explain):
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def read_npz(path: Path, names: Sequence[str]) -> list[Array]:
    """Read arrays of a ``.npz`` file by name."""
    what = f"{path} cannot be read as .npz with the arrays {', '.join(names)}"
    with readable(lambda error: f"{what}: {error}. Copy it again."):
        with zipfile.ZipFile(path) as archive:
            for name in names:
                _refuse_member(path, archive, f"{name}.npy")
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]


def _refuse_member(path: Path, archive: zipfile.ZipFile, name: str) -> None:
    """Refuse an array that has Python objects or whose header claims another size than the archive."""
    member = archive.getinfo(name)
    refuse_claim(f"{path}: {name!r}", member.file_size, member.compress_size)
    with archive.open(member) as stream:
        is_first = np.lib.format.read_magic(stream) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        n_claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize + stream.tell()
    if dtype.hasobject or n_claimed != member.file_size:
        message = f"{path}: {name!r} ({dtype}, {shape}) claims {n_claimed:,} bytes, has {member.file_size:,}. Copy it again."
        raise SectionError(message)


def read_tensor(path: Path) -> Array:
    """Read the one floating-point tensor of a ``.pt`` file as float32, without executing anything in it."""
    import torch  # only here: reading and training from a store needs no PyTorch in this package

    # PyTorch's message advises to switch the protection off, so only the kind of error is shown.
    advice = "Use the .h5 of the same program, or save the features with numpy.save."
    with readable(
        lambda error: (
            f"{path} is not a PyTorch file that is safe to read ({type(error).__name__}): it is damaged or has Python "
            f"objects (TRIDENT's .pt does). {advice}"
        )
    ):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                n_claimed = sum(member.file_size for member in archive.infolist())
            refuse_claim(str(path), n_claimed, path.stat().st_size)
        tensor = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    is_dense = (
        isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.is_floating_point()
    )
    # A view of few numbers (`expand`) can claim any shape.
    if not is_dense or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        is_tensor = isinstance(tensor, torch.Tensor)
        what = f"{tensor.dtype} {tuple(tensor.shape)}" if is_tensor else type(tensor).__name__
        message = f"{path} holds {what}, expected one dense floating-point tensor. Save the features with numpy.save."
        raise SectionError(message)
    return np.asarray(tensor.detach().to(torch.float32).contiguous())
