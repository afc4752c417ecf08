"""Reads the page of a report: as a file, and in a browser."""

import base64
import gzip
import html.parser
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from playwright.sync_api import Page, expect

OpenPage = Callable[..., tuple[Page, list[str]]]
READING = 0.03  # two decimals, and 1/508 of a range that is below 10
_WAIT_MS = 30_000


class PageReader(html.parser.HTMLParser):
    """Collects the elements of a page, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.texts: dict[str, str] = {}
        self.now = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.now = dict(attrs).get("id") or "" if tag == "script" else ""

    def handle_data(self, data: str) -> None:
        if self.now:
            self.texts[self.now] = self.texts.get(self.now, "") + data


def unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def click_spot(page: Page, row: int, found: anndata.AnnData) -> None:
    """Click a spot on the last map, at its place in µm, and wait for its values."""
    x, y = found.obsm["spatial_um"][row]
    ranges = "['x', 'y'].map((n) => Bokeh.documents[0].get_model_by_name(n)).map((r) => [r.start, r.end])"
    (left, right), (bottom, top) = page.evaluate(ranges)
    canvas = page.locator(".canvas").last
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.click(
        box["x"] + box["width"] * (x - left) / (right - left),
        box["y"] + box["height"] * (y - top) / (bottom - top),
    )
    expect(page.locator("#spot")).to_contain_text(f"Spot {found.obs_names[row]}, ", timeout=_WAIT_MS)


def reading(page: Page) -> dict[str, str]:
    """Values of the chosen spot."""
    pairs = page.eval_on_selector_all(
        "#values > div", "all => all.map((d) => [d.children[0].textContent, d.children[1].textContent])"
    )
    return dict(pairs)


def choose_gene(page: Page, gene: str) -> None:
    """Search a gene, and wait for its maps."""
    page.fill("#search", gene)
    expect(page.locator("#gene")).to_have_text(gene, timeout=_WAIT_MS)


def compare_spot(page: Page, row: int, found: anndata.AnnData, gene: str) -> None:
    """Compare what the page says of a chosen spot with the file of predictions."""
    values, shown = found[row, gene], reading(page)
    assert page.inner_text("#spot").startswith(f"Spot {found.obs_names[row]}, {gene}: ")
    if "measured" in found.layers:
        assert float(shown["measured"]) == pytest.approx(values.layers["measured"].item(), abs=READING)
    assert float(shown["predicted"]) == pytest.approx(values.X.item(), abs=READING)
    ends = [values.layers[name].item() for name in ("lower", "upper")]
    (interval,) = (text for name, text in shown.items() if name.endswith("interval"))
    assert [float(end) for end in interval.split(" to ")] == pytest.approx(ends, abs=READING)


def check_report(open_page: OpenPage, folder: Path) -> None:
    """Open the report of a folder; read the gene and the spots with the highest variance and predictions."""
    found = anndata.read_h5ad(folder / "predictions.h5ad")
    page, faults = open_page((folder / "report.html").resolve())
    gene = str(found.var_names[np.nanargmax(np.nanvar(found.X, axis=0))])
    choose_gene(page, gene)
    for row in np.argsort(-found[:, gene].X[:, 0])[:2]:
        click_spot(page, int(row), found)
        compare_spot(page, int(row), found, gene)
    assert faults == []
