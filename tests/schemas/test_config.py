"""Configurations: conversion, limits, paths, digests, and that no field is ignored."""

import ast
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from spam.errors import ConfigError, MissingInputError
from spam.schemas import store_config
from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.config import Config, check, flag, option
from spam.schemas.embed_config import EmbedConfig, InputConfig, PlanConfig
from spam.schemas.graph_config import GraphConfig
from spam.schemas.hest_config import HestConfig
from spam.schemas.import_config import ImportConfig as FolderImport
from spam.schemas.model_config import ModelConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.records import Record, describe_kind, fit_value, interval_fault, members_of
from spam.schemas.simulate_config import DemoConfig, SimulateConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig

Mode = Literal["joint", "img-gene", "img-coord"]
# The least that each configuration needs.
LEAST: dict[type[Config], dict[str, Any]] = {
    EmbedConfig: {"store": "s.zarr", "csv": "t.csv", "root": "images"},
    PlanConfig: {"store": "s.zarr", "csv": "t.csv", "root": "images"},
    GraphConfig: {"store": "s.zarr"},
    PretrainConfig: {"store": "s.zarr", "save_dir": "pre"},
    FinetuneConfig: {"store": "s.zarr", "save_dir": "fine"},
    PredictConfig: {"store": "s.zarr", "ckpt": "c.safetensors", "out_dir": "out"},
    SimulateConfig: {"out_dir": "cohort"},
    DemoConfig: {},
}
# Fields whose other value needs, or excludes, another field.
OF_STORES: list[type[Config]] = [
    value for name, value in vars(store_config).items() if name.endswith("Config") and name != "Config"
]
ALL: list[type[Config]] = [
    *LEAST,
    AdaptConfig,
    BenchmarkConfig,
    HestConfig,
    InputConfig,
    FolderImport,
    *OF_STORES,
]
LINKED = {
    (config, name)
    for config in (EmbedConfig, PlanConfig)
    for name in ("manifest", "tiles", "stride_um", "from_", "image", "bin", "alignment", "cells")
}
CONFIGS = pytest.mark.parametrize("config", LEAST, ids=lambda config: config.__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Small(Config):
    """A configuration with each kind of declaration."""

    store: Path | str | None = option(None, "feature store", required="give a store")
    tables: tuple[Path, ...] = option((), "tables")
    lora: Path | None = option(None, "folder of an adapter")
    out_dir: Path | None = option(None, "folder for results")
    copy: Path | None = option(None, "a file that is written", is_output=True)
    mode: Mode = option("joint", "mode", is_argument=True)
    k: int = option(12, "neighbours", limits="[1,1000]")
    sizes: tuple[float, ...] = option((), "sizes", limits="(0,1000]")
    share: float | None = option(None, "share", limits="[0,1)")

    def faults(self) -> list[str | None]:
        return ["--k 5 is forbidden" if self.k == 5 else None]


def changed(config: type[Config], name: str) -> Any:
    """Another value for a field, one that the configuration accepts."""
    kind = get_type_hints(config)[name]
    default = next(field.default for field in dataclasses.fields(config) if field.name == name)
    members = [kind for kind in get_args(kind) if kind not in (type(None), Ellipsis)]
    scalar = members[0] if members and get_origin(kind) is not Literal else kind
    special = {"shard": "2/3", "n_neighbours": 4}  # i/n; at most k
    if name in special:
        return special[name]
    if bool in (kind, scalar):
        return not default
    if get_origin(scalar) is Literal:
        value: Any = next(choice for choice in get_args(scalar) if choice != default)
    elif scalar is int:
        value = default * 2 or 2 if isinstance(default, int) else 7
    elif scalar is float:
        value = default / 2 + 0.01 if isinstance(default, float) else 7.0
    else:
        value = "other"
    return [value] if get_origin(kind) is tuple else value


@CONFIGS
def test_every_field_survives_a_mapping_and_changes_the_digest(config: type[Config]) -> None:
    base = config.from_mapping(LEAST[config])
    for field in dataclasses.fields(config):
        if (config, field.name) in LINKED:
            continue
        value = changed(config, field.name)
        other = config.from_mapping({**LEAST[config], field.name: value})
        assert other.to_mapping()[field.name] == value
        assert config.from_mapping(other.to_mapping()) == other
        assert base.digest() != other.digest(), field.name
        assert base.digest(leave_out=[field.name]) == other.digest(leave_out=[field.name])


def test_no_field_is_ignored() -> None:
    """Each field is read somewhere in the library, or checked as a path."""
    root = Path(__file__).resolve().parents[2]
    files = (*(root / "spam").rglob("*.py"), *(root / "schemas").rglob("*.py"))
    read = {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    for config in ALL:
        ignored = {field.name for field in dataclasses.fields(config)} - read
        assert not ignored, config.__name__


def test_both_spellings_of_a_key() -> None:
    least = LEAST[PretrainConfig]
    dash, underscore = ({**least, key: 7} for key in ("batch-size", "batch_size"))
    assert PretrainConfig.from_mapping(dash) == PretrainConfig.from_mapping(underscore)
    assert flag("n_top_genes") == "--n-top-genes"


def test_unknown_keys_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'epoch' \(did you mean 'epochs'\?\), 'q'"):
        PretrainConfig.from_mapping({**LEAST[PretrainConfig], "epoch": 3, "q": 1})


def test_all_faults_are_listed() -> None:
    wrong = {**LEAST[PretrainConfig], "epochs": "many", "amp": 1, "mode": "gene"}
    with pytest.raises(ConfigError, match=r"--epochs .*'many'; --amp .* 1; --mode must be joint, .*'gene'"):
        PretrainConfig.from_mapping(wrong)
    with pytest.raises(ConfigError, match=r"--store is missing: give a store; --k .* 5|--k 5 is forbidden"):
        Small(k=5)
    with pytest.raises(ConfigError, match=r"^MODE must be joint, .*'gene'$"):
        Small.from_mapping({"store": "s", "mode": "gene"})
    check([None, ""])
    with pytest.raises(ConfigError, match=r"^one; two$"):
        check([None, "one", "", "two"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"store": None}, "--store is missing: give a store"),
        ({"k": 0}, "--k must be at least 1, not 0"),
        ({"sizes": (3.0, 0.0)}, "--sizes must be positive, not 0.0"),
        ({"sizes": (float("nan"),)}, "--sizes must be positive, not nan"),
        ({"sizes": (float("inf"),)}, "--sizes must be at most 1000, not inf"),
        ({"share": 1.0}, r"--share must be in \[0, 1\), not 1.0"),
    ],
)
def test_limits(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}$"):
        Small(**{"store": Path("s"), **values})
    assert Small(store="s3://bucket/s", share=0.0, k=1, sizes=(0.1,)).share == 0.0


