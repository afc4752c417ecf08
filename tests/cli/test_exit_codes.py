"""Exit codes and output streams: 0 done, 1 bug, 2 user error, 130 interrupted."""

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from cohorts import make_cohort
from training_runs import finetuning

from spam.cli.command import Command, add_command
from spam.errors import ConfigError
from spam.progress import Advance, Progress
from spam.schemas.store_config import PackConfig
from spam.store.packing import pack
from spam.training import finetune


class Report:
    """A report with numbers that JSON does not have."""

    def to_mapping(self) -> dict[str, Any]:
        return {"value": 3, "nan": math.nan, "deep": [{"infinite": -math.inf}], "pair": (1.5, "x")}

    def summary(self) -> str:
        return "three"


def run(work: Any, *words: str, **settings: Any) -> int:
    app = typer.Typer()
    add_command(app, Command(name="try", does="Try.", example="spam try", options=(), work=work, **settings))
    code: int = app(list(words), standalone_mode=False)
    return code


def chatty(values: dict[str, Any], progress: Progress) -> Report:
    print("printed by a library")
    with progress.task("working", 2) as advance:
        advance(2, note="loss 0.1")
    return Report()


def raising(error: BaseException) -> Any:
    def work(values: dict[str, Any], progress: Progress) -> Report:
        raise error

    return work


@pytest.fixture(autouse=True)
def _no_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPAM_DEBUG", raising=False)


def test_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(chatty) == 0
    assert capsys.readouterr() == ("three\n", "printed by a library\n")  # no bars without a terminal
    assert run(chatty, "--json") == 0
    expected = {"value": 3, "nan": None, "deep": [{"infinite": None}], "pair": [1.5, "x"]}
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == expected
    assert run(chatty, exit_code=lambda report: report.to_mapping()["value"]) == 3


STRANGE, SHOWN = (
    "\x1b]0;a\x07 b\x9b31m \u202ec\r \udc80 é\nd",
    "\\x1b]0;a\\x07 b\\x9b31m \\u202ec\\r \\udc80 é\nd\n",
)


def test_terminal_control_characters_are_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strange(Report):
        def summary(self) -> str:
            return STRANGE

    assert run(lambda values, progress: Strange()) == 0
    assert capsys.readouterr().out == SHOWN
    assert run(raising(ConfigError(STRANGE))) == 2
    assert capsys.readouterr().err == f"Error: {SHOWN}"
    monkeypatch.setenv("SPAM_DEBUG", "1")
    assert run(raising(ConfigError(STRANGE))) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_user_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    work = raising(ConfigError("--epochs must be positive, not 0"))
    assert run(work) == 2
    assert capsys.readouterr() == ("", "Error: --epochs must be positive, not 0\n")
    assert run(work, "--json") == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"error": "--epochs must be positive, not 0", "kind": "ConfigError"}
    assert shown.err == ""
    monkeypatch.setenv("SPAM_DEBUG", "1")
    assert run(work) == 2
    assert "Traceback" in capsys.readouterr().err


def test_bugs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(IndexError("off by one"))) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(words in shown.err for words in ("Traceback", "off by one", "bug in spam", "spam doctor"))
    assert run(raising(IndexError("off by one")), "--json") == 1
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["kind"], "Traceback" in shown.err) == ("IndexError", True)
    assert run(raising(FileNotFoundError(errno.ENOENT, "No such file", "spam/data.json"))) == 1


def test_disk_errors_of_libraries_are_user_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """HDF5 and Arrow give the number in the text, others raise an error of their own."""
    hdf5 = "Can't synchronously write data (file write failed: errno = 28, error message = 'No space left on device')"

    def nested(*_: object) -> None:
        try:
            raise OSError(errno.EFBIG, "File too large", "/data/x")
        except OSError as error:
            message = "cannot write"
            raise RuntimeError(message) from error

    assert run(raising(OSError(hdf5))) == 2
    assert capsys.readouterr().err.startswith("Error: No space left on device. Free some space")
    assert run(raising(OSError("[Errno 122] Error writing bytes to file"))) == 2
    assert "Disk quota exceeded" in capsys.readouterr().err
    assert run(nested) == 2
    assert (
        "File too large: /data/x. This shell limits the size of files: see `ulimit -f`"
        in capsys.readouterr().err
    )
    assert run(raising(ValueError("28 spots"))) == 1
    assert run(raising(FileNotFoundError(errno.ENOENT, "No such file", "x"))) == 1


