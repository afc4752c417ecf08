"""`spam encoders check`: what is here, what the Hub would give, and what to do where it would not."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_models import HubModels
from pointing import point_at_models

from spam.encoders import build_encoder, check_encoders, encoder_card, require_reachable
from spam.encoders.weight_access import CheckReport, EncoderCheck
from spam.encoders.registry import list_encoders
from spam.encoders.weight_access import find_weights
from spam.errors import EncoderError

# Their weights come with the installation.
HERE = ("efficientnet_lite0_stages", "efficientnet_lite0")


@pytest.fixture
def tiny(hub: HubModels, write_folder: Callable[..., Path]) -> Path:
    """Repositories of four cards, one of them gated; the weights of the tiny model stand in for the real ones."""
    folder = write_folder(hub.folder / "org" / "tiny")
    for name in ("virchow", "phikon", "uni_v1"):
        card = encoder_card(name)
        place = hub.folder / card.source.removeprefix("hf-hub:")
        shutil.copytree(folder, place)
        if card.weights_file:
            (place / "model.safetensors").rename(place / card.weights_file)
        assert card.revision
        hub.revisions.add(card.revision)
    hub.gated |= {"paige-ai/Virchow", "MahmoodLab/uni"}
    return folder


def accesses(report: CheckReport) -> dict[str, str]:
    return {one.name: one.access for one in report.encoders}


def test_each_answer_of_the_hub_is_told_apart(
    hub: HubModels, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = ("virchow", "phikon", "uni_v1", "musk", "efficientnet_lite0")
    expected: dict[str | None, tuple[str, ...]] = {
        None: ("needs token", "open", "needs token", "not found", "here"),
        hub.stranger_token: ("not granted", "open", "not granted", "not found", "here"),
        hub.token: ("granted", "open", "granted", "not found", "here"),
        "hf_old": ("token refused", "token refused", "token refused", "token refused", "here"),
    }
    for token, wanted in expected.items():
        point_at_models(hub, monkeypatch, tmp_path / "cache", token=token)
        found = {name: accesses(check_encoders(name))[name] for name in cards}
        assert found == dict(zip(cards, wanted, strict=True)), token


def test_nothing_is_downloaded_and_sizes_are_those_of_the_files(hub: HubModels, tiny: Path) -> None:
    (phikon,) = check_encoders("phikon").encoders
    size = (tiny / "model.safetensors").stat().st_size
    assert phikon == EncoderCheck(
        name="phikon",
        source="hf-hub:owkin/phikon",
        revision="057cc0295895c2df3dd7681a89680da6015cbefe",
        is_gated=False,
        access="open",
        download_bytes=size,
    )
    assert [exchange.method for exchange in hub.questions] == ["HEAD"]
    assert sum(exchange.sent for exchange in hub.questions) == 0


def test_weights_that_are_here_are_measured_and_nobody_is_asked(hub: HubModels, tiny: Path) -> None:
    build_encoder(encoder_card("hf-hub:org/tiny"), device=torch.device("cpu"))
    hub.forget()
    (found,) = check_encoders("hf-hub:org/tiny").encoders
    assert (found.access, found.download_bytes, found.advice) == ("here", None, "")
    assert found.cached_bytes == (tiny / "model.safetensors").stat().st_size
    assert hub.requests == []


def test_a_local_folder_is_looked_into(hub: HubModels, tiny: Path) -> None:
    (found,) = check_encoders(f"local:{tiny}").encoders
    assert (found.access, found.cached_bytes) == ("here", (tiny / "model.safetensors").stat().st_size)
    card = encoder_card(f"local:{tiny}")
    (tiny / "model.safetensors").unlink()
    with pytest.raises(
        EncoderError, match=r"holds no weights; expected model.safetensors or pytorch_model.bin"
    ):
        require_reachable(card)


def test_all_encoders_are_checked_in_the_order_of_the_registry(hub: HubModels, tiny: Path) -> None:
    report = check_encoders()
    assert [one.name for one in report.encoders] == [card.name for card in list_encoders()]
    assert not report.has_token
    assert not report.is_offline
    assert report.endpoint == hub.url
    assert [one.name for one in report.encoders if not one.advice] == [*HERE, "phikon"]


def test_without_network_the_hub_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubModels(tmp_path) as server:
        point_at_models(server, monkeypatch, tmp_path / "cache", token=None)
    report = check_encoders("kaiko_*")
    assert set(accesses(report).values()) == {"unreachable"}
    assert [bool(one.advice) for one in report.encoders] == [True, False, False, False, False]
    assert "cannot be reached" in report.encoders[0].advice


@pytest.mark.parametrize("status", [429, 503])
def test_one_refusal_of_the_hub_says_nothing_of_the_others(hub: HubModels, tiny: Path, status: int) -> None:
    hub.broken["paige-ai/Virchow"] = status
    report = check_encoders()
    found = accesses(report)
    assert (found["virchow"], found["phikon"], found["uni_v1"]) == ("try later", "open", "needs token")
    (virchow,) = (one for one in report.encoders if one.name == "virchow")
    assert f"answered with status {status}" in virchow.advice


def test_offline_is_explained_once(hub: HubModels, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_weights(encoder_card("phikon"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    report = check_encoders()
    found = accesses(report)
    assert {name for name, access in found.items() if access == "here"} == {*HERE, "phikon"}
    assert set(found.values()) == {"here", "offline"}
    assert report.summary().count("HF_HUB_OFFLINE forbids") == 1


def test_offline_is_said_and_nobody_is_asked(
    hub: HubModels, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    report = check_encoders("phikon")
    assert report.is_offline
    assert accesses(report) == {"phikon": "offline"}
    assert "HF_HUB_OFFLINE forbids" in report.encoders[0].advice
    assert "Hub: not asked, since HF_HUB_OFFLINE is set" in report.summary()
    assert hub.requests == []


def test_a_pattern_that_fits_nothing_is_told_with_the_nearest(hub: HubModels) -> None:
    with pytest.raises(EncoderError, match=r"no encoder 'resnet5'; did you mean 'resnet50'"):
        check_encoders("resnet5")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["virchow", "musk"])
def test_embedding_fails_in_the_same_words_before_it_begins(hub: HubModels, tiny: Path, name: str) -> None:
    (found,) = check_encoders(name).encoders
    with pytest.raises(EncoderError) as caught:
        require_reachable(encoder_card(name))
    assert str(caught.value) == f"encoder {name!r}{found.advice}"
    assert found.advice


def test_what_can_be_had_is_let_through(hub: HubModels, tiny: Path) -> None:
    for name in ("efficientnet_lite0", "phikon", f"local:{tiny}"):
        require_reachable(encoder_card(name))
    hub.forget()
    require_reachable(
        dataclasses.replace(encoder_card("phikon"), source="timm:gcvit_tiny.in1k")
    )  # only timm knows
    assert hub.requests == []


def test_the_summary_reads_as_a_table_with_what_to_do(
    hub: HubModels, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at_models(hub, monkeypatch, tmp_path / "cache", token=hub.stranger_token)
    lines = check_encoders("virchow").summary().splitlines()
    assert lines[0] == "token: there is one"
    assert lines[1] == f"Hub: {hub.url}"
    assert lines[2].split() == ["name", "access", "here", "download"]
    assert lines[3].split() == ["virchow", "not", "granted", "-", "-"]
    assert lines[4].startswith("- encoder 'virchow' is gated, and the account of your token was not granted")
    assert len(lines) == 5


def test_sizes_are_written_with_their_unit() -> None:
    sizes: dict[Any, str] = {
        None: "-",
        0: "0 B",
        999: "999 B",
        1000: "1 kB",
        19_000_000: "19 MB",
        4_540_023_137: "4.5 GB",
    }
    for n_bytes, text in sizes.items():
        one = EncoderCheck(
            name="x", source="x", revision=None, is_gated=False, access="here", cached_bytes=n_bytes
        )
        report = CheckReport(encoders=(one,), has_token=False, is_offline=False, endpoint="x")
        assert report.summary().splitlines()[3].split(maxsplit=2)[2].rsplit(maxsplit=1)[0] == text
    assert report.to_mapping()["encoders"][0]["cached_bytes"] == 4_540_023_137
