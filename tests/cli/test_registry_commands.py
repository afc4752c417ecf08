"""`spam encoders` and `spam store info`."""

from typing import Any

from spam.encoders import encoder_card


def test_encoders_list(spam: Any) -> None:
    plain = spam("encoders", "list", "virchow*")
    assert [line.split()[0] for line in plain.out.splitlines()] == ["name", "virchow", "virchow2"]
    cards = spam("encoders", "list", "--json").json["encoders"]
    assert cards[0]["name"] == "efficientnet_lite0"
    assert cards[0] == encoder_card("efficientnet_lite0").to_mapping() | {"kwargs": cards[0]["kwargs"]}


def test_encoders_info(spam: Any) -> None:
    assert spam("encoders", "info", "h-optimus-0", "--json").json["name"] == "hoptimus0"
    assert "dim: 1024" in spam("encoders", "info", "uni_v1").out
    missing = spam("encoders", "info", "uni_v7", "--json")
    assert (missing.code, missing.json["kind"]) == (2, "EncoderError")
    assert "name is missing" in spam("encoders", "info").err


def test_store_info_without_a_store(spam: Any, tmp_path: Any) -> None:
    assert "the store is missing" in spam("store", "info").err
    assert spam("store", "info", tmp_path / "none.zarr", "--json").code == 2


def test_store_info_of_an_empty_store(spam: Any, tmp_path: Any) -> None:
    from spam.store import create_store

    create_store(tmp_path / "s.zarr")
    shown = spam("store", "info", tmp_path / "s.zarr", "--json").json
    assert (shown["sections"], shown["store"]) == ([], str(tmp_path / "s.zarr"))


def test_simulate_says_what_comes_next(spam: Any, tmp_path: Any) -> None:
    sizes = ("--n-donors", 1, "--n-sections", 1, "--n-spots", 13, "--n-genes", 5)
    ran = spam("simulate", "--out-dir", tmp_path / "cohort", *sizes)
    assert ran.code == 0, ran.err
    assert "1 sections of 1 donors, 13 spots x 5 genes" in ran.out
    assert f"spam embed --manifest {tmp_path / 'cohort' / 'sections.csv'}" in ran.out
