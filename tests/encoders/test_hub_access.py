"""Weights on the Hub, served on loopback: downloads, gates, errors, offline; and `spam encoders check`."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_models import COMMIT, HubModels
from pointing import point_at_models

from spam.encoders import build_encoder, check_encoders, encoder_card, list_encoders, require_reachable
from spam.encoders.encoder import Encoder
from spam.encoders.weight_access import CheckReport, EncoderCheck, find_weights
from spam.errors import EncoderError

CPU = torch.device("cpu")
TILES = np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3)


@pytest.fixture
def tiny(hub: HubModels, write_folder: Callable[..., Path]) -> Path:
    """A repository of the Hub with the tiny model."""
    return write_folder(hub.folder / "org" / "tiny")


def built(name: str, revision: str | None = None) -> Encoder:
    return build_encoder(encoder_card(name, revision), device=CPU)


def test_a_model_of_the_hub_gives_the_features_of_its_folder(hub: HubModels, tiny: Path) -> None:
    fetched, local = built("hf-hub:org/tiny"), built(f"local:{tiny}")
    assert fetched.weights_sha256 == local.weights_sha256
    np.testing.assert_array_equal(fetched.embed(TILES), local.embed(TILES))


@pytest.mark.parametrize("is_offline", [False, True])
def test_a_model_that_was_fetched_needs_no_network(
    hub: HubModels, tiny: Path, monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    first = built("hf-hub:org/tiny").embed(TILES)
    hub.forget()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    again = built("hf-hub:org/tiny@main")
    require_reachable(again.card)
    np.testing.assert_array_equal(again.embed(TILES), first)
    assert hub.requests == []


def test_weights_are_asked_for_once_and_fetched_once(hub: HubModels, tiny: Path) -> None:
    built("hf-hub:org/tiny", COMMIT)
    prefix = f"/org/tiny/resolve/{COMMIT}"
    assert set(hub.asked) == {f"{prefix}/config.json", f"{prefix}/model.safetensors"}
    fetched = [exchange.path for exchange in hub.requests if exchange.path.startswith("/cdn")]
    assert fetched == ["/cdn/org/tiny/model.safetensors"]


def test_a_revision_is_where_the_name_or_the_option_says(hub: HubModels, tiny: Path) -> None:
    hub.revisions.add("v2")
    named, given = encoder_card("hf-hub:org/tiny@v2"), encoder_card("hf-hub:org/tiny", "v2")
    assert named == given
    assert (named.name, named.source, named.revision) == ("hf-hub:org/tiny@v2", "hf-hub:org/tiny", "v2")
    built("hf-hub:org/tiny@v2")
    with pytest.raises(EncoderError, match=r"'hf-hub:org/tiny@v2' has no stages"):
        encoder_card("hf-hub:org/tiny@v2+stages")
    assert {path.split("/")[4] for path in hub.asked} == {"v2"}


def test_a_token_opens_a_gated_model(
    hub: HubModels, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add("org/tiny")
    with pytest.raises(EncoderError, match=r"gated.*https://huggingface.co/org/tiny.*hf auth login"):
        built("hf-hub:org/tiny")
    point_at_models(hub, monkeypatch, tmp_path / "cache", token=hub.token)
    assert built("hf-hub:org/tiny").embed(TILES).shape == (3, 24)


LOG_IN, TOKENS = "hf auth login", "huggingface.co/settings/tokens"


@pytest.mark.parametrize(
    ("name", "token", "parts"),
    [
        ("hf-hub:org/gated", None, ("https://huggingface.co/org/gated", LOG_IN)),
        ("hf-hub:org/gated", HubModels.stranger_token, ("https://huggingface.co/org/gated", TOKENS)),
        ("hf-hub:org/gated", "hf_old", ("Invalid credentials", TOKENS)),
        ("hf-hub:org/nowhere", None, ("https://huggingface.co/org/nowhere", LOG_IN)),
        ("hf-hub:org/nowhere", HubModels.token, ("https://huggingface.co/org/nowhere", LOG_IN)),
        ("uni_v1", None, ("https://huggingface.co/MahmoodLab/uni", LOG_IN)),
        ("hf-hub:org/empty", None, ("config.json",)),
        ("hf-hub:org/bare", None, ("pytorch_model.bin",)),
        ("hf-hub:org/down", None, ("status 500", "org/down", "https://status.huggingface.co")),
        ("hf-hub:org/busy", None, ("status 429", "org/busy", LOG_IN)),
        ("hf-hub:org/tiny@v9", None, ("https://huggingface.co/org/tiny", "'v9'", "--revision")),
    ],
)
def test_each_error_names_the_page_and_what_to_do(
    hub: HubModels,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    token: str | None,
    parts: tuple[str, ...],
) -> None:
    for other in ("gated", "bare"):
        shutil.copytree(tiny, hub.folder / "org" / other)
    (hub.folder / "org" / "bare" / "model.safetensors").unlink()
    for other in ("empty", "down", "busy"):
        (hub.folder / "org" / other).mkdir()
    hub.gated.add("org/gated")
    hub.broken |= {"org/down": 500, "org/busy": 429}
    point_at_models(hub, monkeypatch, tmp_path / "cache", token=token)
    with pytest.raises(EncoderError) as caught:
        built(name)
    assert [part for part in (repr(name), *parts) if part not in str(caught.value)] == []
    assert len(hub.questions) <= 5  # no retries


@pytest.mark.parametrize("name", ["hf-hub:org/tiny", "timm:test_vit", "uni_v1"])
@pytest.mark.parametrize("state", ["no network", "portal", "offline"])
def test_an_unreachable_hub_is_reported_at_once(
    hub: HubModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, state: str
) -> None:
    if state == "no network":
        with HubModels(tmp_path / "other") as closed:
            point_at_models(closed, monkeypatch, tmp_path / "cache", token=None)
    hub.is_portal = state == "portal"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", state == "offline")
    words = {"no network": "127.0.0.1", "portal": "is not the Hub", "offline": "HF_HUB_OFFLINE"}[state]
    with pytest.raises(EncoderError, match=rf"'{name}'.*{words}"):
        built(name)
    # Once, because a login page must not be cached as weights; offline not at all.
    assert len(hub.questions) == (state == "portal")


def test_revisions(tiny_folder: Path) -> None:
    assert encoder_card("uni_v1", "main").revision == "main"
    assert encoder_card("timm:test_vit", "v1").revision == "v1"
    for name in ("efficientnet_lite0", f"local:{tiny_folder}"):
        with pytest.raises(EncoderError, match=rf"'{name}'.*--revision 'v1'"):
            encoder_card(name, "v1")
    with pytest.raises(EncoderError, match=r"'hf-hub:org/tiny@v1'.*--revision 'v2'"):
        encoder_card("hf-hub:org/tiny@v1", "v2")


@pytest.fixture
def cards(hub: HubModels, tiny: Path) -> Path:
    """Repositories of three cards, two of them gated; the weights of the tiny model stand in for the real ones."""
    for name in ("virchow", "phikon", "uni_v1"):
        card = encoder_card(name)
        assert card.repository
        assert card.revision
        place = shutil.copytree(tiny, hub.folder / card.repository)
        if card.weights_file:
            (place / "model.safetensors").rename(place / card.weights_file)
        hub.revisions.add(card.revision)
    hub.gated |= {"paige-ai/Virchow", "MahmoodLab/uni"}
    return tiny


def accesses(report: CheckReport) -> dict[str, str]:
    return {one.name: one.access for one in report.encoders}


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (None, ("needs token", "open", "needs token", "not found", "here")),
        (HubModels.stranger_token, ("not granted", "open", "not granted", "not found", "here")),
        (HubModels.token, ("granted", "open", "granted", "not found", "here")),
        ("hf_old", ("token refused",) * 4 + ("here",)),
    ],
)
def test_each_answer_of_the_hub_has_its_verdict(
    hub: HubModels,
    cards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    expected: tuple[str, ...],
) -> None:
    point_at_models(hub, monkeypatch, tmp_path / "cache", token=token)
    names = ("virchow", "phikon", "uni_v1", "musk", "efficientnet_lite0")
    found = tuple(accesses(check_encoders(name))[name] for name in names)
    assert found == expected
    # Embedding fails with the same advice, before it begins.
    for name, access in zip(names, found, strict=True):
        (check,) = (one for one in check_encoders(name).encoders if one.name == name)
        if access in ("here", "open", "granted"):
            require_reachable(encoder_card(name))
            continue
        with pytest.raises(EncoderError) as caught:
            require_reachable(encoder_card(name))
        assert check.advice
        assert str(caught.value) == f"Encoder {name!r}: {check.advice}"


def test_a_check_downloads_nothing(hub: HubModels, cards: Path) -> None:
    size = (cards / "model.safetensors").stat().st_size
    (phikon,) = check_encoders("phikon").encoders
    assert phikon == EncoderCheck(name="phikon", access="open", download_bytes=size)
    assert [exchange.method for exchange in hub.questions] == ["HEAD"]
    assert sum(exchange.sent for exchange in hub.questions) == 0
    find_weights(encoder_card("phikon"))
    hub.forget()
    (phikon,) = check_encoders("phikon").encoders
    assert (phikon.access, phikon.cached_bytes, phikon.download_bytes) == ("here", size, None)
    (local,) = check_encoders(f"local:{cards}").encoders
    assert (local.access, local.cached_bytes) == ("here", size)
    # known to timm only
    require_reachable(dataclasses.replace(encoder_card("phikon"), source="timm:x", hub_id=None))
    assert hub.requests == []


@pytest.mark.parametrize("status", [429, 503])
def test_all_encoders_are_checked_although_one_request_fails(
    hub: HubModels, cards: Path, status: int
) -> None:
    hub.broken["paige-ai/Virchow"] = status
    report = check_encoders()
    assert [one.name for one in report.encoders] == [card.name for card in list_encoders()]
    found = accesses(report)
    assert (found["virchow"], found["phikon"], found["uni_v1"]) == ("try later", "open", "needs token")
    assert (report.has_token, report.is_offline, report.endpoint) == (False, False, hub.url)


def test_an_unreachable_hub_is_asked_and_explained_once(
    hub: HubModels, cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_weights(encoder_card("phikon"))
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        report = check_encoders()
    here = {"efficientnet_lite0_stages", "efficientnet_lite0", "phikon"}
    assert {name for name, access in accesses(report).items() if access == "here"} == here
    assert set(accesses(report).values()) == {"here", "offline"}
    assert report.is_offline
    assert report.summary().count("is not in the local cache") == 1
    hub.is_portal = True
    hub.forget()
    report = check_encoders("kaiko_*")
    assert set(accesses(report).values()) == {"unreachable"}
    assert [bool(one.advice) for one in report.encoders] == [True, False, False, False, False]
    assert len(hub.questions) == 1


def test_the_summary_is_a_table_with_advice(
    hub: HubModels, cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at_models(hub, monkeypatch, tmp_path / "cache", token=hub.stranger_token)
    lines = check_encoders("virchow").summary().splitlines()
    assert lines[1] == f"Hub: {hub.url}"
    assert [line.split() for line in lines[2:4]] == [
        ["name", "access", "here", "download"],
        ["virchow", "not", "granted", "-", "-"],
    ]
    assert lines[4].startswith("- virchow: ")
    assert len(lines) == 5
    (one,) = check_encoders("virchow").encoders
    sizes = {0: "0 MB", 19_000_000: "19 MB", 4_540_023_137: "4.5 GB"}
    for n_bytes, text in sizes.items():
        found = dataclasses.replace(one, cached_bytes=n_bytes)
        report = CheckReport(encoders=(found,), has_token=False, is_offline=False, endpoint="x")
        assert report.summary().splitlines()[3].split("granted")[1].split("  ")[1] == text
    assert report.to_mapping()["encoders"][0]["cached_bytes"] == 4_540_023_137


def put_into_cache(hub_cache: Path, repository: str, commit: str, *, has_blobs: bool = True) -> Path:
    """Lay out a repository as the Hub's client caches it: links from a commit to files named by their digest."""
    folder = hub_cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for path in (folder / "blobs", folder / "refs", snapshot):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    for number, name in enumerate(("config.json", "pytorch_model.bin")):
        if has_blobs:
            (folder / "blobs" / str(number)).write_bytes(b"{}")
        (snapshot / name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


@pytest.mark.parametrize(
    ("cached", "words"),
    [
        ([("MahmoodLab/uni", "0" * 40, True)], rf"commit {'0' * 40}, not b55a5ec.* --revision {'0' * 40}\."),
        (
            [("mahmoodlab/UNI", "0" * 40, True)],
            r"another spelling.*mv .*mahmoodlab--UNI .*/models--MahmoodLab--uni$",
        ),
        (
            [("MahmoodLab/uni", "1" * 40, False)],
            rf"{'1' * 40}/pytorch_model.bin is a link .* gone\. Copy all of",
        ),
        (
            [("MahmoodLab/uni", "1" * 40, False), ("mahmoodlab/uni", "2" * 40, True)],
            r"mv .*/models--mahmoodlab--uni ",
        ),
        (
            [("MahmoodLab/uni2-h", "0" * 40, True)],
            r"MahmoodLab/uni is not in the local cache, and HF_HUB_OFFLINE",
        ),
    ],
)
def test_what_the_cache_has_instead_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: list[tuple[str, str, bool]], words: str
) -> None:
    for repository, commit, has_blobs in cached:
        put_into_cache(tmp_path, repository, commit, has_blobs=has_blobs)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (check,) = check_encoders("uni_v1").encoders
    assert check.access == "offline"
    assert re.search(words, check.advice)
    with pytest.raises(EncoderError, match=words):
        require_reachable(encoder_card("uni_v1"))