def test_missing_paths(tmp_path: Path) -> None:
    here = tmp_path / "here.csv"
    here.touch()
    new = {"out_dir": tmp_path / "new", "copy": tmp_path / "copy"}
    Small(store="s3://bucket/s.zarr", tables=(here,), **new).check_paths()
    wrong = Small(store=tmp_path / "s.zarr", tables=(here, tmp_path / "hear.csv"), lora=tmp_path / "l")
    with pytest.raises(MissingInputError) as error:
        wrong.check_paths()
    assert str(error.value) == (
        f"Store not found: {tmp_path}/s.zarr (--store). "
        f"File not found: {tmp_path}/hear.csv (--tables). Did you mean {here}? "
        f"Folder not found: {tmp_path}/l (--lora)."
    )
    with pytest.raises(
        MissingInputError, match=r"s\.zarr \(--store\)\. Folder not found: .*/l \(--lora\)\.$"
    ):
        wrong.check_paths(leave_out=["tables"])


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"^Not a feature store: .* \(--store\) has no zarr.json"):
        Small(store=tmp_path).check_paths()
    (tmp_path / "zarr.json").touch()
    Small(store=tmp_path).check_paths()
    with pytest.raises(MissingInputError, match=r"zarr.json \(--store\) is not a ZIP file"):
        Small(store=tmp_path / "zarr.json").check_paths()


def test_a_remote_address_is_no_folder() -> None:
    with pytest.raises(ConfigError, match=r"--store must be a local path, not 'hf://datasets/o/n'"):
        GraphConfig.from_mapping({"store": "hf://datasets/o/n"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Record):
    """A record inside another."""

    px: float
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Record):
    """A record with each kind of content."""

    parts: tuple[Inner, ...]
    one: Inner | None
    free: dict[str, Any]
    history: list[dict[str, float]]
    path: Path = Path("a/b")


