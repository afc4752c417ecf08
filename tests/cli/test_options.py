"""Options follow the configurations, and precedence is defaults < file < flags."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
import typer

from spam.cli.app import build_app
from spam.cli.command import Command, add_command
from spam.cli.commands import ADAPT, PIPELINE, adapt_configs
from spam.cli.options import Option, options_of
from spam.cli.store_commands import STORE_COMMANDS
from spam.errors import ConfigError, MissingInputError
from spam.schemas.adapt_config import UNUSED_BY_ADAPT, AdaptConfig
from spam.schemas.config import Config, flag, option
from spam.schemas.embed_config import EmbedConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Small(Config):
    """A configuration with one field of each kind."""

    folder: Path | None = option(None, "a folder")
    names: tuple[str, ...] = option((), "some names")
    sizes: tuple[float, ...] = option((112.0,), "some sizes")
    counts: tuple[int, ...] = option((), "some counts")
    batch_size: int = option(64, "a size", flags=("--img-batch-size",), panel="Training")
    rate: float = option(0.5, "a rate")
    amp: bool = option(False, "a switch")
    plots: bool = option(True, "another switch")
    mode: Literal["joint", "img-gene"] = option("joint", "a choice", panel="Model")


def app_of(seen: list[Small]) -> typer.Typer:
    settings = {"token_normalize_func": lambda token: token.replace("_", "-")}
    app = typer.Typer(context_settings=settings, rich_markup_mode=None)

    def work(values: dict[str, Any], progress: object) -> Any:
        seen.append(Small.from_mapping(values))
        return Echo()

    add_command(
        app, Command(name="small", does="Try.", example="spam small", options=options_of(Small), work=work)
    )
    return app


class Echo:
    def summary(self) -> str:
        return ""


def parse(*words: str) -> dict[str, object]:
    """Return the configuration of a command line, as plain values."""
    seen: list[Small] = []
    assert app_of(seen)(list(words), standalone_mode=False) == 0
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
        (("--batch_size=7",), {"batch_size": 7}),
        (("--img_batch_size", "7"), {"batch_size": 7}),
        (("--rate", "2"), {"rate": 2.0}),
        (("--amp", "--no_plots"), {"amp": True, "plots": False}),
        (("--mode", "img-gene"), {"mode": "img-gene"}),
    ],
)
def test_flags_set_fields(words: tuple[str, ...], changed: dict[str, object]) -> None:
    assert parse(*words) == {**DEFAULTS, **changed}


def test_flags_override_the_file_and_the_file_overrides_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('batch-size = 5\nrate = 1\nplots = false\nnames = ["C2", "C3"]\n', encoding="utf-8")
    given = {"batch_size": 5, "rate": 1.0, "plots": False, "names": ["C2", "C3"]}
    assert parse("--config", str(recipe)) == {**DEFAULTS, **given}
    flags = ("--batch-size", "7", "--plots", "--names", "C4")
    wanted = {**given, "batch_size": 7, "plots": True, "names": ["C4"]}
    assert parse("--config", str(recipe), *flags) == {**DEFAULTS, **wanted}


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("bach_size = 3\nzzz = 1\n", ConfigError, ("spam small", "'bach_size'", "'batch_size'", "'zzz'")),
        ("epochs 3", ConfigError, ("recipe.toml (--config)",)),
        (None, MissingInputError, ("recipe.toml (--config)",)),
    ],
)
def test_faults_of_a_file(
    tmp_path: Path, spam: Any, text: str | None, kind: type, words: tuple[str, ...]
) -> None:
    from spam.cli.options import read_recipe

    recipe = tmp_path / "recipe.toml"
    if text is not None:
        recipe.write_text(text, encoding="utf-8")
    with pytest.raises(kind) as error:
        read_recipe(recipe, options_of(Small), command="small")
    assert all(word in str(error.value) for word in words)


def test_adapt_takes_the_options_of_training_and_of_tiles() -> None:
    offered = {option.name for option in ADAPT.options}
    training = {field.name for field in dataclasses.fields(AdaptConfig)}
    assert training - offered == set(UNUSED_BY_ADAPT)
    assert {"csv", "root", "h5ad", "manifest", "tile_px", "mpp", "skip_bad_tiles"} <= offered
    assert not {"chunk_rows", "overview", "compile", "lora"} & offered
    given = {"store": "s", "save_dir": "x", "csv": "t", "root": "r", "tile_um": (3.0,), "num_workers": 5}
    config, tiles = adapt_configs({**given, "lora_r": 3, "batch_size": 7, "device": "cpu"})
    assert (config.lora_r, config.batch_size, config.tile_um, config.num_workers) == (3, 7, (3.0,), 5)
    assert (tiles.csv, tiles.tile_um, tiles.num_workers) == (Path("t"), (3.0,), 5)
    default = EmbedConfig(store=Path("s"), csv=Path("t"), root=Path("r"))
    assert (config.store, tiles.store) == (Path("s"), Path("s"))
    assert (tiles.batch_size, tiles.device) == (default.batch_size, default.device)


@pytest.mark.parametrize("command", [*PIPELINE, *STORE_COMMANDS], ids=lambda command: command.name)
def test_every_option_has_one_flag_and_help(command: Command) -> None:
    flags = [name for option in command.options for name in (flag(option.name), *option.flags)]
    flags += ["--config", "--json"]
    assert len(flags) == len(set(flags))
    assert all(option.help for option in command.options)


def test_help(spam: Any) -> None:
    for command in PIPELINE:
        _, title, example, *_ = spam(command.name, "--help").out.split("\n\n")
        assert (title.strip(), example.strip().startswith(f"spam {command.name}")) == ("Example:", True)
    embed = " ".join(spam("embed", "--help").out.split())
    assert "[default: efficientnet_lite0_stages]" in embed
    assert "[default: on]" in embed
    predict = " ".join(spam("predict", "--help").out.split())
    assert predict.count("(default: as in the checkpoint)") == 3
    finetune = spam("finetune", "--help").out
    assert finetune.index("--epochs") < finetune.index("\nLab files:\n") < finetune.index("--h5ad")


def test_options_are_listed_by_panel(capsys: pytest.CaptureFixture[str]) -> None:
    app_of([])(["--help"], standalone_mode=False)
    text = capsys.readouterr().out
    places = [
        text.index(word) for word in ("Training:", "--batch-size", "Model:", "--mode", "Options:", "--rate")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("kind", "scalar"),
    [
        (int, int),
        (int | None, int),
        (Path | None, Path),
        (Path | str | None, str),
        (tuple[float, ...], float),
        (tuple[Path | str, ...], str),
        (Literal["a", "b"], Literal["a", "b"]),
        (tuple[Literal["a", "b"], ...], Literal["a", "b"]),
    ],
)
def test_scalar_of_kinds(kind: Any, scalar: Any) -> None:
    assert Option(name="x", kind=kind, default=None, help="x").scalar == scalar


def test_commands_are_complete() -> None:
    group = typer.main.get_command(build_app())
    assert set(group.commands) >= {
        "embed",
        "pretrain",
        "finetune",
        "predict",
        "inference",
        "encoders",
        "store",
    }
    assert set(group.commands["store"].commands) == {command.name for command in STORE_COMMANDS}
