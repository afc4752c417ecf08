"""The commands of the README and the other pages exist, and the README opens with the commands that CI runs.

The tutorials themselves are executed when CI builds the documentation.
"""

import functools
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

import spam
from spam.cli.app import build_app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = r"^```(?:bash|sh|console|\{code-cell\}\n(?::[^\n]*\n\n?)?%%bash)\n(.*?)^```$"


@functools.cache
def application() -> Any:
    """The application, built once: that takes a tenth of a second."""
    return typer.main.get_command(build_app())


def shell_blocks(text: str) -> list[list[str]]:
    """Lines of each fenced shell block or cell, continued lines joined."""
    blocks = re.findall(SHELL, text, flags=re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ").splitlines() for block in blocks]


def commands_of(page: Path) -> list[list[str]]:
    """Every ``spam ...`` command of a page's shell blocks, split into words."""
    found = []
    for line in (line for block in shell_blocks(page.read_text(encoding="utf-8")) for line in block):
        for part in re.split(r"&&|\|", line):
            words = shlex.split(part.removeprefix("$ "), comments=True)
            if words and Path(words[0]).name == "spam":
                found.append(words[1:])
    return found


def test_readme_opens_with_the_two_lines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = shell_blocks(text)[0]
    assert first == [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/spam demo",
        ".venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ]
    opening = text[: text.index("```")].splitlines()
    assert [line for line in opening if line and not line.startswith("#")] == [opening[2]]


def test_ci_runs_the_readmes_lines() -> None:
    """The script takes both lines from the README; its extraction is run here."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (extract,) = re.findall(r"^mapfile .*$", script, flags=re.MULTILINE)
    shown = subprocess.run(
        ["bash", "-c", f'{extract}\nprintf "%s\\n" "${{lines[@]}}"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown == shell_blocks((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert 'bash -euo pipefail -c "$test_line"' in script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_parse(page: Path) -> None:
    """Every command and option exists; nothing is run."""
    for words in commands_of(page):
        node, rest = application(), list(words)
        while rest and not rest[0].startswith("-") and hasattr(node, "commands"):
            assert rest[0] in node.commands, f"{page.name}: spam {shlex.join(words)}"
            node = node.commands[rest.pop(0)]
        if not hasattr(node, "commands"):
            node.make_context(node.name, rest)


def test_commands_are_found() -> None:
    named = {words[0] for words in commands_of(ROOT / "README.md") if words}
    assert named == {"demo", "doctor", "embed", "finetune", "predict", "report"}
    cells = commands_of(ROOT / "docs" / "tutorials" / "alignment-stage.md")
    assert [words[0] for words in cells] == [
        "demo",
        "pretrain",
        "simulate",
        "embed",
        "pretrain",
        "finetune",
        "benchmark",
    ]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md"])
def test_links_lead_somewhere(name: str) -> None:
    """Links to files of the repository; those between pages of the documentation fail its build."""
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / target).exists()] == []
    assert targets


def test_every_public_name_is_documented() -> None:
    """The page of the Python interface lists each function and configuration of `spam`."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(
        re.findall(r"^\.\. auto(?:function|class|exception):: spam\.(\w+)$", page, flags=re.MULTILINE)
    )
    classes = {
        name for name, found in vars(spam).items() if getattr(found, "__module__", "").startswith("spam.")
    }
    assert listed == {*spam._MODULE_OF, *classes}


def test_the_picture_is_small() -> None:
    (picture,) = (ROOT / "docs" / "images").iterdir()
    assert picture.name in (ROOT / "README.md").read_text(encoding="utf-8")
    assert picture.stat().st_size < 300_000
