"""What all configurations share: plain mappings there and back, faults all at once, digests of what matters."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from spam.errors import ConfigError
from spam.schemas.config import Config, check, flag
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.graph_config import GraphConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.simulate_config import DemoConfig, SimulateConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig

# The least that each configuration needs.
LEAST: dict[type[Config], dict[str, Any]] = {
    EmbedConfig: {"store": "s.zarr", "csv": "t.csv", "root": "images"},
    GraphConfig: {"store": "s.zarr"},
    PretrainConfig: {"store": "s.zarr", "save_dir": "pre"},
    FinetuneConfig: {"store": "s.zarr", "save_dir": "fine"},
    PredictConfig: {"store": "s.zarr", "ckpt": "c.safetensors", "out_dir": "out"},
    SimulateConfig: {"out_dir": "cohort"},
    DemoConfig: {},
}
# What else a field's other value needs; --csv must go.
NEEDS: dict[tuple[type[Config], str], dict[str, Any]] = {
    (EmbedConfig, "manifest"): {},
    (EmbedConfig, "tiles"): {},
    (EmbedConfig, "stride_um"): {"tiles": "grid"},
}
CONFIGS = pytest.mark.parametrize("config", LEAST, ids=lambda config: config.__name__)


def changed(config: type[Config], name: str) -> Any:
    """Another value for a field, one that the configuration accepts."""
    kind = get_type_hints(config)[name]
    default = next(field.default for field in dataclasses.fields(config) if field.name == name)
    members = [kind for kind in get_args(kind) if kind not in (type(None), Ellipsis)]
    scalar = members[0] if members and get_origin(kind) is not Literal else kind
    if name == "shard":
        return "2/3"
    if name == "n_neighbours":  # at most k
        return 4
    if kind is bool:
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
def test_mapping_there_and_back(config: type[Config]) -> None:
    for field in dataclasses.fields(config):
        values = {**LEAST[config], field.name: changed(config, field.name)}
        if (config, field.name) in NEEDS:
            values = {
                "store": "s.zarr",
                "root": "images",
                **NEEDS[config, field.name],
                field.name: values[field.name],
            }
        made = config.from_mapping(values)
        assert config.from_mapping(made.to_mapping()) == made
        assert made.to_mapping()[field.name] == changed(config, field.name)


@CONFIGS
def test_every_field_changes_the_digest_unless_left_out(config: type[Config]) -> None:
    base = config.from_mapping(LEAST[config])
    for field in dataclasses.fields(config):
        values = {**LEAST[config], field.name: changed(config, field.name)}
        if (config, field.name) in NEEDS:
            continue  # needs another option to come or go: two changes
        other = config.from_mapping(values)
        assert base.digest() != other.digest(), field.name
        assert base.digest(leave_out=[field.name]) == other.digest(leave_out=[field.name])


def test_digest_knows_no_difference_between_1_and_1_0() -> None:
    least = LEAST[SimulateConfig]
    assert (
        SimulateConfig.from_mapping({**least, "mpp": 2}).digest()
        == SimulateConfig.from_mapping({**least, "mpp": 2.0}).digest()
    )


def test_both_spellings_of_a_key() -> None:
    least = LEAST[PretrainConfig]
    assert PretrainConfig.from_mapping({**least, "batch-size": 7}) == PretrainConfig.from_mapping(
        {**least, "batch_size": 7}
    )


def test_unknown_keys_name_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"PretrainConfig has no option 'epoch' \(did you mean 'epochs'\?\), 'q'; it"
    ):
        PretrainConfig.from_mapping({**LEAST[PretrainConfig], "epoch": 3, "q": 1})


def test_all_wrong_types_at_once() -> None:
    wrong = {**LEAST[PretrainConfig], "epochs": "many", "amp": 1, "mode": "gene"}
    words = (
        r"--epochs must be a whole number, not 'many'; --amp must be true or false, not 1; "
        r"--mode must be joint, img-gene or img-coord, not 'gene'"
    )
    with pytest.raises(ConfigError, match=words):
        PretrainConfig.from_mapping(wrong)


def test_check_lists_every_fault() -> None:
    check([None, ""])
    with pytest.raises(ConfigError, match=r"^one; two$"):
        check([None, "one", "", "two"])


def test_flag() -> None:
    assert flag("n_top_genes") == "--n-top-genes"


@pytest.mark.parametrize(
    ("config", "values", "words"),
    [
        (EmbedConfig, {"store": None}, "--store is missing"),
        (EmbedConfig, {"csv": None}, "--manifest, or --csv and --root"),
        (EmbedConfig, {"manifest": Path("m.csv")}, "leave out those options"),
        (EmbedConfig, {"batch_size": 0}, "--batch-size must be at least 1, not 0"),
        (EmbedConfig, {"num_workers": -1}, "--num-workers must not be negative, not -1"),
        (EmbedConfig, {"chunk_rows": 0}, "--chunk-rows must be at least 1, not 0"),
        (EmbedConfig, {"store": "s3://b/s.zarr"}, "--store must be a folder.*'s3://b/s.zarr'.*spam store push"),
        (GraphConfig, {"store": "hf://datasets/o/n"}, "--store must be a folder.*'hf://datasets/o/n'"),
        (EmbedConfig, {"mpp": 0.0}, "--mpp must be a positive"),
        (EmbedConfig, {"tile_um": (1.0,), "tile_px": (3,)}, "--tile-um or --tile-px, not both"),
        (EmbedConfig, {"tile_um": (0.0,)}, "--tile-um must be positive, not 0.0"),
        (EmbedConfig, {"tile_px": (-3,)}, "--tile-px must be positive, not -3"),
        (PretrainConfig, {"save_dir": None}, "--save-dir is missing"),
        (PretrainConfig, {"epochs": 0}, "--epochs must be positive, not 0"),
        (PretrainConfig, {"lr": float("nan")}, "--lr must be positive, not nan"),
        (PretrainConfig, {"batch_size": 1}, "--batch-size must be at least 2"),
        (PretrainConfig, {"dropout": 1.0}, r"--dropout must be in \[0, 1\), not 1.0"),
        (PretrainConfig, {"weight_decay": -0.1}, "--weight-decay must not be negative"),
        (PretrainConfig, {"proj_dim": 0}, "--proj-dim must be positive"),
        (PretrainConfig, {"temperature": 0.0}, "--temperature must be positive"),
        (PretrainConfig, {"mixing": 1.5}, r"--mixing must be in \[0, 1\], not 1.5"),
        (FinetuneConfig, {"heads": 7}, "--heads must divide --fuse-dim, not 7 into 128"),
        (FinetuneConfig, {"heads": 0}, "--heads must divide"),
        (FinetuneConfig, {"n_neighbours": 1}, "--n-neighbours must be from 2 to --k 8, not 1"),
        (FinetuneConfig, {"n_references": 1}, "--n-references must be at least 2, not 1"),
        (PredictConfig, {"ckpt": None}, "--ckpt is missing"),
        (PredictConfig, {"out_dir": None}, "--out-dir is missing"),
        (PredictConfig, {"coverage": 1.0}, r"--coverage must be in \(0, 1\), not 1.0"),
        (PredictConfig, {"depth": 0.0}, "--depth must be positive, not 0.0"),
        (PredictConfig, {"batch_size": 0}, "--batch-size must be at least 1"),
        (SimulateConfig, {"out_dir": None}, "--out-dir is missing"),
        (SimulateConfig, {"n_spots": 0}, "--n-spots must be at least 1, not 0"),
        (SimulateConfig, {"depth": 0.0}, "--depth must be positive"),
        (SimulateConfig, {"signal": -1.0}, "--signal must not be negative"),
        (SimulateConfig, {"hidden": -1.0}, "--hidden must not be negative"),
        (SimulateConfig, {"null_share": 1.2}, r"--null-share must be in \[0, 1\], not 1.2"),
        (PretrainConfig, {"seed": -1}, "--seed must not be negative, not -1"),
        (SimulateConfig, {"seed": -3}, "--seed must not be negative, not -3"),
        (DemoConfig, {"seed": -3}, "--seed must not be negative, not -3"),
        (FinetuneConfig, {"n_neighbours": 9, "k": 7}, "--n-neighbours must be from 2 to --k 7, not 9"),
        (GraphConfig, {"store": None}, "--store is missing"),
        (GraphConfig, {"k_spatial": 0}, "--k-spatial must be at least 1"),
    ],
)  # fmt: skip
def test_faults_name_the_flag(config: type[Config], values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.from_mapping({**LEAST[config], **values})
