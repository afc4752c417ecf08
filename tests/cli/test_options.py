"""Options follow the configurations, and precedence is defaults < file < flags."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import typer

from spam.cli.command import Command, add_command
from spam.cli.commands import ADAPT, MODEL_COMMANDS, PIPELINE, adapt_configs
from spam.cli.options import options_of
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
    sizes: tuple[float, ...] = option((112.0,), "some sizes", limits="(0,999]")
    counts: tuple[int, ...] = option((), "some counts", limits="[0,9]")
    batch_size: int = option(64, "a size", flags=("--img-batch-size",), limits="[1,1000]", panel="Training")
    rate: float = option(0.5, "a rate", limits="(0,9]")
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


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the message of a command line that is refused."""
    assert app_of([])(list(words), standalone_mode=False) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err[:7], shown.err.count("\n")) == ("", "Error: ", 1)
    return shown.err[7:-1]


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


@pytest.mark.parametrize(
    "command", [*PIPELINE, *MODEL_COMMANDS, *STORE_COMMANDS], ids=lambda command: command.name
)
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


NESTED = "batch_size = " + "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (NESTED.encode(), r"recipe.toml \(--config\) is not TOML"),
        (b"batch_size = " + b"7" * 5000, r"recipe.toml \(--config\) is not TOML"),
        (
            b"batch_size = 0x" + b"f" * 5000,
            r"batch_size in .*recipe.toml .* at most 1000, .* about 6021 digits$",
        ),
        (b"batch_size = [[[[[7]]]]]", r"batch_size in .* must be a whole number, not \[\[\[\.\.\.\]\]\]$"),
        (b"rate = inf", r"rate in .* at most 9, not inf$"),
        (b"rate = nan", r"rate in .* positive, not nan$"),
        (b"mode = ['joint']", r"mode in .* must be text, not \['joint'\]$"),
        (b"mode = {joint = 1}", r"mode in .* must be text, not \{'joint': 1\}$"),
        (b"mode = 'spatial'", r"^--mode must be joint or img-gene, not 'spatial'$"),
        (b"folder = 7", r"folder in .* must be a local path, not 7$"),
        (b"names = 'C2,C3'", r"names in .* must be a list, each text, not 'C2,C3'$"),
        (b"names = ['C2', 3]", r"names in .* must be text, not 3$"),
        (b"sizes = [112, 'x']", r"sizes in .* must be a number, not 'x'$"),
        (b"batch-size = 3\nbatch_size = 4", r"given --batch-size twice"),
        ("names = ['C2']".encode("utf-16"), r"is not TOML: 'utf-8' codec"),
        ("names = ['é']".encode("latin-1"), r"is not TOML: 'utf-8' codec"),
        (b"\0\0\0", r"is not TOML"),
        (b"#" * (2 << 20), r"has 2097152 bytes: this is not a file of options"),
        (
            b'folder = "' + b"x" * 100_000 + b'\\u0000"',
            r"folder in .* must be a local path, not 'x+\.\.\.x+.*'$",
        ),
    ],
)
def test_odd_files_of_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_bytes(content)
    message = refusal(capsys, "--config", str(recipe))
    assert re.search(words, message)
    assert len(message) < 500


def test_a_folder_is_no_file_of_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "--config", str(tmp_path))
    assert message == f"Not a file, but a folder: {tmp_path} (--config)."


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_bytes(b"\xef\xbb\xbfbatch_size = 7\r\nnames = ['C2']\r\n")
    assert parse("--config", str(recipe)) == {**DEFAULTS, "batch_size": 7, "names": ["C2"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch-size", "9" * 5000), r"^--batch-size must be a whole number, not '9+\.\.\.9+'$"),
        (("--batch-size", "1" + "0" * 30), r"^--batch-size must be at most 1000, not 10+$"),
        (("--batch-size", "-3"), r"^--batch-size must be at least 1, not -3$"),
        (("--batch-size", "3.0"), r"^--batch-size must be a whole number, not '3.0'$"),
        (("--rate", "nan"), r"^--rate must be positive, not nan$"),
        (("--rate", "1e400"), r"^--rate must be at most 9, not inf$"),
        (
            ("--sizes", "112,inf", "--counts", "x"),
            r"^--sizes .* not inf; --counts must be a whole number, not 'x'$",
        ),
        (("--folder", ""), r"^--folder must be a local path, not ''$"),
    ],
)
def test_odd_values_on_the_command_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    found = refusal(capsys, *words)
    assert re.search(message, found)
    assert len(found) < 300


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("--sizes", "112", "224"), r"--sizes 112,224$"),
        (("--amp", "--names", "C2", "C3", "C4", "--rate", "1"), r"--names C2,C3,C4$"),
        (("--names", "C2", "--batch_size", "7", "8"), r"\(8\)$"),
    ],
)
def test_commas_between_values_are_explained(words: tuple[str, ...], advice: str) -> None:
    with pytest.raises(typer.TyperException) as error:
        parse(*words)
    assert re.search(advice, error.value.format_message())
