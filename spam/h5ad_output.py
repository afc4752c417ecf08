"""HDF5 and AnnData files as results."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import h5py

_GROWTH_BYTES = 1 << 20
_MOST_IN_MEMORY = 1 << 32  # bytes of the arrays of a file, before compression


@contextmanager
def writing_hdf5(path: Path, *, in_memory: bool = True) -> Iterator[h5py.File]:
    """Yield an HDF5 file in memory, which is written to `path` at the end of the ``with`` block, or the file at `path`.

    If HDF5 itself cannot write to a disk (full, or a limit of file sizes), it prints tracebacks and may crash the process
    when it ends (HDF5 1.14). So only files that are too large for memory are written by it.
    """
    if not in_memory:
        with h5py.File(path, "w") as file:
            yield file
        return
    with h5py.File("memory", "w", driver="core", backing_store=False, block_size=_GROWTH_BYTES) as file:
        yield file
        file.flush()
        path.write_bytes(file.id.get_file_image())


def write_h5ad(adata: anndata.AnnData, path: Path, **options: Any) -> None:
    """Write an AnnData file; `options` are those of HDF5 datasets, such as ``compression``.

    Strings are never written in pandas' nullable form, which TissUUmaps, anndataR and anndata < 0.11 cannot read. More than
    4 GB is written uncompressed, array by array, because compression would take minutes.
    """
    adata.strings_to_categoricals()
    n_bytes = sum(getattr(array, "nbytes", 0) for array in (adata.X, *adata.layers.values()))
    is_small = n_bytes <= _MOST_IN_MEMORY
    if not is_small and shutil.disk_usage(path.parent).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    options = options if is_small else {}
    with (
        anndata.settings.override(allow_write_nullable_strings=False),
        writing_hdf5(path, in_memory=is_small) as file,
    ):
        anndata.io.write_elem(file, "/", adata, dataset_kwargs=options)
