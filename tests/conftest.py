"""Fixtures that more than one room uses."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# There is a worker per core; threads of their own would only be in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A thread that waits in a busy loop keeps the one it waits for from its core: two took 8 to 20 times as long as one.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Processes that tests start would compile all of the package each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Slow references and small cohorts of known content, importable from every test.
sys.path.insert(0, str(Path(__file__).resolve().parent / "reference"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "servers"))  # the servers on loopback, likewise


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real sections; tests that need it skip with a reason where it is absent (CI: that is a failure)."""
    folder = Path(os.environ.get("SPAM_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / "her2st" / "C2.h5ad").exists():
        reason = f"real data not found in {folder} (set SPAM_TEST_DATA)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Headless Chromium; tests that need it skip with a reason where there is none."""
    named = os.environ.get("SPAM_TEST_BROWSER")
    found = named or next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium found (name one with SPAM_TEST_BROWSER)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., tuple["Page", list[str]]]]:
    """Open a report; return it, and a list of what it should not have done."""
    contexts = []

    def opened(path: Path, scheme: str = "light") -> tuple["Page", list[str]]:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(90_000)
        page, faults = context.new_page(), list[str]()
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(r.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda m: faults.append(m.text) if m.type in ("error", "warning") else None)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]", state="attached")
        return page, faults

    yield opened
    for context in contexts:
        context.close()
