"""Starting up loads no heavy package, measured by what is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import spam

HEAVY = ["anndata", "faiss", "matplotlib", "numpy", "openslide", "pandas", "scipy", "timm", "torch", "zarr"]


def loaded_after(code: str) -> list[str]:
    """Run `code` in a new interpreter, and return the heavy packages that it loaded."""
    script = f"import sys, json\n{code}\nprint('LOADED', json.dumps(sorted(set(sys.modules) & set({HEAVY}))))"
    run = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    line = run.stdout.splitlines()[-1]
    names: list[str] = json.loads(line.removeprefix("LOADED "))
    return names


def command(*arguments: str) -> str:
    """Return code that runs a command and catches its exit."""
    return (
        f"sys.argv = {['spam', *arguments]}\nfrom spam.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code"
    )


def test_start_up_loads_nothing_heavy() -> None:
    lines = [["--help"], ["--version"], ["pretrain", "--help"], ["store", "--help"]]
    code = "\n".join(["import spam; spam.EmbedConfig; dir(spam)", *(command(*line) for line in lines)])
    assert loaded_after(code) == []


def test_public_names_are_importable() -> None:
    for name in spam._MODULE_OF:
        assert getattr(spam, name).__name__ == name


def test_listing_encoders_loads_neither_torch_nor_timm() -> None:
    assert not {"torch", "timm"} & set(loaded_after(command("encoders", "list", "--json")))


def test_an_unknown_encoder_is_reported_without_torch(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("x,y,source_image,spot_id\n")
    options = ["--csv", f"{tmp_path}/map.csv", "--root", str(tmp_path), "--store", f"{tmp_path}/s.zarr"]
    code = command("embed", *options, "--enc-name", "uni_v9").replace("end.code == 0", "end.code == 2")
    assert not {"torch", "timm"} & set(loaded_after(code))


def test_a_wrong_path_in_a_manifest_is_reported_without_torch(tmp_path: Path) -> None:
    (tmp_path / "sections.csv").write_text("section,csv,root\nC2,nosuch.csv,.\n")
    options = ["--manifest", f"{tmp_path}/sections.csv", "--store", f"{tmp_path}/s.zarr"]
    code = command("embed", *options).replace("end.code == 0", "end.code == 2")
    assert not {"torch", "timm"} & set(loaded_after(code))


def test_store_reads_without_torch() -> None:
    assert "torch" not in loaded_after("import spam.store")


def test_the_measurement_works() -> None:
    assert loaded_after("import numpy") == ["numpy"]
