"""Options of `spam embed`, and the options that every command reading lab files shares."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Literal

from .config import Config, check, flag, folder_fault, option
from .store_meta import FeatureDtype, Stain

__all__ = ["DEFAULT_ENCODER", "DEFAULT_TILE_UM", "EmbedConfig", "InputConfig"]

DEFAULT_ENCODER = "efficientnet_lite0_stages"
DEFAULT_TILE_UM = 112.0  # 224 px at 0.5 µm/px: the tile of the HEST benchmark (arXiv 2406.16192)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputConfig(Config):
    """Where a section's files are, and how its table is to be read."""

    h5ad: Path | None = option(None, "AnnData file with raw counts; may be left out for pure prediction")
    csv: Path | None = option(
        None, "table with one row per tile: x, y (pixel centre), source_image, spot_id or cell_id"
    )
    root: Path | None = option(None, "folder of the slides or tile files that the table names")
    section: str | None = option(
        None, "name of the section; default: obs['section'], else the h5ad's file name"
    )
    donor: str | None = option(None, "donor of the section; default: obs['patient'] or obs['donor']")
    mpp: float | None = option(
        None, "µm per full-resolution pixel; default: from the h5ad, else from the slide"
    )
    counts_layer: str | None = option(
        None, "layer of the h5ad that holds raw counts; default: 'counts' if there, else X"
    )
    coordinates: Literal["pixels", "um", "hires"] = option(
        "pixels",
        "unit of the table's coordinates: full-resolution pixels, µm, or pixels of the Visium hires image",
    )
    swap_xy: bool = option(False, "take the table's x as row and y as column")  # noqa: FBT003
    id_offset: int = option(0, "add this to the table's integer ids before joining")
    id_strip_suffix: str | None = option(
        None, "cut this suffix, e.g. '.0' or '-1', off the table's ids before joining"
    )
    allow_missing_tiles: bool = option(False, "leave out spots of the h5ad that have no tile")  # noqa: FBT003


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig(InputConfig):
    """Options of `spam embed`."""

    store: Path | None = option(None, "feature store to write (made if it is not there)", is_output=True)
    manifest: Path | None = option(
        None, "CSV with columns section, donor, h5ad, csv, root: embeds a whole cohort"
    )
    enc_name: str = option(DEFAULT_ENCODER, "encoder: a name of the registry, or timm:<model>")
    tile_um: tuple[float, ...] = option(
        (), "side of a tile in µm; repeat for several scales (default 112, or the extent of the tile files)"
    )
    tile_px: tuple[int, ...] = option(
        (), "side of a tile in full-resolution slide pixels, in place of --tile-um"
    )
    revision: str | None = option(
        None, "branch, tag or commit of the encoder's repository, in place of the pinned one"
    )
    lora: Path | None = option(
        None, "adapter of `spam adapt`: embed with the encoder that it adapted, under a key of its own"
    )
    tiles: Literal["table", "grid"] = option(
        "table",
        "where tiles come from: the table, or a grid over the tissue of --root, a slide or a folder of slides",
    )
    stride_um: float | None = option(
        None, "step of the grid in µm, with --tiles grid (default: the smallest tile)"
    )
    stain: Stain | None = option(None, "normalise the stains of each section: macenko or reinhard")
    dihedral: bool = option(
        False,  # noqa: FBT003
        "average features over the four turns of a tile and of its mirror image; takes eight times as long",
    )
    skip_bad_tiles: bool = option(
        False,  # noqa: FBT003
        "mark tiles that cannot be read in the store, and go on; default: stop, and name the first",
    )
    batch_size: int = option(64, "tiles per forward pass", flags=("--img-batch-size",))
    num_workers: int | None = option(
        None, "threads that read and resample tiles (default: 2, or one per core, up to 16, beside a GPU)"
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    amp: bool = option(False, "run the encoder in mixed precision")  # noqa: FBT003
    compile: bool = option(False, "compile the encoder first: minutes once, then faster")  # noqa: FBT003
    dtype: FeatureDtype = option("float16", "number format of the stored features")
    chunk_rows: int | None = option(
        None, "rows in one chunk of the store: what a killed run loses at most (default: about 2 MB)"
    )
    licence: str | None = option(
        None, "licence of the counts and images, e.g. CC-BY-4.0: it decides whether the store may be shared"
    )
    shard: str | None = option(
        None,
        "do the i-th of n parts, e.g. 2/8, of work that n processes share (default: all, or what torchrun says)",
        metavar="<i/n>",
    )
    overview: bool = option(
        True,  # noqa: FBT003
        "keep a small image (<= 2048 px) of the slide, so that maps need the store alone",
    )
    overwrite: bool = option(False, "embed again what is there already")  # noqa: FBT003

    def __post_init__(self) -> None:
        check(
            [
                "--store is missing: say where the features go, e.g. --store cohort.zarr"
                if self.store is None
                else None,
                folder_fault("store", self.store),
                "give --manifest, or --csv and --root (with or without --h5ad)"
                if self.tiles == "table" and self.manifest is None and (self.csv is None or self.root is None)
                else None,
                *_grid_faults(self),
                "--manifest names h5ad, csv, section and donor itself; leave out those options"
                if self.manifest and (self.h5ad or self.csv or self.section or self.donor)
                else None,
                f"--batch-size must be at least 1, not {self.batch_size}" if self.batch_size < 1 else None,
                f"--num-workers must not be negative, not {self.num_workers}"
                if self.num_workers is not None and self.num_workers < 0
                else None,
                f"--chunk-rows must be at least 1, not {self.chunk_rows}"
                if self.chunk_rows is not None and self.chunk_rows < 1
                else None,
                _shard_fault(self.shard),
                "--overwrite would let the parts delete each other's work; run once without --shard"
                if self.shard and self.overwrite
                else None,
                f"--mpp must be a positive number of µm, not {self.mpp}"
                if self.mpp is not None and not self.mpp > 0
                else None,
                "give --tile-um or --tile-px, not both" if self.tile_um and self.tile_px else None,
                *(f"--tile-um must be positive, not {um}" for um in self.tile_um if not um > 0),
                *(f"--tile-px must be positive, not {px}" for px in self.tile_px if not px > 0),
            ]
        )

    def n_readers(self, device: str) -> int:
        """Threads that read tiles for an encoder on a device of a type (``cpu``, ``cuda``)."""
        if self.num_workers is not None:
            return self.num_workers
        # The encoder itself keeps every core of the CPU busy.
        return 2 if device == "cpu" else min(os.cpu_count() or 1, 16)

    @property
    def shard_of(self) -> tuple[int, int]:
        """Number of the part, counted from 0, and how many there are."""
        if self.shard is None:
            return 0, 1
        i, n = self.shard.split("/")
        return int(i) - 1, int(n)


def _grid_faults(config: "EmbedConfig") -> list[str | None]:
    if config.tiles == "table":
        return [
            "--stride-um is the step of a grid; add --tiles grid" if config.stride_um is not None else None
        ]
    of_tables = {field.name for field in dataclasses.fields(InputConfig)} - {
        "root",
        "section",
        "donor",
        "mpp",
    }
    given = [
        flag(field.name)
        for field in dataclasses.fields(config)
        if field.name in {*of_tables, "manifest"} and getattr(config, field.name) != field.default
    ]
    return [
        "--tiles grid needs --root: a slide, or a folder of slides" if config.root is None else None,
        f"--tiles grid lays its own tiles: leave out {', '.join(given)}" if given else None,
        f"--stride-um must be positive, not {config.stride_um}"
        if config.stride_um is not None and not config.stride_um > 0
        else None,
    ]


def _shard_fault(shard: str | None) -> str | None:
    if shard is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match and 1 <= int(match[1]) <= int(match[2]):
        return None
    return f"--shard must be i/n with i from 1 to n, such as 2/8, not {shard!r}"