def test_a_record_survives_json() -> None:
    inner = Inner(px=3, names=("x",))
    outer = Outer(parts=(inner, Inner(px=0.5)), one=None, free={"k": [1, None]}, history=[{"loss": 2.5}])
    written = json.loads(json.dumps(outer.to_mapping()))
    assert written == {
        "parts": [{"px": 3, "names": ["x"]}, {"px": 0.5, "names": []}],
        "one": None,
        "free": {"k": [1, None]},
        "history": [{"loss": 2.5}],
        "path": "a/b",
    }
    assert Outer.from_mapping(written) == outer
    for wrong in ({"parts": 5}, {"one": 5}, {"free": []}, {"history": None}):
        with pytest.raises(TypeError):
            Outer.from_mapping({**written, **wrong})
    for wrong in (written | {"new": 1}, {"parts": []}):
        with pytest.raises((KeyError, TypeError)):
            Outer.from_mapping(wrong)


@pytest.mark.parametrize(
    ("config", "values", "words"),
    [
        (EmbedConfig, {"store": None}, "--store is missing"),
        (EmbedConfig, {"csv": None}, "--manifest, or --csv and --root"),
        (EmbedConfig, {"manifest": Path("m.csv")}, "--manifest"),
        (EmbedConfig, {"tile_um": (1.0,), "tile_px": (3,)}, "--tile-um or --tile-px, not both"),
        (EmbedConfig, {"tile_um": (0.0,)}, "--tile-um must be positive"),
        (PretrainConfig, {"batch_size": 1}, "--batch-size must be at least 2"),
        (PretrainConfig, {"mixing": 1.5}, r"--mixing must be in \[0, 1\]"),
        (FinetuneConfig, {"heads": 7}, "--heads must divide --fuse-dim"),
        (FinetuneConfig, {"n_neighbours": 9, "k": 7}, "--n-neighbours must be at most --k 7"),
        (PredictConfig, {"ckpt": None}, "--ckpt is missing"),
        (PredictConfig, {"coverage": 1.0}, r"--coverage must be in \(0, 1\)"),
        (SimulateConfig, {"seed": -3}, "--seed must be 0 or more"),
        (GraphConfig, {"store": None, "k_spatial": 0}, "--store is missing.*--k-spatial must be at least 1"),
    ],
)
def test_faults_name_the_flag(config: type[Config], values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.from_mapping({**LEAST[config], **values})


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, int, 3),
        (10**300, float, 1e300),
        (True, bool, True),
        ("x", str | None, "x"),
        ("a/b", Path, Path("a/b")),
        (Path("a"), Path | None, Path("a")),
        (None, Path | None, None),
        ("s3://b/s.zarr", Path | str, "s3://b/s.zarr"),
        ("joint", Mode, "joint"),
        ([112, 224.5], tuple[float, ...], (112.0, 224.5)),
        ((), tuple[str, ...], ()),
        (["csv"], tuple[Literal["csv", "parquet"], ...], ("csv",)),
    ],
)
def test_fits(value: Any, kind: Any, expected: Any) -> None:
    fitted = fit_value(value, kind)
    assert (fitted, type(fitted)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("3", int, "a whole number"),
        (3.0, int, "a whole number"),
        (True, int, "a whole number"),
        (True, float, "a number"),
        ("0.5", float, "a number"),
        (1, bool, "true or false"),
        (None, str, "text"),
        (3, Path | None, "a local path"),
        ("s3://b/s.zarr", Path, "a local path"),
        ("gene", Mode, "joint, img-gene or img-coord"),
        ("C2,C3", tuple[str, ...], "a list, each text"),
        ([112, "x"], tuple[float, ...], "a list, each a number"),
        (["xlsx"], tuple[Literal["csv", "parquet"], ...], "a list, each csv or parquet"),
    ],
)
def test_does_not_fit(value: Any, kind: Any, words: str) -> None:
    with pytest.raises(TypeError):
        fit_value(value, kind)
    assert describe_kind(kind) == words


NUMBERS: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    1e30,
    10**30,
    -1e30,
    -(10**5000),
    10**5000,
    -5,
    0,
    0.0,
    4,
    0.5,
]


def numeric(config: type[Config]) -> dict[str, tuple[type, str | None, bool]]:
    """Type of number, interval, and whether it is a list, of each numeric field."""
    found = {}
    for field in dataclasses.fields(config):
        kind = get_type_hints(config)[field.name]
        is_list = get_origin(kind) is tuple
        for member in members_of(get_args(kind)[0] if is_list else kind):
            if member in (int, float):
                found[field.name] = (member, field.metadata["limits"], is_list)
    return found


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.__name__)
def test_every_number_has_a_finite_range(config: type[Config]) -> None:
    """An independent reading of the interval decides what each value must do; messages are short and name the flag."""
    least = LEAST.get(config, {})
    for name, (kind, limits, is_list) in numeric(config).items():
        assert limits, f"{config.__name__}.{name} has no limits"
        low, high = (float(part) for part in limits[1:-1].split(","))
        assert math.isfinite(low), name
        assert math.isfinite(high), name
        for value in NUMBERS:
            is_inside = low <= value <= high and not (
                (value == low and limits[0] == "(") or (value == high and limits[-1] == ")")
            )
            is_whole = isinstance(value, int)
            try:
                config.from_mapping({**least, name: [value] if is_list else value})
                faults = ""
            except ConfigError as error:
                faults = next((part for part in str(error).split("; ") if f"{flag(name)} must" in part), "")
            assert (not faults) == (is_inside and (kind is float or is_whole)), (name, value, faults)
            assert len(faults) < 200


