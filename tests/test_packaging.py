"""What is installed: one import package from three folders, and nothing else."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"spam": "spam", "spam.cli": "cli", "spam.schemas": "schemas"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Wheel built from a copy of the source, so that no build folder lands in the tree."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    # Without isolation nothing is downloaded; the test extra brings setuptools.
    command = [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def packages_of_the_tree() -> set[str]:
    """Every folder with an ``__init__.py``, under its import name."""
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inner)))
    return found


def test_package_list_equals_the_tree() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert set(settings["packages"]) == packages_of_the_tree()
    assert settings["package-dir"] == FOLDERS


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist()} - {"spam"}
    assert (info.startswith("spam_st-"), info.endswith(".dist-info")) == (True, True)
    expected = {
        "/".join([*package.split("."), *file.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    expected |= {
        "spam/py.typed",
        "spam/encoders/cards.toml",
        "spam/encoders/layouts.toml",
        "spam/evaluation/hest_published.toml",
        *(f"spam/reports/report.{suffix}" for suffix in ("css", "html", "js")),
        "spam/schemas/licences.toml",
    }
    assert {name for name in wheel.namelist() if name.startswith("spam/")} == expected
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "spam = spam.cli:main" in wheel.read(entry).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_faiss_is_required_once_per_platform() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    faiss = sorted(line for line in project["dependencies"] if line.startswith("faiss"))
    assert [line.split(";")[1].strip() for line in faiss] == [
        "sys_platform != 'linux' or platform_machine != 'x86_64'",
        "sys_platform == 'linux' and platform_machine == 'x86_64'",
    ]


def test_the_hosted_workflow_covers_what_is_promised() -> None:
    """It runs `.ci/run`, and installs every Python version that the classifiers name."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert ".ci/run" in [step.get("run") for step in jobs["check"]["steps"]]
    (installed,) = (step["with"]["python-version"] for step in jobs["check"]["steps"] if "with" in step)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = {
        line.rpartition(" ")[2] for line in project["classifiers"] if line.startswith("Programming Language")
    }
    assert set(installed.split()) == promised
    assert set(jobs["newer-python"]["strategy"]["matrix"]["python"]) == promised - {"3.11"}
    assert jobs["macos"]["runs-on"].startswith("macos")


def test_the_citation_names_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
