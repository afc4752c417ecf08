"""Options follow the configurations, and precedence is defaults < file < flags."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest
import typer

from spam.cli.adapt import ADAPT, adapt_values
from spam.cli.app import COMMANDS, build_app
from spam.cli.command import Command, add_command
from spam.cli.options import Option, gather, options_of
from spam.errors import ConfigError, MissingInputError
from spam.schemas.adapt_config import AdaptConfig
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.config import Config, flag, option
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.graph_config import GraphConfig
from spam.schemas.hest_config import HestConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.simulate_config import DemoConfig, SimulateConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig

CONFIGS = {
    "embed": EmbedConfig,
    "graph": GraphConfig,
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "predict": PredictConfig,
    "inference": PredictConfig,
    "benchmark": BenchmarkConfig,
    "hest": HestConfig,
    "simulate": SimulateConfig,
    "demo": DemoConfig,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Small(Config):
    """A configuration with one field of each kind."""

    folder: Path | None = option(None, "a folder")
    names: tuple[str, ...] = option((), "some names")
    sizes: tuple[float, ...] = option((112.0,), "some sizes")
    counts: tuple[int, ...] = option((), "some counts")
    batch_size: int = option(64, "a size", flags=("--img-batch-size",))
    rate: float = option(0.5, "a rate")
    amp: bool = option(False, "a switch")
    plots: bool = option(True, "another switch")
    mode: Literal["joint", "img-gene"] = option("joint", "a choice")


class Echo:
    """A report that shows the configuration that a command line led to."""

    def __init__(self, config: Small) -> None:
        self.config = config

    def to_mapping(self) -> dict[str, object]:
        return self.config.to_mapping()

    def summary(self) -> str:
        return json.dumps(self.to_mapping())


def parse(*words: str) -> dict[str, object]:
    """Return the configuration that the words of a command line lead to, as plain values."""
    app = typer.Typer(context_settings={"token_normalize_func": lambda token: token.replace("_", "-")})
    seen: list[Small] = []

    def work(values: dict[str, object], progress: object) -> Echo:
        seen.append(Small.from_mapping(values))
        return Echo(seen[0])

    small = Command(name="small", does="Try.", example="spam small", options=options_of(Small), work=work)
    add_command(app, small)
    code = app(list(words), standalone_mode=False)
    assert code == 0
    return seen[0].to_mapping()


DEFAULTS = Small().to_mapping()


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ((), {}),
        (("--folder", "a/b"), {"folder": "a/b"}),
        (("--names", "C2,C3", "--names", "C4"), {"names": ["C2", "C3", "C4"]}),
        (("--names", "C2, C3"), {"names": ["C2", "C3"]}),
        (("--sizes", "112", "--sizes", "224.5"), {"sizes": [112.0, 224.5]}),
        (("--counts", "3,5"), {"counts": [3, 5]}),
        (("--batch-size", "7"), {"batch_size": 7}),
        (("--batch_size", "7"), {"batch_size": 7}),
        (("--batch_size=7",), {"batch_size": 7}),
        (("--img_batch_size", "7"), {"batch_size": 7}),
        (("--rate", "2"), {"rate": 2.0}),
        (("--amp", "--no-plots"), {"amp": True, "plots": False}),
        (("--no_plots",), {"plots": False}),
        (("--mode", "img-gene"), {"mode": "img-gene"}),
    ],
)
def test_flags_set_fields(words: tuple[str, ...], changed: dict[str, object]) -> None:
    assert parse(*words) == {**DEFAULTS, **changed}


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('batch-size = 5\nrate = 1\nplots = false\nnames = ["C2", "C3"]\n', encoding="utf-8")
    given = {"batch_size": 5, "rate": 1.0, "plots": False, "names": ["C2", "C3"]}
    assert parse("--config", str(recipe)) == {**DEFAULTS, **given}
    flags = ("--batch-size", "7", "--plots", "--names", "C4")
    wanted = {**given, "batch_size": 7, "plots": True, "names": ["C4"]}
    assert parse("--config", str(recipe), *flags) == {**DEFAULTS, **wanted}


def gathered(recipe: Path) -> dict[str, object]:
    return gather(options_of(Small), {}, recipe, command="small")


def test_unknown_key_of_a_file_names_the_nearest(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("bach_size = 3\nzzz = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"spam small.*recipe\.toml.*'bach_size' .*'batch_size'.*'zzz'"):
        gathered(recipe)


def test_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"--config .*nowhere\.toml' is not a file"):
        gathered(tmp_path / "nowhere.toml")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("epochs 3", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--config .*recipe\.toml' is not TOML"):
        gathered(recipe)


def test_every_field_is_an_option_with_help_and_default() -> None:
    commands = {command.name: command for command in COMMANDS}
    for name, config in CONFIGS.items():
        offered = {option.name: option for option in commands[name].options}
        for field in dataclasses.fields(config):
            assert offered[field.name].default == field.default, f"spam {name} {flag(field.name)}"
            assert offered[field.name].help, f"spam {name} {flag(field.name)}"


def test_adapt_takes_the_options_of_training_and_of_tiles() -> None:
    offered = {option.name: option.default for option in ADAPT.options}
    fields = {field.name: field.default for field in dataclasses.fields(AdaptConfig)}
    assert {name: default for name, default in fields.items() if name not in offered} == {"n_components": 256}
    assert {name: offered[name] for name in fields if name in offered} == {
        name: default for name, default in fields.items() if name != "n_components"
    }
    given = {
        "store": Path("s"),
        "save_dir": Path("x"),
        "csv": Path("t"),
        "root": Path("r"),
        "tile_um": (3.0,),
    }
    given |= {"num_workers": 5, "lora_r": 3, "batch_size": 7, "stain": "macenko", "device": "cpu"}
    config, tiles = adapt_values(given)
    assert (config.lora_r, config.batch_size, config.tile_um, config.num_workers) == (3, 7, (3.0,), 5)
    assert (tiles.csv, tiles.stain, tiles.tile_um, tiles.num_workers) == (Path("t"), "macenko", (3.0,), 5)
    assert (config.store, tiles.store, tiles.batch_size) == (Path("s"), Path("s"), 64)


def test_no_flag_stands_for_two_options() -> None:
    for command in COMMANDS:
        flags = [name for option in command.options for name in (flag(option.name), *option.flags)]
        flags += ["--config", "--json"]
        assert len(flags) == len(set(flags)), f"spam {command.name}"


def test_help_starts_with_an_example_and_shows_defaults() -> None:
    group = typer.main.get_command(build_app())
    for command in COMMANDS:
        text = group.commands[command.name].help
        assert text.startswith(
            f"Example:\n\n\b\n  spam {command.name}" if command.name != "inference" else "Example:"
        )
    embed = {option.name: option for option in group.commands["embed"].params}
    assert embed["enc_name"].help.endswith("[default: efficientnet_lite0_stages]")
    assert embed["overview"].help.endswith("[default: on]")


def test_scalar_of_kinds() -> None:
    def scalar(kind: object) -> object:
        return Option(name="x", kind=kind, default=None, help="x").scalar

    assert [scalar(k) for k in (int, int | None, Path | None, tuple[float, ...])] == [int, int, Path, float]
    assert scalar(Literal["a", "b"]) == Literal["a", "b"]
    assert scalar(tuple[Literal["a", "b"], ...]) == Literal["a", "b"]
