"""Options and report of `spam embed`, the options of commands that read lab files, and the choice of stored features."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from spam.errors import counted
from spam.progress import already_done

from .config import Config, advanced, data, flag, model, output
from .graph_config import DEFAULT_K
from .shards import part_of, shard_fault, shard_option
from .store_format import FeatureDtype

DEFAULT_ENCODER = "efficientnet_lite0_stages"
DEFAULT_TILE_UM = 112.0  # 224 px at 0.5 µm/px: the tile of the HEST benchmark (arXiv 2406.16192)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions(Config):
    """How the folder of an instrument is read."""

    image: Path | None = data(
        None,
        "full-resolution H&E image to which the positions in the folder refer; it is never guessed",
    )
    bin: str | None = data(
        None, "bins of Visium HD: 2, 8 or 16 (µm), or cells (default: 8)", metavar="<2|8|16|cells>"
    )
    alignment: Path | None = data(
        None,
        "alignment of the H&E image with Xenium, CosMx or MERSCOPE: *_he_imagealignment.csv, a 3 x 3 matrix or keypoints "
        "(default: the one in the Xenium folder)",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputConfig(FolderOptions):
    """The files of a section, and how its table is read."""

    from_: Path | None = data(
        None,
        "folder that an instrument wrote (Space Ranger, Xenium, CosMx, MERSCOPE, HEST-1k, STP-Bench, STimage-1K4M, legacy ST, "
        "SpatialData), instead of --h5ad, --csv and --root; see `spam import`",
    )

    h5ad: Path | None = data(None, "AnnData file with raw counts (optional for prediction)")
    csv: Path | None = data(
        None, "table with one row per tile: x, y (pixel centre), source_image, spot_id or cell_id"
    )
    root: Path | None = data(None, "folder of the slides or tile files that the table names")
    regions: Path | None = data(
        None,
        "GeoJSON of QuPath on the slide: tiles only in Tissue and Region*, none in Ignore* and Exclude; other classes go into "
        "obs['region']",
    )
    cells: Path | None = data(
        None, "GeoJSON of cells, detections or points on the slide --root: one tile each, instead of --csv"
    )
    section: str | None = data(
        None, "name of the section (default: obs['section'], else the name of the h5ad file or of the folder)"
    )
    donor: str | None = data(None, "donor of the section (default: obs['patient'], ['donor'], ['donor_id'])")
    mpp: float | None = data(
        None,
        "µm per full-resolution pixel (default: from the h5ad or the folder, else from the slide)",
        limits="[0.01,100]",
    )
    counts_layer: str | None = data(
        None, "layer of the h5ad with raw counts, or X or raw (default: 'counts' if it exists, else X)"
    )
    coordinates: Literal["pixels", "um", "hires"] = data(
        "pixels",
        "unit of the table's coordinates: full-resolution pixels, µm, or pixels of the Visium hires image",
    )
    swap_xy: bool | None = data(
        None,
        "read the table's x as row and y as column (default: no, after a comparison with h5ad and tissue)",
    )
    id_offset: int = data(
        0, "add this to the table's integer ids before joining", limits="[-1000000000,1000000000]"
    )
    id_strip_suffix: str | None = data(
        None, "remove this suffix, e.g. '.0' or '-1', from the table's ids before joining"
    )
    h5ad_id_strip_suffix: str | None = data(
        None, "remove this suffix, e.g. '-0', from the h5ad's ids (only) for joining"
    )
    allow_missing_tiles: bool = data(False, "omit spots of the h5ad without a tile")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionsConfig(InputConfig):
    """The files of a section, or a manifest of several."""

    manifest: Path | None = data(
        None,
        "CSV with one row per section (columns section, donor, h5ad, csv, root, regions), for a whole cohort",
    )

    def faults(self) -> list[str | None]:
        """List contradictions between the ways to name a section."""
        is_cohort, is_folder = self.manifest is not None, self.from_ is not None
        per_section = [
            flag(name) for name in ("h5ad", "csv", "section", "donor", "regions") if getattr(self, name)
        ]
        of_folder = [
            flag(field.name) for field in dataclasses.fields(FolderOptions) if getattr(self, field.name)
        ]
        replaced = [name for name in self.given_table_options() if name not in (flag("from_"), *of_folder)]
        replaced += [flag("root")] if self.root is not None else []
        is_table = (self.csv is not None or self.cells is not None) and self.root is not None
        of_table = [name for name in self.given_table_options() if name != flag("cells")]
        rules = {
            f"--from replaces the lab files; omit {', '.join(replaced)}": is_folder and replaced,
            f"{', '.join(of_folder)} belongs to --from, which is missing": not is_folder and of_folder,
            f"--cells needs no table; omit {', '.join(of_table)}": self.cells and not is_folder and of_table,
            "--cells needs --root: the slide": self.cells and not (is_folder or is_cohort or self.root),
            "give --manifest, or --csv and --root (with or without --h5ad), or --from": not is_cohort
            and not is_folder
            and not is_table
            and not self.cells,
            f"--manifest gives these per section; omit {', '.join(per_section)}": is_cohort and per_section,
        }
        return [rule for rule, is_broken in rules.items() if is_broken]

    def given_table_options(self) -> list[str]:
        """List the flags that were given of those that say where spots come from and how they are read."""
        names = {field.name for field in dataclasses.fields(InputConfig)} | {"manifest"}
        names -= {"root", "section", "donor", "mpp", "regions"}
        return [
            flag(field.name)
            for field in dataclasses.fields(self)
            if field.name in names and getattr(self, field.name) != field.default
        ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedConfig(SectionsConfig):
    """Options of `spam embed`."""

    store: Path | None = output(
        None,
        "feature store to write (created if needed)",
        is_output=True,
        required="give the feature store to write, e.g. --store cohort.zarr",
    )
    enc_name: str = model(DEFAULT_ENCODER, "encoder: a name from `spam encoders list`, or timm:<model>")
    tile_um: tuple[float, ...] = model(
        (),
        "side of a tile in µm; repeat for several scales (default: 112, or the extent of the tile files)",
        limits="(0,100000]",
    )
    tile_px: tuple[int, ...] = model(
        (), "side of a tile in full-resolution slide pixels, instead of --tile-um", limits="[1,100000]"
    )
    revision: str | None = model(
        None, "branch, tag or commit of the encoder's Hub repository, instead of the pinned one"
    )
    lora: Path | None = model(
        None,
        "adapter folder of `spam adapt`: embed with the adapted encoder; its features have a separate name",
    )
    tiles: Literal["table", "grid"] = data(
        "table",
        "source of the tiles: the table, or a grid over the tissue of --root (a slide or a folder of slides)",
    )
    stride_um: float | None = data(
        None, "step of the grid in µm, with --tiles grid (default: the smallest tile)", limits="(0,100000]"
    )
    dihedral: bool = model(
        False,
        "average features over the eight rotations and reflections of a tile; takes eight times as long",
    )
    skip_bad_tiles: bool = data(
        False, "mark unreadable tiles in the store and continue, instead of stopping at the first one"
    )
    batch_size: int = advanced(
        64,
        "tiles per step; a GPU computes them in one pass",
        flags=("--img-batch-size",),
        limits="[1,1000000]",
    )
    num_workers: int | None = advanced(
        None,
        "threads that read and resample tiles (default: 2; with a GPU one per core, up to 16)",
        limits="[0,1024]",
    )
    device: str = advanced("auto", "auto, cpu, cuda or cuda:N")
    amp: bool = advanced(False, "run the encoder in mixed precision")
    compile: bool = advanced(
        False, "compile the encoder first: this takes minutes, then each batch is faster"
    )
    dtype: FeatureDtype = advanced("float16", "floating-point format of the stored features")
    chunk_rows: int | None = advanced(
        None,
        "spots per chunk of the store; a killed run loses at most one chunk (default: about 2 MB)",
        limits="[1,100000000]",
    )
    licence: str | None = output(
        None, "licence of counts and images, e.g. CC-BY-4.0: decides whether the store may be shared"
    )
    shard: str | None = shard_option("embed")
    local_cache: Path | None = advanced(
        None,
        "folder of a local disk: a slide on a network disk is copied there before its tiles are read, and removed afterwards",
        is_output=True,
    )
    overview: bool = output(
        True, "store a small image (<= 2048 px) of the slide, so that maps can be drawn without the slide"
    )
    overwrite: bool = output(False, "compute existing features again")

    def faults(self) -> list[str | None]:
        """List contradictions between options."""
        is_grid, given = self.tiles == "grid", self.given_table_options()
        rules = {
            "--tiles grid needs --root: a slide, or a folder of slides": is_grid and self.root is None,
            f"--tiles grid places its own tiles; omit {', '.join(given)}": is_grid and given,
            "--stride-um is the step of a grid; add --tiles grid": not is_grid and self.stride_um,
            "give --tile-um or --tile-px, not both": self.tile_um and self.tile_px,
        }
        of_sections = [] if is_grid else SectionsConfig.faults(self)
        of_parts = shard_fault(self.shard, is_overwrite=self.overwrite)
        return [*of_sections, of_parts, *(rule for rule, is_broken in rules.items() if is_broken)]

    def n_readers(self, device: str) -> int:
        """Threads that read tiles for an encoder on a device type (``cpu``, ``cuda``)."""
        if self.num_workers is not None:
            return self.num_workers
        # On the CPU, the encoder itself uses every core.
        return 2 if device == "cpu" else min(os.cpu_count() or 1, 16)

    @property
    def shard_of(self) -> tuple[int, int]:
        """Number of the part, counted from 0, and number of parts."""
        return part_of(self.shard)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig(EmbedConfig):
    """Options of `spam plan`: those of the `spam embed` that it plans."""

    store: Path | None = output(
        Path("cohort.zarr"),
        "store that `spam embed` would write; features that it has need no time",
        is_output=True,
    )
    probe_s: float = advanced(
        20.0,
        "seconds of measuring, half for embedding and half for training; reading the files, and trainings of two sizes at least, "
        "take longer",
        limits="[1,3600]",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FeatureOptions(Config):
    """A store, and which of its features and graphs are used."""

    store: Path | str | None = data(
        None,
        "feature store (folder, packed store, or address) with counts",
        required="give the feature store that `spam embed` wrote",
    )
    enc_name: str | None = data(
        None, "encoder whose features to use, or several: a,b (default: the only one in the store)"
    )
    tile_um: tuple[float, ...] = data(
        (), "tile sizes to use together, in µm (default: all that every section has)", limits="(0,100000]"
    )
    dihedral: bool = data(
        False, "use features averaged over the symmetries of the tile (default: whichever kind the store has)"
    )
    k: int = model(DEFAULT_K, "spatial neighbours of a spot in the graph", limits="[1,10000]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SectionReport:
    """Outcome of `spam embed` for one section.

    Attributes
    ----------
    scale
        µm per pixel and its source.
    keys
        Finished features in the store, one name per tile size.
    join
        What was joined and what was left out.
    n_embedded, n_present
        Tiles embedded now, and tiles whose features existed.
    n_left
        Tiles left to other processes (``--shard``).
    flags
        Number of tiles with each flag over all tile sizes, see `spam.schemas.tile_spec.tile_flags`.
    seconds
        Elapsed time.
    """

    name: str
    n_spots: int
    scale: str
    keys: tuple[str, ...]
    join: str
    n_embedded: int
    n_present: int
    n_left: int
    flags: dict[str, int]
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """Outcome of `embed`: the store, the name of the encoder, and one report per section."""

    store: Path
    encoder: str
    sections: tuple[SectionReport, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        sections = [{**dataclasses.asdict(section), "keys": list(section.keys)} for section in self.sections]
        return {"store": str(self.store), "encoder": self.encoder, "sections": sections}

    def summary(self) -> str:
        """Summarise each section in a line."""
        lines = [
            f"{section.name}: {section.join}; {section.scale}; {', '.join(section.keys) or 'features not complete yet'}: "
            f"{counted(section.n_embedded, 'tile')} embedded, {section.n_present} already present ({section.seconds:.1f} s)"
            + (f"; {section.n_left} left to other parts" if section.n_left else "")
            + "".join(f"; {n} {flag}" for flag, n in section.flags.items() if n)
            for section in self.sections
        ]
        if not any(section.n_embedded or section.n_left for section in self.sections):
            lines.insert(0, already_done(self.store, "has all of these features", "embedded"))
        return "\n".join([*lines, f"Features of {self.encoder} are in {self.store}"])
