"""Settings of the documentation. Build it with: pip install '.[docs]' && sphinx-build -W docs site."""

import dataclasses
import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Any, get_type_hints

from sphinx.application import Sphinx
from sphinx.util.rst import escape
from sphinx.util.typing import stringify_annotation
from sphinxcontrib.typer import TyperDirective

from spam.cli.command import as_markdown
from spam.schemas.config import Config

project = "SPAM"
author = "SPAM developers"
copyright = author
version = release = importlib.metadata.version("spam-st")
html_title = f"SPAM {version}"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.typer",
]
exclude_patterns = ["_build", "images"]
default_role = "code"
html_theme = "sphinx_book_theme"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True, "show_toc_level": 2}
html_static_path = ["style"]
html_css_files = ["spam.css"]

myst_heading_anchors = 3
copybutton_selector = "div:not(.cell_output) > div.highlight > pre"

# Signatures as they are written: an object as a default would show its address in memory.
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

# Tutorials are executed, and share one folder. Those on real sections are shown without results where the data is absent.
nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
_DATA = Path(os.environ.get("SPAM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
nb_execution_excludepatterns = [] if _DATA.is_dir() else ["tutorials/instrument-folders.md"]
_REPORTS = {"spam-demo/results/report.html": "first-prediction.html"}


def _make_folder(app: Sphinx) -> None:
    """Make an empty folder for the tutorials, beside the site, and set the environment of the kernels."""
    folder = Path(app.outdir).resolve().parent / "spam-tutorials"
    shutil.rmtree(folder, ignore_errors=True)
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("notebook_startup.py"), startup)
    os.environ["SPAM_TUTORIALS"], os.environ["SPAM_TEST_DATA"] = str(folder), str(_DATA.resolve())
    os.environ["IPYTHONDIR"] = str(folder / "ipython")


def _copy_reports(app: Sphinx, error: Exception | None) -> None:
    """Put the reports that the tutorials made into the site."""
    for source, name in _REPORTS.items():
        made, target = Path(os.environ["SPAM_TUTORIALS"]) / source, Path(app.outdir) / "reports" / name
        if error is None and made.exists():  # not if no tutorial has changed since the last build
            target.parent.mkdir(exist_ok=True)
            shutil.copy(made, target)


class _Commands(TyperDirective):
    """The directive `typer`, with examples as blocks of code."""

    def load_root_command(self, typer_path: str) -> Any:
        """Build the application, and rewrite the help of its commands."""
        root = super().load_root_command(typer_path)
        commands = [root]
        for command in commands:
            commands += getattr(command, "commands", {}).values()
            command.help = as_markdown(command.help or "")
        return root


def _hide_signature(app: Sphinx, what: str, name: str, found: Any, *rest: Any) -> tuple[str, str] | None:
    """Leave the signatures of configurations to the list of their options, which has the same content."""
    return ("(**options)", "") if isinstance(found, type) and issubclass(found, Config) else None


def _list_options(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """List the options of a configuration with the help of the command line."""
    if not (isinstance(found, type) and issubclass(found, Config)):
        return
    kinds = get_type_hints(found)
    for field in dataclasses.fields(found):
        default = "" if field.default in (None, ()) else f" Default: ``{field.default!r}``."
        lines.append(f":param {field.name}: {escape(field.metadata['help'])}.{default}")
        lines.append(f":type {field.name}: {stringify_annotation(kinds[field.name], 'smart')}")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.add_directive("typer", _Commands, override=True)
    app.connect("builder-inited", _make_folder)
    app.connect("build-finished", _copy_reports)
    app.connect("autodoc-process-signature", _hide_signature)
    app.connect("autodoc-process-docstring", _list_options)
