"""Starting up loads no heavy package: measured by what is loaded, not by the clock."""

import json
import subprocess
import sys

import pytest

HEAVY = ["anndata", "faiss", "matplotlib", "numpy", "openslide", "pandas", "scipy", "timm", "torch", "zarr"]


def loaded_after(code: str) -> list[str]:
    """Run `code` in a fresh interpreter, and name the heavy packages that it loaded."""
    script = f"import sys, json\n{code}\nprint('LOADED', json.dumps(sorted(set(sys.modules) & set({HEAVY}))))"
    run = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    line = run.stdout.splitlines()[-1]
    names: list[str] = json.loads(line.removeprefix("LOADED "))
    return names


def command(*arguments: str) -> str:
    """Write the code that runs a command and survives its exit."""
    return (
        f"sys.argv = {['spam', *arguments]}\nfrom spam.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import spam; spam.EmbedConfig; dir(spam)",
        "import spam.cli",
        command("--help"),
        command("--version"),
        command("pretrain", "--help"),
    ],
    ids=["import spam", "import spam.cli", "--help", "--version", "pretrain --help"],
)
def test_start_up_loads_nothing_heavy(code: str) -> None:
    assert loaded_after(code) == []


def test_listing_encoders_loads_neither_torch_nor_timm() -> None:
    assert not {"torch", "timm"} & set(loaded_after(command("encoders", "list", "--json")))


def test_store_reads_without_torch() -> None:
    assert "torch" not in loaded_after("import spam.store")


def test_the_measurement_sees_what_is_loaded() -> None:
    assert loaded_after("import numpy") == ["numpy"]