@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO]
)
def test_disk_errors_are_user_errors(capsys: pytest.CaptureFixture[str], code: int) -> None:
    assert run(raising(OSError(code, "refused", "/data/cohort.zarr"))) == 2
    assert capsys.readouterr().err.startswith(f"Error: {os.strerror(code)}: /data/cohort.zarr. ")


def test_a_path_through_a_file_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "store.zarr"
    assert run(lambda values, progress: path.mkdir(), "--json") == 2
    assert str(path) in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_interruption(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(raising(KeyboardInterrupt()), *words) == 130
    shown = capsys.readouterr()
    assert "run the same command again" in (shown.out if words else shown.err)


@pytest.mark.parametrize(
    "words",
    [("embed", "--foo"), ("embedd",), ("pretrain", "--epochs", "few"), ("embed",), ("demo", "nowhere")],
)
def test_wrong_usage(spam: Any, words: tuple[str, ...]) -> None:
    plain = spam(*words)
    assert (plain.code, plain.out, "Error: " in plain.err) == (2, "", True)
    machine = spam(*words, "--json")
    assert (machine.code, set(machine.json)) == (2, {"error", "kind"})


def test_version(spam: Any) -> None:
    ran = spam("--version")
    assert (ran.code, ran.out.startswith("spam-st ")) == (0, True)


class _Interrupted:
    """Progress that is interrupted (Ctrl-C) at one step."""

    def __init__(self, at: int) -> None:
        self.left = at

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        def advance(steps: int = 1, *, note: str = "") -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

        yield advance


SMALL = "--n-top-genes 29 --k 5 --epochs 2 --batch-size 31"
FINETUNE = f"{SMALL} --sections S1,S2,S3 --members 1 --fuse-dim 8 --heads 1 --n-neighbours 4"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort, a packed copy of it, and a checkpoint of three of its sections."""
    folder = tmp_path_factory.mktemp("trained")
    store = make_cohort(folder / "cohort.zarr")
    pack(PackConfig(store=store, out=folder / "packed.zip"))
    sizes = {"members": 1, "fuse_dim": 8, "heads": 1, "attend": "none", "with_bank": False, "epochs": 1}
    finetune(finetuning(store, folder / "fine", sections=("S1", "S2", "S3"), **sizes))
    return folder


@pytest.mark.parametrize(
    "line",
    [
        f"pretrain --store cohort.zarr --save-dir new --proj-dim 8 {SMALL}",
        f"pretrain --store cohort.zarr --save-dir new --proj-dim 8 {SMALL} --overwrite",
        f"finetune --store cohort.zarr --save-dir new {FINETUNE}",
        "predict --store cohort.zarr --section S4 --ckpt fine/best.safetensors --out-dir new --batch-size 11 --no-plots",
        "simulate --out-dir new --n-donors 1 --n-sections 3 --n-spots 13 --n-genes 7",
        "graph --store copied.zarr --k-spatial 3",
        "store export cohort.zarr new",
        "store select cohort.zarr new.zarr --sections S1,S2",
        "store merge new.zarr cohort.zarr",
        "store pack cohort.zarr new.zip",
        "store unpack packed.zip new.zarr",
        "store push cohort.zarr new --i-have-the-right-to-share",
        "store pull file://{here}/cohort.zarr new.zarr",
    ],
)
def test_the_advice_after_an_interruption_works(
    spam: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    for path in trained.iterdir():
        (tmp_path / path.name).symlink_to(path)
    if "copied" in line:
        shutil.copytree(trained / "cohort.zarr", tmp_path / "copied.zarr")
    monkeypatch.chdir(tmp_path)
    words = line.format(here=tmp_path).split()
    with monkeypatch.context() as patch:
        patch.setattr(
            "spam.cli.command.show_progress", lambda console: contextlib.nullcontext(_Interrupted(2))
        )
        first = spam(*words)
    assert first.code in (0, 130), first.err
    advice = first.err.splitlines()[-1].removeprefix("Error: interrupted; ") if first.code else ""
    again = [word for word in words if word != "--overwrite" or "without --overwrite" not in advice]
    again += ["--overwrite"] if "with --overwrite" in advice else []
    if first.code == 130:
        assert "run the same command" in advice
        second = spam(*again)
        assert second.code == 0, (advice, second.err)
