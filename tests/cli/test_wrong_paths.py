"""A wrong path is reported at once: before torch, timm, faiss, zarr or anndata are imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spam.cli.commands import MODEL_COMMANDS, PIPELINE
from spam.cli.store_commands import STORE_COMMANDS
from spam.schemas.config import flag

LAB = "--csv t.csv --root . --save-dir new"
# Command -> one command line per input path; "nosuch" is the wrong one, t.csv exists and the current folder is a store.
FOLDER = (
    "--from nosuch --image t.csv",
    "--from . --image nosuch",
    "--from . --image t.csv --alignment nosuch",
    "--cells nosuch --root .",
    "--csv t.csv --root . --regions nosuch",
)
WRONG = {
    "embed": [
        "--store new --csv t.csv --root . --h5ad nosuch",
        "--store new --csv nosuch --root .",
        "--store new --csv t.csv --root nosuch",
        "--store new --manifest nosuch",
        "--store new --csv t.csv --root . --lora nosuch",
        "--store new --csv t.csv --root nosuch --dry-run",
        "--store new --from nosuch --image t.csv",
        "--store new --from . --image nosuch",
        "--store new --from . --image t.csv --alignment nosuch",
        "--store new --cells nosuch --root .",
        "--store new --csv t.csv --root . --regions nosuch",
    ],
    "check-alignment": [
        "--out-dir new --csv t.csv --root . --h5ad nosuch",
        "--out-dir new --csv nosuch --root .",
        "--out-dir new --csv t.csv --root nosuch",
        "--out-dir new --manifest nosuch",
        *(f"{line} --out-dir new" for line in FOLDER),
    ],
    "import": [
        "nosuch --out-dir new",
        ". --out-dir new --image nosuch",
        ". --out-dir new --alignment nosuch",
    ],
    "adapt": [
        "--store nosuch --save-dir new --csv t.csv --root .",
        "--store . --save-dir new --csv t.csv --root . --h5ad nosuch",
        "--store . --save-dir new --csv nosuch --root .",
        "--store . --save-dir new --csv t.csv --root nosuch",
        "--store . --save-dir new --manifest nosuch",
        "--store . --save-dir new --from nosuch --image t.csv",
        "--store . --save-dir new --from . --image nosuch",
        "--store . --save-dir new --from . --image t.csv --alignment nosuch",
        "--store . --save-dir new --cells nosuch --root .",
        "--store . --save-dir new --csv t.csv --root . --regions nosuch",
    ],
    "graph": ["--store nosuch"],
    "pretrain": [
        "--store nosuch --save-dir new",
        f"{LAB} --h5ad nosuch",
        f"{LAB} --lora nosuch",
        "--manifest nosuch --save-dir new",
        "--csv nosuch --root . --save-dir new",
        "--csv t.csv --root nosuch --save-dir new",
        *(f"{line} --save-dir new" for line in FOLDER),
    ],
    "finetune": [
        "--store nosuch --save-dir new",
        "--store . --save-dir new --pretrained-ckpt nosuch",
        f"{LAB} --h5ad nosuch",
        f"{LAB} --lora nosuch",
        "--manifest nosuch --save-dir new",
        "--csv nosuch --root . --save-dir new",
        "--csv t.csv --root nosuch --save-dir new",
        *(f"{line} --save-dir new" for line in FOLDER),
    ],
    "predict": [
        "nosuch --ckpt t.csv",
        "--store nosuch --ckpt t.csv --out-dir new",
        "--store . --ckpt nosuch --out-dir new",
        "--store . --ckpt t.csv --out-dir new --context-h5ad nosuch",
        "--csv t.csv --root . --ckpt t.csv --out-dir new --h5ad nosuch",
        "--csv t.csv --root . --ckpt t.csv --out-dir new --lora nosuch",
        "--csv nosuch --root . --ckpt t.csv --out-dir new",
        "--csv t.csv --root nosuch --ckpt t.csv --out-dir new",
        *(f"{line} --ckpt t.csv --out-dir new" for line in FOLDER),
    ],
    "benchmark": ["--store nosuch --out-dir new", "--store . --folds nosuch --out-dir new"],
    "hest": ["--bench-data nosuch --out-dir new", "--bench-data . --features nosuch --out-dir new"],
    "demo": ["her2st --data nosuch"],
    "model info": ["nosuch"],
    "model verify": ["nosuch"],
    "model push": ["nosuch new"],
    "store ls": ["nosuch"],
    "store info": ["nosuch"],
    "store verify": ["nosuch"],
    "store merge": ["new . nosuch"],
    "store select": ["nosuch new", ". new --genes-file nosuch"],
    "store pack": ["nosuch"],
    "store unpack": ["nosuch"],
    "store export": ["nosuch new"],
    "export": ["nosuch new"],
    "store import": ["nosuch t.csv", ". nosuch", ". t.csv --coordinates nosuch", ". t.csv --h5ad nosuch"],
    "store push": ["nosuch new"],
}
WRONG["plan"] = [line for line in WRONG["embed"] if "--dry-run" not in line]
COMMANDS = {command.name: command for command in PIPELINE}
COMMANDS |= {f"model {command.name}": command for command in MODEL_COMMANDS}
COMMANDS |= {f"store {command.name}": command for command in STORE_COMMANDS}
SCRIPT = """
import contextlib, io, json, sys
from spam.cli import main
HEAVY = {"torch", "timm", "faiss", "zarr", "anndata", "pandas", "numpy"}
for words in json.loads(sys.argv[1]):
    sys.argv = ["spam", *words]
    out, code = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(out):
            main()
    except SystemExit as end:
        code = end.code
    print(json.dumps([code, json.loads(out.getvalue()), sorted(HEAVY & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, dict[str, str], list[str]]]:
    """Run all command lines in one new process; what each printed and what is loaded after it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "t.csv").write_text("x,y\n")
    (folder / "zarr.json").touch()
    lines = [f"{name} {line}" for name, lines in WRONG.items() for line in lines]
    words = json.dumps([[*line.split(), "--json"] for line in lines])
    run = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, words], cwd=folder, capture_output=True, text=True, check=True
    )
    found = dict(zip(lines, map(json.loads, run.stdout.splitlines()), strict=True))
    assert sorted(path.name for path in Path(folder).iterdir()) == ["t.csv", "zarr.json"]
    return found


@pytest.mark.parametrize("line", [f"{name} {line}" for name, lines in WRONG.items() for line in lines])
def test_a_wrong_path_is_reported_before_heavy_imports(reported: dict, line: str) -> None:
    code, printed, loaded = reported[line]
    assert (code, printed["kind"]) == (2, "MissingInputError"), printed
    assert re.search(rf" not found: nosuch \(({flag_of(line)}|[A-Z]+)\)\.$", printed["error"])
    assert printed["error"].startswith(("File", "Folder", "Store", "Checkpoint"))
    assert loaded == []


def flag_of(line: str) -> str:
    words = line.split()
    return words[words.index("nosuch") - 1]


def test_every_input_path_of_every_command_is_tried() -> None:
    outputs = {"out", "out_dir", "save_dir", "to", "local_cache"}
    for name, command in COMMANDS.items():
        if name in ("inference", "store pull"):  # an alias of predict; an address
            continue
        tried = {flag_of(f"{name} {line}") for line in WRONG.get(name, [])}
        for option in command.options:
            is_path = "Path" in str(option.kind) and option.name not in outputs
            is_new = name in ("embed", "plan") and option.name == "store"
            if is_path and not option.is_argument and not is_new:
                assert flag(option.name) in tried, f"spam {name} {flag(option.name)}"


def test_similar_names_are_suggested(spam, tmp_path: Path) -> None:
    (tmp_path / "C2.h5ad").touch()
    (tmp_path / "t.csv").touch()
    lab = ("--csv", tmp_path / "t.csv", "--root", tmp_path, "--store", tmp_path / "s.zarr")
    ran = spam("embed", "--h5ad", tmp_path / "C22.h5ad", *lab)
    assert ran.err == (
        f"Error: File not found: {tmp_path / 'C22.h5ad'} (--h5ad). Did you mean {tmp_path / 'C2.h5ad'}?\n"
    )