@pytest.mark.parametrize(
    ("number", "limits", "wanted"),
    [
        (1, "[1,7]", None),
        (7, "[1,7]", None),
        (0, "[1,7]", "at least 1"),
        (8, "[1,7]", "at most 7"),
        (7.0, "[1,7)", "below 7"),
        (0, "(0,7]", "positive"),
        (-1, "[0,7]", "0 or more"),
        (3, "(3,7]", "above 3"),
        (math.nan, "[-3,7]", "at least -3"),
        (10**400, "[0,7]", "at most 7"),
        (1.0, "[0,1)", "in [0, 1)"),
        (0.999, "[0,1)", None),
    ],
)
def test_intervals(number: float, limits: str, wanted: str | None) -> None:
    assert interval_fault(number, limits) == wanted


@pytest.mark.parametrize(
    "config", [config for config in ALL if config is not DemoConfig], ids=lambda c: c.__name__
)
def test_text_stands_for_a_path_and_a_list_for_a_tuple(config: type[Config]) -> None:
    plain: dict[str, Any] = dict(LEAST.get(config, {}))
    for field in dataclasses.fields(config):
        kind = get_type_hints(config)[field.name]
        if Path in members_of(kind):
            plain.setdefault(field.name, "a/b") if field.metadata["required"] else None
        elif get_origin(kind) is tuple and field.metadata["required"]:
            plain[field.name] = ["a/b"]
    if config is store_config.ImportFeaturesConfig:
        plain["coordinates"] = "c.csv"
    built = config(**plain)
    assert built == config.from_mapping(plain)
    for name, value in plain.items():
        found = getattr(built, name)
        if isinstance(value, list):
            assert found == tuple(map(Path, value))
        elif Path in members_of(get_type_hints(config)[name]):
            assert (found, type(found)) == (Path(value), type(Path()))


def test_text_without_meaning_is_no_path_and_no_text() -> None:
    for wrong in ("", "a\0b"):
        with pytest.raises(ConfigError, match=r"--out-dir must be a local path"):
            SimulateConfig(out_dir=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"--section must be text"):
        PredictConfig(**LEAST[PredictConfig], section="C2\0")


def test_a_folder_in_place_of_a_file_names_its_files(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = EmbedConfig(h5ad=tmp_path / "run", csv=tmp_path / "run", root=tmp_path, store=tmp_path / "new")
    with pytest.raises(MissingInputError, match=r"^Not a file, but a folder: .*/run \(--h5ad\)\. Not a file"):
        config.check_paths()
    for name in ("TODO", "a.json", "C2.csv"):
        (tmp_path / "run" / name).touch()
    with pytest.raises(
        MissingInputError, match=r"\(--csv\)\. Give one of its files, such as .*/run/C2\.csv\.$"
    ):
        config.check_paths()


def test_a_checkpoint_is_its_folder_or_its_file(tmp_path: Path) -> None:
    run = tmp_path / "ckpt" / "finetune"
    run.mkdir(parents=True)
    with pytest.raises(MissingInputError, match=r"^No best\.safetensors in .*/ckpt/finetune \(CKPT\)\.$"):
        ModelConfig(ckpt=run).check_paths()
    (run / "best.safetensors").touch()
    with pytest.raises(MissingInputError, match=r"/ckpt \(CKPT\)\. Did you mean .*/ckpt/finetune\?$"):
        ModelConfig(ckpt=run.parent).check_paths()
    for named in (run, run / "best.safetensors"):
        ModelConfig(ckpt=named).check_paths()


def test_batches_grow_with_the_square_root_of_the_spots() -> None:
    config = FinetuneConfig(store="s", save_dir=Path("o"))
    assert [config.batch_for(n) for n in (2, 2048, 2049, 4096, 102_400)] == [64, 64, 91, 128, 640]
    assert FinetuneConfig(store="s", save_dir=Path("o"), batch_size=7).batch_for(102_400) == 7
