"""`spam encoders`, and commands on small stores and cohorts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_models import HubModels
from pointing import point_at_models

from spam.encoders import encoder_card
from spam.store import create_store


def test_list(spam: Any) -> None:
    plain = spam("encoders", "list", "virchow*")
    assert [line.split()[0] for line in plain.out.splitlines()] == ["name", "virchow", "virchow2"]
    head, row = spam("encoders", "list", "gigapath").out.splitlines()
    assert head.split() == ["name", "dim", "px", "µm/px", "pooling", "gated", "licence", "source"]
    assert row.split()[:7] == ["gigapath", "1536", "224", "0.5", "cls", "yes", "Apache-2.0"]
    cards = spam("encoders", "list", "--json").json["encoders"]
    assert cards[0] == encoder_card("efficientnet_lite0_stages").to_mapping() | {"kwargs": cards[0]["kwargs"]}


@pytest.mark.parametrize("pattern", ["virchov*", "virchov"])
def test_list_of_nothing_names_the_nearest(spam: Any, pattern: str) -> None:
    none = spam("encoders", "list", pattern)
    assert (none.code, none.out, "'virchow'" in none.err) == (2, "", True)


def test_info(spam: Any) -> None:
    assert spam("encoders", "info", "h-optimus-0", "--json").json["name"] == "hoptimus0"
    assert "dim: 1024" in spam("encoders", "info", "uni_v1").out
    missing = spam("encoders", "info", "uni_v7", "--json")
    assert (missing.code, missing.json["kind"]) == (2, "EncoderError")
    assert "spam encoders list" in spam("encoders", "info").err


def test_check(spam: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubModels(tmp_path) as hub:
        point_at_models(hub, monkeypatch, tmp_path / "cache", token=None)
        found = spam("encoders", "check", "uni_v1", "--json").json
        shown = spam("encoders", "check", "*lite0")
    (uni,) = found.pop("encoders")
    assert found == {"has_token": False, "is_offline": False, "endpoint": hub.url}
    assert (uni["name"], uni["access"]) == ("uni_v1", "not found")
    assert shown.code == 0
    assert spam("encoders", "check", "uni_v7").code == 2


def test_check_uses_the_settings_of_the_hub(tmp_path: Path) -> None:
    card = encoder_card("phikon")
    file = tmp_path / "owkin" / "phikon" / "pytorch_model.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(1234))
    with HubModels(tmp_path) as hub:
        hub.revisions.add(str(card.revision))
        hub.gated.add("owkin/phikon")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": hub.token}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "spam.cli", "encoders", "check", "phikon", "--json"],
            env={**kept, **settings, "NO_PROXY": "127.0.0.1,localhost"},
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout)
    assert (found["has_token"], found["endpoint"]) == (True, hub.url)
    assert [(one["access"], one["download_bytes"]) for one in found["encoders"]] == [("open", 1234)]


def test_store_info_and_ls(spam: Any, tmp_path: Path) -> None:
    assert spam("store", "info").code == 2
    create_store(tmp_path / "s.zarr")
    for name in ("info", "ls"):
        shown = spam("store", name, tmp_path / "s.zarr", "--json").json
        assert (shown["sections"], shown["store"]) == ([], str(tmp_path / "s.zarr"))


def test_simulate_names_the_next_command(spam: Any, tmp_path: Path) -> None:
    sizes = ("--n-donors", 1, "--n-sections", 1, "--n-spots", 13, "--n-genes", 5)
    ran = spam("simulate", "--out-dir", tmp_path / "cohort", *sizes)
    assert ran.code == 0, ran.err
    assert "1 section of 1 donor, 13 spots x 5 genes" in ran.out
    assert f"spam embed --manifest {tmp_path / 'cohort' / 'sections.csv'}" in ran.out
